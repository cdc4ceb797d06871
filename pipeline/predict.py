"""Predict every tile: each training tile by the one network that never saw it, each test tile by the mean of all folds.

    python -m pipeline.predict
    python -m pipeline.predict --fold 0 --fold 3     with these folds alone
    python -m pipeline.predict --engine ray          as one task of a Ray cluster

reads   folds/<profile>/fold_<k>/<last size>.safetensors, folds.csv, data/cache/<source>/
writes  folds/<profile>/oof.npy, submissions/<profile>/test.npy: float16 probabilities at 101 px, NaN where no fold ran

All GPUs share the tiles.
"""

import time

import numpy as np
import pandas as pd

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.launch import ENGINES, runs_here
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(__doc__, argv)
    origin, oof, test = lineage.predictions(run), run.files.oof(), run.files.result("test.npy")
    if artifacts.is_fresh(oof, origin) and artifacts.is_fresh(test, origin) and not run.force:
        artifacts.say_fresh(oof)
        artifacts.say_fresh(test)
        return
    if not runs_here(args.engine, 1, 1):
        ENGINES[args.engine]("pipeline.predict", {"all folds": command.job(run, args, run.folds)}, 1)
        return

    from pipeline.salt.device import pick_devices, resolve_precision
    from pipeline.salt.inference import predict_to_file
    from pipeline.salt.training import checkpoints

    tiles, how, devices = cache.read(run.files), run.profile.predict, pick_devices()
    step, size = run.profile.steps[-1], run.profile.train.stages[-1].size
    precision = resolve_precision(run.profile.train.precision, devices[0])
    folds = pd.read_csv(run.files.folds)["fold"].to_numpy()
    network = checkpoints.network(run.profile.model)

    def with_fold(fold: int):
        return checkpoints.load(run.files.checkpoint(fold, step, how.checkpoint), network)

    for path, images, rows_of, title in [
        (oof, tiles.images, lambda fold: np.flatnonzero(folds == fold), "out of fold"),
        (test, tiles.test, lambda fold: np.arange(len(tiles.test)), "test tiles"),
    ]:
        began = time.perf_counter()
        jobs = ((with_fold(fold), rows_of(fold)) for fold in run.folds)
        artifacts.publish(
            path,
            origin,
            lambda tmp, images=images, jobs=jobs, title=title: predict_to_file(
                tmp,
                images,
                jobs,
                title,
                size=size,
                batch=how.batch,
                flip=how.flip,
                precision=precision,
                devices=devices,
            ),
        )
        print(
            f"predict  {artifacts.shown(path)}: {len(images)} tiles, folds {', '.join(map(str, run.folds))}, "
            f"{time.perf_counter() - began:.0f} s"
        )


if __name__ == "__main__":
    command.start(main)
