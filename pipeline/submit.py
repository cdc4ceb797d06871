"""Turn the test probabilities into masks: the file Kaggle scores, and of images of one's own PNG files.

    python -m pipeline.submit
    python -m pipeline.submit --set submit.threshold=search
    python -m pipeline.submit --upload               hand it to the kaggle client, if that is installed

reads   submissions/<run>/test.npy, folds/<run>/oof.npy, data/cache/<source>/
writes  submissions/<run>/submission.csv.gz: id, rle_mask in the order of sample_submission.csv;
        of images of one's own masks.zip: <id>.png, 255 where there is salt, of whole images where they were cut
"""

import shutil
import subprocess

import numpy as np

from pipeline.salt import artifacts, cli, stages, submission
from pipeline.salt.artifacts import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache, competition
from pipeline.salt.tiles.cutting import whole_images


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--upload", action="store_true", help="submit to Kaggle through its own client"),
    )
    if not stages.up_to_date([*[stages.masks(run)] * run.own_data, stages.submission(run)], run.force):
        write(run)
    if args.upload:
        upload(run)


def write(run: Run) -> None:
    """submission.csv.gz, and masks.zip where the images are one's own."""
    product, tiles, rules = stages.submission(run), cache.read(run.files), run.profile.submit
    threshold = rules.threshold
    oof, test = (np.load(path, mmap_mode="r") for path in (run.files.oof, run.files.result("test.npy")))
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


def upload(run: Run) -> None:
    """Hand the submission to the kaggle client. InputError where it is not installed, or refuses."""
    if run.own_data:
        raise InputError("--upload: these are images of your own, and Kaggle scores its own tiles alone")
    path = run.files.result("submission.csv.gz")
    if shutil.which("kaggle") is None:
        raise InputError(
            "the kaggle client is not installed; pip install kaggle, or upload "
            f"{display_path(path)} on https://www.kaggle.com/c/{competition.SLUG}/submit"
        )
    submit = ["kaggle", "competitions", "submit", "-c", competition.SLUG, "-f", str(path), "-m", run.files.run]
    if subprocess.run(submit, check=False).returncode:
        raise InputError(f"the kaggle client did not take {display_path(path)}; what it says stands above")


if __name__ == "__main__":
    cli.start(main)
