"""Prints the state of a run, stage by stage, and all runs with their scores.

python -m pipeline
python -m pipeline --data DIR --profile blog         the flags choose the run, as on every stage
"""

import json
from collections import Counter

from pipeline.salt import artifacts, cli, stages
from pipeline.salt.artifacts import display_path, read_sidecar
from pipeline.salt.run import Run
from pipeline.salt.stages import Product


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    print(f"run      {run.files.run}, profile {run.profile.name}: {run.profile.about} ({run.reason})")
    print(f"data     {display_path(run.data) if run.data else 'the built-in sample'}")
    print(f"out      {run.files.out}\n")
    for command, about, products in stages.table(run):
        print(f"{command:<24} {summarize(products):<22} {about}")
    print_runs(run)
    print(
        "\nrun a stage with the same flags, for example: python -m pipeline.train --phase "
        f"{run.profile.train.phases[0].name} --fold 0; all of them: ./run_all.sh"
    )


def summarize(products: list[Product]) -> str:
    """'done', 'to do', 'out of date', '3 done, of 10'; 'waits' where an input is not made yet."""
    counts = Counter(product.status() for product in products)
    if len(counts) == 1:
        return next(iter(counts))
    words = [f"{counts[status]} {status}" for status in ("done", "out of date", "under way") if counts[status]]
    return f"{', '.join(words)}, of {len(products)}" if words else "to do"


def print_runs(run: Run) -> None:
    """A line for each run below --out: how many trainings it has finished, what it scored."""
    folders = sorted(path.parent for path in (run.files.out / "folds").glob("*/folds.csv"))
    if folders:
        print(f"\n{'run':<24} {'profile':<10} {'trained':<10} {'out of fold':<12} {'test':<8} made")
    for folder in folders:
        sidecar = read_sidecar(folder / "folds.csv") or {}
        trained = [path for path in folder.glob("fold_*/*.csv") if artifacts.sidecar_of(path).exists()]
        trained = [path for path in trained if not path.name.startswith("pseudo_")]
        scores_json = run.files.out / "submissions" / folder.name / "scores.json"
        scores = json.loads(scores_json.read_text()) if read_sidecar(scores_json) else {}
        oof, test = ((scores.get(part) or {}).get("score") for part in ("out_of_fold", "test"))
        print(
            f"{folder.name:<24} {sidecar.get('profile', ''):<10} {len(trained):<10} "
            f"{'' if oof is None else f'{oof:.4f}':<12} {'' if test is None else f'{test:.4f}':<8} "
            f"{scores.get('made', '')}"
        )


if __name__ == "__main__":
    cli.start(main)
