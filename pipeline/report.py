"""Score a run: one page that opens offline, and its numbers as JSON.

    python -m pipeline.report

reads   folds/<run>/folds.csv, oof.npy, fold_<k>/<phase>.csv, submissions/<run>/test.npy, submission.csv.gz,
        data/cache/<source>/
writes  submissions/<run>/report.html, scores.json
"""

import json
import time
from collections.abc import Iterable

from pipeline.salt import artifacts, cli, disk, published, stages
from pipeline.salt.config import profile_named
from pipeline.salt.disk import display_path
from pipeline.salt.overrides import named_settings
from pipeline.salt.product import Product, command_of, up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache

EXAMPLES = 6  # tiles of each kind
SEED = 0  # for the choice of test tiles


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    if not up_to_date(stages.report(run), run.force):
        with disk.making(stages.report(run)[-1].path):
            write(run)
    print_summary(run, published.read_scores(run))


def write(run: Run) -> None:
    """Write scores.json and report.html."""
    from pipeline.salt import submission
    from pipeline.salt.reporting import html, scores

    files, profile, tiles = run.files, run.profile, cache.read(run.files)
    phases = profile.train.phases
    submission_info = stages.submission(run).sidecar()
    threshold = submission_info["threshold"]
    oof, test = published.read_predictions(run, tiles)
    labelled = scores.Predictions(tiles.train_images, oof, tiles.train_masks, threshold, profile.submit)
    unlabelled = scores.Predictions(tiles.test_images, test, tiles.test_truth, threshold, profile.submit)

    oof_tiles = tiles.train_table.assign(fold=published.read_folds(run, tiles)["fold"])
    oof_tiles = scores.score_tiles(oof_tiles[oof_tiles["fold"].isin(run.folds)], labelled)
    test_tiles = tiles.test_table if tiles.test_truth is None else scores.score_tiles(tiles.test_table, unlabelled)
    thresholds = submission.score_thresholds(
        oof_tiles, oof, tiles.train_masks, profile.submit, sorted({*submission.THRESHOLDS, 0.5, threshold})
    )
    histories = {fold: {phase.name: published.read_history(run, fold, phase) for phase in phases} for fold in run.folds}
    trainings = {
        f"train --phase {phase.name}": sidecars(stages.trained(run, fold, phase)["history"] for fold in run.folds)
        for phase in phases
    }
    trained = [sidecar for each in trainings.values() for sidecar in each]
    folds = scores.per_fold(oof_tiles, histories)
    results = {
        "run": files.run,
        "profile": profile.name,
        "about": profile.about,
        "made": time.strftime("%Y-%m-%d"),
        "trained_by": {
            "model": profile.model.name,
            "encoder": profile.model.encoder,
            "first_weights": scores.distinct(each.get("init_from") for each in next(iter(trainings.values()))),
            "precision": scores.distinct(each.get("precision") for each in trained),
            "commit": scores.distinct(each.get("commit") for each in trained),
            "code": scores.distinct(each.get("code") for each in trained),
            "command": command_of(run),
        },
        "data": {
            "source": files.source,
            "labelled": len(tiles.train_masks),
            "test": len(test_tiles),
            "height": tiles.train_masks.shape[1],
            "width": tiles.train_masks.shape[2],
        },
        "folds_ran": list(run.folds),
        "folds_of": profile.folds.k,
        "threshold": threshold,
        "checkpoint": profile.predict.checkpoint,
        "out_of_fold": scores.pooled(oof_tiles)
        | {"at_half": thresholds[0.5]}
        | scores.spread([fold["score"] for fold in folds]),
        "test": None if tiles.test_truth is None else scores.pooled(test_tiles),
        "folds": folds,
        "phases": scores.per_phase(folds),
        "thresholds": {str(threshold): score for threshold, score in thresholds.items()},
        "classes": scores.per_class(oof_tiles),
        "empty": scores.empty_shares(tiles.train_table["coverage"], oof_tiles, submission_info["empty"]),
        **scores.machines(trained),
        "runtime": scores.runtime({**trainings, "predict": sidecars(stages.predictions(run))}),
        "settings": named_settings(profile),
    }
    in_json, in_html = stages.report(run)
    with artifacts.publish(in_json.path, in_json.origin()) as tmp:
        tmp.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")

    some = test_tiles[~test_tiles["black"]]
    examples = {kind: html.pictures(rows, labelled) for kind, rows in scores.examples(oof_tiles, EXAMPLES).items()}
    examples["test"] = html.pictures(some.sample(min(2 * EXAMPLES, len(some)), random_state=SEED), unlabelled)
    defaults = named_settings(profile_named(profile.name, run.own_data))
    text = html.render(results, histories, examples, defaults, real=run.data is not None, own=run.own_data)
    with artifacts.publish(in_html.path, in_html.origin()) as tmp:
        tmp.write_text(text, encoding="utf-8")


def sidecars(products: Iterable[Product]) -> list[dict]:
    return [product.sidecar() for product in products]


def print_summary(run: Run, results: dict) -> None:
    """Print the scores, where submission and report lie, and warnings: the last lines of a run."""
    from pipeline.salt.reporting import scores

    for name, part in [("out of fold", results["out_of_fold"]), ("test", results["test"])]:
        if part:
            print(
                f"{name:<12} {part['score']:.4f} on {part['tiles']:,} tiles "
                f"(empty masks alone: {part['all_empty']:.4f})"
            )
    print(f"{'submission':<12} {display_path(run.files.result('submission.csv.gz'))}")
    print(f"{'report':<12} {display_path(run.files.result('report.html'))}")
    for warning in scores.warnings(results):
        print(f"{'warning':<12} {warning}")


if __name__ == "__main__":
    cli.start(main)
