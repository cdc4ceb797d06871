"""Say how good it is: one page that opens offline, and its numbers.

    python -m pipeline.report

reads   folds/<profile>/folds.csv, oof.npy, fold_<k>/<size>.csv, submissions/<profile>/test.npy, submission.csv.gz,
        data/cache/<source>/
writes  submissions/<profile>/report.html, scores.json
"""

import json
import time

import numpy as np
import pandas as pd

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.artifacts import read_sidecar
from pipeline.salt.cli import Run
from pipeline.salt.config import PROFILES, settings_of
from pipeline.salt.tiles import cache

SHOWN = 6  # tiles of each kind
SEED = 0  # of the test tiles that are shown


def main(argv: list[str] | None = None) -> None:
    run, _ = command.parse(__doc__, argv)
    origin, page, numbers = lineage.report(run), run.files.result("report.html"), run.files.result("scores.json")
    if artifacts.is_fresh(page, origin) and artifacts.is_fresh(numbers, origin) and not run.force:
        artifacts.say_fresh(page)
    else:
        write(run, origin)
    tell(run, json.loads(numbers.read_text()))


def write(run: Run, origin: artifacts.Origin) -> None:
    from pipeline.salt.metrics import PROBABILITY_CUTS
    from pipeline.salt.reporting import html as page
    from pipeline.salt.reporting import scores

    files, profile, tiles = run.files, run.profile, cache.read(run.files)
    sent = read_sidecar(files.result("submission.csv.gz"))
    how = {"threshold": sent["threshold"], "rules": profile.submit}
    labelled = scores.Predictions(tiles.images, np.load(files.oof(), mmap_mode="r"), tiles.masks, **how)
    unlabelled = scores.Predictions(tiles.test, np.load(files.result("test.npy"), mmap_mode="r"), tiles.truth, **how)

    ran = tiles.train_tiles.assign(fold=pd.read_csv(files.folds)["fold"])
    ran = scores.judged(ran[ran["fold"].isin(run.folds)], labelled)
    test = tiles.test_tiles if tiles.truth is None else scores.judged(tiles.test_tiles, unlabelled)
    cuts = scores.at_cuts(ran, labelled, sorted({*PROBABILITY_CUTS, 0.5, sent["threshold"]}))
    sizes = profile.steps
    histories = {fold: {size: pd.read_csv(files.history(fold, size)) for size in sizes} for fold in run.folds}
    folds = scores.per_fold(ran, histories)
    settings, usual = (page.flat(settings_of(p)) for p in (profile, PROFILES[profile.name]))
    found = {
        "profile": profile.name,
        "about": profile.about,
        "made": time.strftime("%Y-%m-%d"),
        "data": {"source": files.source, "labelled": len(tiles.masks), "test": len(test)},
        "folds_ran": list(run.folds),
        "folds_of": profile.folds.k,
        "threshold": sent["threshold"],
        "checkpoint": profile.predict.checkpoint,
        "out_of_fold": scores.pooled(ran) | {"at_half": cuts[0.5]} | scores.spread([fold["score"] for fold in folds]),
        "test": None if tiles.truth is None else scores.pooled(test),
        "folds": folds,
        "sizes": scores.per_size(folds),
        "thresholds": {str(cut): score for cut, score in cuts.items()},
        "classes": scores.per_class(ran),
        "empty": scores.empty_shares(tiles.train_tiles["coverage"], ran, sent["empty"]),
        **scores.machines([read_sidecar(files.history(fold, size)) for fold in run.folds for size in sizes]),
        "settings": settings,
    }
    artifacts.publish(
        files.result("scores.json"),
        origin,
        lambda tmp: tmp.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n"),
    )

    some = test[~test["black"]]
    groups = {kind: page.pictures(rows, labelled) for kind, rows in scores.examples(ran, SHOWN).items()}
    groups["test"] = page.pictures(some.sample(min(2 * SHOWN, len(some)), random_state=SEED), unlabelled)
    html = page.render(found, histories, cuts, groups, usual, real=files.source != command.SAMPLE)
    artifacts.publish(files.result("report.html"), origin, lambda tmp: tmp.write_text(html, encoding="utf-8"))


def tell(run: Run, found: dict) -> None:
    """The last lines of a run."""
    for name, part in [("out of fold", found["out_of_fold"]), ("test", found["test"])]:
        if part:
            print(
                f"{name:<12} {part['score']:.4f} on {part['tiles']:,} tiles "
                f"(empty masks alone: {part['all_empty']:.4f})"
            )
    print(f"{'submission':<12} {artifacts.shown(run.files.result('submission.csv.gz'))}")
    print(f"{'report':<12} {artifacts.shown(run.files.result('report.html'))}")


if __name__ == "__main__":
    command.start(main)
