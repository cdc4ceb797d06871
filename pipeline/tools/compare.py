"""Compare finished runs: settings, scores, seconds, memory, and a paired test over their tiles.

    python -m pipeline.tools.compare demo quick
    python -m pipeline.tools.compare a b c           b and c, each with a
    python -m pipeline.tools.compare a b --data DIR  runs on the tiles in DIR

reads   each run's scores.json, oof.npy, folds.csv and histories; data/cache/<source>/
writes  submissions/compare-a+b.html

Each run is scored with the threshold and the rules of its own submission.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.salt import artifacts, cli, disk, published, stages
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles, cache

EXAMPLES = 6  # tiles shown that gain most, and as many that lose most


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("runs", metavar="RUN", nargs="+", help="name of a finished run; the first is the reference")

    run, args = cli.parse(__doc__, argv, add, ("data", "out"))
    names = args.runs
    if len({*names}) < max(len(names), 2):
        raise InputError(f"{' '.join(names)}: name at least two runs, each once; python -m pipeline lists them")
    for name in names:
        cli.check_run_name(name)
    runs = stages.recorded(run, names)
    compare(runs, cache.read(runs[0].files))


def compare(runs: Sequence[Run], tiles: Tiles) -> None:
    """Print what differs, and write the page."""
    from pipeline.salt.reporting import comparison, html, scores

    names = [run.files.run for run in runs]
    results = [published.read_scores(run) | {"memory": peak_memory(run)} for run in runs]
    predictions = [
        scores.Predictions(
            tiles.train_images,
            published.read_predictions(run, tiles)[0],
            tiles.train_masks,
            result["threshold"],
            run.profile.submit,
        )
        for run, result in zip(runs, results, strict=True)
    ]
    rows = {"numbers": comparison.numbers(results), "settings": comparison.changed_settings(results)}
    print_table(names, rows["numbers"])
    print_table(names, rows["settings"] or [("no setting differs", [""] * len(names))])

    in_all = np.all([published.read_folds(run, tiles)["fold"].isin(run.folds) for run in runs], axis=0)
    table = tiles.train_table[in_all]
    notes = differences_of_data(runs, results, len(table))
    if table.empty:
        raise InputError(
            f"{' and '.join(names)} have predicted no tile in common, so there is nothing to test; run the same folds"
        )
    scored = [scores.score_tiles(table, each) for each in predictions]
    pairs = []
    for i, name in enumerate(names[1:], 1):
        first, second = (scored[run]["score"].to_numpy() for run in (0, i))
        test = comparison.paired(first, second)
        words = comparison.in_words(names[0], name, test)
        print(f"\n{name} - {names[0]}: {test['mean']:+.4f} ± {test['se'] or 0:.4f}, p = {test['p']:.2g}\n{words}")
        pairs.append(
            {
                "second": name,
                "test": test,
                "words": words,
                "classes": comparison.by_class(scored[0]["salt"].to_numpy(), second - first),
                "scores": np.stack([first, second], axis=1),
                "extremes": [
                    [
                        *zip(
                            *(html.pictures(scored[run].loc[rows.index], predictions[run]) for run in (0, i)),
                            strict=True,
                        )
                    ]
                    for rows in comparison.extremes(table, second - first, EXAMPLES)
                ],
            }
        )
    print("\n" + "\n".join([*notes, comparison.ON_TOP]))

    product = stages.comparison(runs)
    with disk.making(product.path), artifacts.publish(product.path, product.origin()) as tmp:
        tmp.write_text(comparison.render(names, rows, notes, pairs), encoding="utf-8")
    print(f"\npage     {display_path(product.path)}")


def differences_of_data(runs: Sequence[Run], results: Sequence[dict], common: int) -> list[str]:
    """Sentences on what the runs do not share: folds, predicted tiles, the machine."""
    notes = []
    if not stages.same_folds(runs):
        notes.append("The folds differ: the models that predict a tile were trained on different tiles.")
    if any(result["out_of_fold"]["tiles"] != common for result in results):
        notes.append(
            f"The runs predicted different tiles: the test uses the {common:,} that all predicted out of fold."
        )
    if len({(result["host"], result["device"]) for result in results}) > 1:
        notes.append("They were trained on different machines: their seconds are not comparable.")
    return notes


def peak_memory(run: Run) -> float:
    """The most memory that any training of this run held, in GiB."""
    trainings = ((fold, phase) for fold in run.folds for phase in run.profile.train.phases)
    return max(published.read_history(run, fold, phase)["memory"].max() for fold, phase in trainings)


def print_table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print the rows with one column per run."""
    first = max(len(what) for what, _ in rows)
    widths = [max(len(name), *(len(values[i]) for _, values in rows)) for i, name in enumerate(names)]
    for what, values in [("", names), *rows]:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        print(f"{what:<{first}}  {'  '.join(cells)}".rstrip())
    print()


if __name__ == "__main__":
    cli.start(main)
