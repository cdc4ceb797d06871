"""Turn the test probabilities into the file Kaggle scores.

    python -m pipeline.submit
    python -m pipeline.submit --set submit.threshold=search
    python -m pipeline.submit --upload               hand it to the kaggle client, if that is installed

reads   submissions/<run>/test.npy, folds/<run>/oof.npy, data/cache/<source>/
writes  submissions/<run>/submission.csv.gz: id, rle_mask in the order of sample_submission.csv
"""

import shutil
import subprocess

import numpy as np

from pipeline.salt import artifacts, cli, stages, submission
from pipeline.salt.artifacts import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache, competition


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--upload", action="store_true", help="submit to Kaggle through its own client"),
    )
    if not stages.up_to_date([stages.submission(run)], run.force):
        with artifacts.making(stages.submission(run).path):
            write(run)
    if args.upload:
        upload(run)


def write(run: Run) -> None:
    """submission.csv.gz."""
    product, tiles, rules = stages.submission(run), cache.read(run.files), run.profile.submit
    oof, test = stages.read_predictions(run, tiles)
    threshold = rules.threshold
    if isinstance(threshold, str):
        oof_tiles = tiles.train_table[np.isfinite(oof[:, 0, 0])]
        threshold = submission.best_threshold(submission.score_thresholds(oof_tiles, oof, tiles.train_masks, rules))
    masks = submission.masks(
        test,
        threshold,
        black=tiles.test_table["black"].to_numpy() if rules.black_empty else None,
        full_empty=rules.full_empty,
    )
    ids, empty = tiles.test_table["id"].tolist(), float((~masks.any(axis=(1, 2))).mean())
    with artifacts.publish(product.path, product.origin(), threshold=threshold, empty=empty) as tmp:
        submission.write(tmp, ids, masks)
    print(f"submit   {display_path(product.path)}: {len(ids)} tiles, probability over {threshold:g}, {empty:.1%} empty")


def upload(run: Run) -> None:
    """Hand the submission to the kaggle client. InputError where it is not installed, or refuses."""
    path = stages.submission(run).file()
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
