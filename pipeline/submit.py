"""Turn the test probabilities into masks: the file Kaggle scores, and of images of one's own PNG files.

    python -m pipeline.submit
    python -m pipeline.submit --set submit.threshold=search
    python -m pipeline.submit --run A --run B        an ensemble of finished runs; docs/how-to/compare.md
    python -m pipeline.submit --upload               hand it to the kaggle client, if that is installed

reads   submissions/<run>/test.npy, folds/<run>/oof.npy, data/cache/<source>/
writes  submissions/<run>/submission.csv.gz: id, rle_mask in the order of sample_submission.csv;
        of images of one's own masks.zip: <id>.png, 255 where there is salt, of whole images where they were cut;
        of an ensemble submissions/A+B/submission.csv.gz, and its weights and scores in the .json beside it
"""

import argparse
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.salt import artifacts, cli, ensemble, stages, submission
from pipeline.salt.artifacts import display_path
from pipeline.salt.config import Submit
from pipeline.salt.errors import InputError
from pipeline.salt.overrides import changed
from pipeline.salt.run import Run
from pipeline.salt.stages import Product
from pipeline.salt.tiles import cache, competition
from pipeline.salt.tiles.cutting import whole_images


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--upload", action="store_true", help="submit to Kaggle through its own client"),
        several_runs=True,
    )
    if run.own_data and args.upload:
        raise InputError("--upload: these are images of your own, and Kaggle scores its own tiles alone")
    if args.run and args.run[1:]:
        runs, rules = runs_to_join(run, args)
        product = stages.ensemble(runs, rules)
        if not stages.up_to_date([product], run.force):
            with artifacts.making(product.path):
                write_ensemble(runs, rules)
        print_ensemble(product)
    else:
        product = stages.submission(run)
        if not stages.up_to_date([*[stages.masks(run)] * run.own_data, product], run.force):
            with artifacts.making(product.path):
                write(run)
    if args.upload:
        upload(product.file())


def write(run: Run) -> None:
    """submission.csv.gz, and masks.zip where the images are one's own."""
    product, tiles, rules = stages.submission(run), cache.read(run.files), run.profile.submit
    oof, test = stages.read_predictions(run, tiles)
    threshold = rules.threshold
    if isinstance(threshold, str):
        oof_tiles = tiles.train_table[np.isfinite(oof[:, 0, 0])]
        threshold = submission.best_threshold(submission.score_thresholds(oof_tiles, oof, tiles.train_masks, rules))
    ids: list[str] = []
    masks: list[np.ndarray] | np.ndarray = []
    if cut := "image" in tiles.table:
        for name, probs in whole_images(tiles, oof, test):
            ids, masks = [*ids, name], [*masks, probs > threshold]
            if unknown := np.isnan(probs).mean():
                print(f"note     {name}: {unknown:.1%} of it is labelled and in folds that were not run; empty there")
    else:
        black = tiles.test_table["black"].to_numpy() if rules.black_empty else None
        ids = tiles.test_table["id"].tolist()
        masks = submission.masks(test, threshold, black=black, full_empty=rules.full_empty)
    if run.own_data:
        in_zip = stages.masks(run)
        with artifacts.publish(in_zip.path, in_zip.origin()) as tmp:
            submission.write_pngs(tmp, ids, masks)
        print(f"submit   {display_path(in_zip.path)}: {len(ids)} masks as PNG")
    empty = sum(not mask.any() for mask in masks) / max(len(masks), 1)
    with artifacts.publish(product.path, product.origin(), threshold=threshold, empty=empty) as tmp:
        submission.write(tmp, ids, masks)
    count = f"{len(ids)} {'images' if cut else 'tiles'}"
    print(f"submit   {display_path(product.path)}: {count}, probability over {threshold:g}, {empty:.1%} empty")


def runs_to_join(run: Run, args: argparse.Namespace) -> tuple[list[Run], Submit]:
    """The finished runs that --run names, and the first one's section submit with what --set changes of it.

    InputError for runs that cannot be joined, and for flags that could only have been meant for a single run.
    """
    names = args.run
    for flag in ("profile", "fold", "model", "encoder", "weights", "add_phase"):
        if getattr(args, flag):
            raise InputError(
                f"--{flag.replace('_', '-')} is of no use with several runs: they are finished; leave it out"
            )
    if len(names) > ensemble.MOST:
        raise InputError(f"--run: an ensemble is of {ensemble.MOST} runs at most, and these are {len(names)}")
    if len({*names}) < len(names):
        raise InputError(f"--run {' --run '.join(names)}: an ensemble is of different runs; name each once")
    runs = [stages.recorded(run, name) for name in names]
    first, profile = runs[0], changed(runs[0].profile, *args.set)
    if replace(profile, submit=first.profile.submit) != first.profile:
        raise InputError("--set with several runs: they are finished, and only submit.* can still be changed")
    if not stages.same_folds(runs):
        raise InputError(
            f"runs {' and '.join(names)} have other folds: a tile that one predicts out of fold, the other has trained "
            "on; give both the same folds.* settings and run one again"
        )
    if "image" in cache.read(run.files).table:
        raise InputError(
            "--run more than once: these images were cut into tiles, and an ensemble does not put them together again; "
            "run them whole (--set tiles.side=whole), or submit one run"
        )
    if len(common_folds(runs)) < 2:
        raise InputError(
            f"runs {' and '.join(names)} have fewer than two folds in common: the weights are found on some and scored "
            "on another; train more"
        )
    return runs, profile.submit


def common_folds(runs: list[Run]) -> set[int]:
    return {*runs[0].folds}.intersection(*(run.folds for run in runs))


def write_ensemble(runs: list[Run], rules: Submit) -> None:
    """submission.csv.gz of all runs together, with the weights that score best on the out-of-fold predictions."""
    product, tiles, names = stages.ensemble(runs, rules), cache.read(runs[0].files), [run.files.run for run in runs]
    oof, test = zip(*(stages.read_predictions(run, tiles) for run in runs), strict=True)
    table = tiles.train_table.assign(fold=stages.read_folds(runs[0], tiles)["fold"])
    table = table[table["fold"].isin(common_folds(runs))]
    (weights, threshold), scores = ensemble.search(table, oof, tiles.train_masks, rules)
    scores["runs"] = {}
    for run, probs in zip(runs, oof, strict=True):
        own = stages.submission(run).sidecar()["threshold"]
        of_run = submission.score_thresholds(table, probs, tiles.train_masks, run.profile.submit, [own])
        scores["runs"][run.files.run] = of_run[own]

    black = tiles.test_table["black"].to_numpy()
    masks = np.empty(tiles.test_images.shape[:3], bool)
    for start in range(0, len(masks), submission.TILES_AT_ONCE):
        part = slice(start, start + submission.TILES_AT_ONCE)
        masks[part] = submission.masks(
            ensemble.blend([probs[part] for probs in test], weights),
            threshold,
            black=black[part] if rules.black_empty else None,
            full_empty=rules.full_empty,
        )
    extra: dict = {"threshold": threshold, "empty": float((~masks.any(axis=(1, 2))).sum() / max(len(masks), 1))}
    extra |= {"weights": dict(zip(names, weights, strict=True)), "out_of_fold": scores}
    with artifacts.publish(product.path, product.origin(), **extra) as tmp:
        submission.write(tmp, tiles.test_table["id"].tolist(), masks)


def print_ensemble(product: Product) -> None:
    """What the sidecar of an ensemble's submission says."""
    made = product.sidecar()
    scores, weights = made["out_of_fold"], made["weights"]
    for name, score in scores["runs"].items():
        print(f"run      {name}: {score:.4f} out of fold on its own, weight {weights[name]:g}")
    print(
        f"ensemble {scores['nested']:.4f} nested: each fold scored with weights found without it, the honest number; "
        f"{scores['chosen']:.4f} with the weights above, which were chosen on the same {scores['tiles']:,} tiles; "
        f"{scores['equal']:.4f} with equal ones"
    )
    print(f"submit   {display_path(product.path)}: probability over {made['threshold']:g}, {made['empty']:.1%} empty")


def upload(path: Path) -> None:
    """Hand the submission to the kaggle client. InputError where it is not installed, or refuses."""
    if shutil.which("kaggle") is None:
        raise InputError(
            "the kaggle client is not installed; pip install kaggle, or upload "
            f"{display_path(path)} on https://www.kaggle.com/c/{competition.SLUG}/submit"
        )
    submit = ["kaggle", "competitions", "submit", "-c", competition.SLUG, "-f", str(path), "-m", path.parent.name]
    if subprocess.run(submit, check=False).returncode:
        raise InputError(f"the kaggle client did not take {display_path(path)}; what it says stands above")


if __name__ == "__main__":
    cli.start(main)
