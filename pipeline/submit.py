"""Turn the test probabilities into the file Kaggle scores.

    python -m pipeline.submit
    python -m pipeline.submit --set submit.threshold=search
    python -m pipeline.submit --upload               hand it to the kaggle client, if that is installed

reads   submissions/<profile>/test.npy, folds/<profile>/oof.npy, data/cache/<source>/
writes  submissions/<profile>/submission.csv.gz: id, rle_mask in the order of sample_submission.csv
"""

import shutil
import subprocess

import numpy as np

from pipeline.salt import artifacts, submission
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import best_threshold
from pipeline.salt.tiles import cache, competition


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(
        __doc__,
        argv,
        lambda p: p.add_argument("--upload", action="store_true", help="submit to Kaggle through its own client"),
    )
    origin, path = lineage.submission(run), run.files.result("submission.csv.gz")
    if artifacts.is_fresh(path, origin) and not run.force:
        artifacts.say_fresh(path)
    else:
        write(run, origin, path)
    if args.upload:
        upload(path, run.profile.name)


def write(run: command.Run, origin: artifacts.Origin, path) -> None:
    tiles, rules = cache.read(run.files), run.profile.submit
    threshold = rules.threshold
    if threshold == "search":
        oof = np.load(run.files.oof(), mmap_mode="r")
        ran = np.flatnonzero(np.isfinite(oof[:, 0, 0]))
        threshold, _ = best_threshold(oof[ran], tiles.masks[ran])
    black = tiles.test_tiles["black"].to_numpy()
    masks = submission.masks(
        np.load(run.files.result("test.npy"), mmap_mode="r"),
        threshold,
        black=black if rules.black_empty else None,
        full_empty=rules.full_empty,
    )
    ids = tiles.test_tiles["id"].tolist()
    empty = float((~masks.any(axis=(1, 2))).mean())
    artifacts.publish(path, origin, lambda tmp: submission.write(tmp, ids, masks), threshold=threshold, empty=empty)
    print(f"submit   {artifacts.shown(path)}: {len(ids)} tiles, probability over {threshold:g}, {empty:.1%} empty")


def upload(path, message: str) -> None:
    if shutil.which("kaggle") is None:
        raise InputError(
            "the kaggle client is not installed; pip install kaggle, or upload "
            f"{artifacts.shown(path)} on https://www.kaggle.com/c/{competition.SLUG}/submit"
        )
    submit = ["kaggle", "competitions", "submit", "-c", competition.SLUG, "-f", str(path), "-m", message]
    if subprocess.run(submit, check=False).returncode:
        raise InputError(f"the kaggle client did not take {artifacts.shown(path)}; what it says stands above")


if __name__ == "__main__":
    command.start(main)
