"""Turn the test probabilities into masks: the file Kaggle scores, and PNG files if the images are your own.

    python -m pipeline.submit
    python -m pipeline.submit --set submit.threshold=search
    python -m pipeline.submit --run A --run B        an ensemble of finished runs; docs/how-to/compare.md
    python -m pipeline.submit --upload               pass it to the kaggle client, which must be installed

reads   submissions/<run>/test.npy, folds/<run>/oof.npy, data/cache/<source>/
writes  submissions/<run>/submission.csv.gz: id, rle_mask in the order of sample_submission.csv;
        for images of your own also masks.zip: <id>.png, 255 where there is salt, whole images even if they were cut;
        for an ensemble the same in submissions/A+B/, with its weights and scores in submission.csv.gz.json
"""

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.salt import artifacts, cli, disk, ensemble, published, stages, submission
from pipeline.salt.config import Submit
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.overrides import changed
from pipeline.salt.parts import slices
from pipeline.salt.product import Product, up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles, cache, competition
from pipeline.salt.tiles.cutting import whole_images


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--upload", action="store_true", help="submit to Kaggle through its own client"),
        several_runs=True,
    )
    if args.upload and (run.own_data or run.data is None):
        whose = "images of your own" if run.own_data else "the built-in sample's tiles"
        raise InputError(f"--upload: these are {whose}, and Kaggle scores only its own tiles; name them with --data")
    if args.run and args.run[1:]:
        runs, rules = runs_to_join(run, args)
        products = stages.ensemble(runs, rules)
        if not up_to_date(products, run.force):
            with disk.making(products[-1].path):
                write_ensemble(runs, rules)
        print_ensemble(products[-1])
    else:
        products = stages.submitted(run)
        if not up_to_date(products, run.force):
            with disk.making(products[-1].path):
                write(run)
    if args.upload:
        upload(products[-1].file())


def write(run: Run) -> None:
    """Write submission.csv.gz, and masks.zip if the images are the user's own."""
    tiles, rules = cache.read(run.files), run.profile.submit
    oof, test = published.read_predictions(run, tiles)
    threshold = rules.threshold
    if isinstance(threshold, str):
        oof_tiles = tiles.train_table[np.isfinite(oof[:, 0, 0])]
        threshold = submission.best_threshold(submission.score_thresholds(oof_tiles, oof, tiles.train_masks, rules))
    write_masks(stages.submitted(run), *masks_of(tiles, [(oof, test)], [1.0], threshold, rules), threshold=threshold)


def masks_of(
    tiles: Tiles,
    predictions: Sequence[tuple[np.ndarray, np.ndarray]],
    weights: Sequence[float],
    threshold: float,
    rules: Submit,
) -> tuple[list[str], np.ndarray | list[np.ndarray]]:
    """Names and masks of the test tiles, (M, H, W) bool; or, if images were cut, of those images, (h, w) each.

    predictions  of each run, from published.read_predictions;  weights  of the runs; they sum to 1
    If images were cut, the rules on masks of whole tiles do not apply.
    """
    if "image" in tiles.table:
        names, images = [], []
        for of_runs in zip(*(whole_images(tiles, oof, test) for oof, test in predictions), strict=True):
            name, probs = of_runs[0][0], ensemble.blend([probs for _, probs in of_runs], weights)
            names.append(name)
            images.append(probs > threshold)
            if unknown := np.isnan(probs).mean():
                print(
                    f"note     {name}: {unknown:.1%} of it belongs to folds that were not run; the mask is empty there"
                )
        return names, images
    black = tiles.test_table["black"].to_numpy()
    masks = disk.zeros(tiles.test_images.shape[:3], np.bool_)
    for part in slices(len(masks), masks.shape[1:]):
        mixed = ensemble.blend([test[part] for _, test in predictions], weights)
        masks[part] = submission.masks(mixed, threshold, rules, black[part])
    return tiles.test_table["id"].tolist(), masks


def write_masks(
    products: Sequence[Product], names: list[str], masks: np.ndarray | list[np.ndarray], *, threshold: float, **extra
) -> None:
    """Write the masks to masks.zip, if it is among the products, and to submission.csv.gz, the last product.

    extra  JSON values for the sidecar of submission.csv.gz
    """
    *in_zip, product = products
    for zipped in in_zip:
        with artifacts.publish(zipped.path, zipped.origin()) as tmp:
            submission.write_pngs(tmp, names, masks)
        print(f"submit   {display_path(zipped.path)}: {len(names)} masks as PNG")
    empty = sum(not mask.any() for mask in masks) / max(len(masks), 1)
    with artifacts.publish(product.path, product.origin(), threshold=threshold, empty=empty, **extra) as tmp:
        submission.write(tmp, names, masks)
    count = f"{len(names)} {'tiles' if isinstance(masks, np.ndarray) else 'images'}"
    print(f"submit   {display_path(product.path)}: {count}, probability over {threshold:g}, {empty:.1%} empty")


def runs_to_join(run: Run, args: argparse.Namespace) -> tuple[list[Run], Submit]:
    """The finished runs that --run names, and the submit settings of the first one, as changed by --set.

    InputError for runs that cannot be joined, and for flags that make sense for a single run only.
    """
    names = args.run
    for flag in ("profile", "fold", "model", "encoder", "weights", "add_phase"):
        if getattr(args, flag):
            raise InputError(f"--{flag.replace('_', '-')} cannot change several finished runs; leave it out")
    if len(names) > ensemble.MOST:
        raise InputError(
            f"--run: an ensemble takes at most {ensemble.MOST} runs, and {len(names)} are named; leave some out"
        )
    if len({*names}) < len(names):
        raise InputError(f"--run {' --run '.join(names)}: an ensemble needs different runs; name each once")
    runs = stages.recorded(run, names)
    first, profile = runs[0], changed(runs[0].profile, *args.set)
    if replace(profile, submit=first.profile.submit) != first.profile:
        raise InputError("--set: of several finished runs only submit.* can be changed; leave the rest out")
    cli.check_rules(profile)
    if not stages.same_folds(runs):
        raise InputError(
            f"runs {' and '.join(names)} have different folds: one was trained on tiles that the other predicts out of "
            "fold; give both the same folds.* settings and run one again"
        )
    if len(common_folds(runs)) < 2:
        raise InputError(
            f"runs {' and '.join(names)} have fewer than two folds in common: the weights are found on some folds and "
            "scored on another; train more folds"
        )
    return runs, profile.submit


def common_folds(runs: list[Run]) -> set[int]:
    return {*runs[0].folds}.intersection(*(run.folds for run in runs))


def write_ensemble(runs: list[Run], rules: Submit) -> None:
    """Write the submission of all runs together, with the weights that score best on the out-of-fold predictions."""
    tiles, names = cache.read(runs[0].files), [run.files.run for run in runs]
    predictions = [published.read_predictions(run, tiles) for run in runs]
    table = tiles.train_table.assign(fold=published.read_folds(runs[0], tiles)["fold"])
    table = table[table["fold"].isin(common_folds(runs))]
    (weights, threshold), scores = ensemble.search(table, [oof for oof, _ in predictions], tiles.train_masks, rules)
    scores["runs"] = {}
    for run, (oof, _) in zip(runs, predictions, strict=True):
        own = stages.submission(run).sidecar()["threshold"]
        of_run = submission.score_thresholds(table, oof, tiles.train_masks, run.profile.submit, [own])
        scores["runs"][run.files.run] = of_run[own]
    write_masks(
        stages.ensemble(runs, rules),
        *masks_of(tiles, predictions, weights, threshold, rules),
        threshold=threshold,
        weights=dict(zip(names, weights, strict=True)),
        out_of_fold=scores,
    )


def print_ensemble(product: Product) -> None:
    """Print the scores and weights from the sidecar of an ensemble's submission."""
    made = product.sidecar()
    scores, weights = made["out_of_fold"], made["weights"]
    for name, score in scores["runs"].items():
        print(f"run      {name}: {score:.4f} out of fold on its own, weight {weights[name]:g}")
    print(
        f"ensemble {scores['nested']:.4f} nested: each fold scored with weights found without it, the unbiased number; "
        f"{scores['chosen']:.4f} with the weights above, which were chosen on the same {scores['tiles']:,} tiles; "
        f"{scores['equal']:.4f} with equal ones"
    )


def upload(path: Path) -> None:
    """Submit the file through the kaggle client. InputError if that is not installed, or refuses."""
    if shutil.which("kaggle") is None:
        raise InputError(
            "the kaggle client is not installed; get it with: pip install kaggle; or upload "
            f"{display_path(path)} on https://www.kaggle.com/c/{competition.SLUG}/submit"
        )
    submit = ["kaggle", "competitions", "submit", "-c", competition.SLUG, "-f", str(path), "-m", path.parent.name]
    if subprocess.run(submit, check=False).returncode:
        raise InputError(f"the kaggle client did not accept {display_path(path)}; its message is above")


if __name__ == "__main__":
    cli.start(main)
