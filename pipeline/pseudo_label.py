"""Choose, for each fold, the test tiles its network is sure of; `train --pseudo` learns from them too.

    python -m pipeline.pseudo_label --set pseudo.use=true
    python -m pipeline.train --pseudo --set pseudo.use=true

reads   folds/<profile>/fold_<k>/<last size>.safetensors, data/cache/<source>/test.npy
writes  folds/<profile>/fold_<k>/pseudo_tiles.csv (row, id, confidence, coverage), pseudo_masks.npy
Does nothing in a profile that does not use them.
"""

import tempfile
from pathlib import Path

import numpy as np

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.cli import Run
from pipeline.salt.launch import ENGINES, runs_here
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(__doc__, argv)
    if not run.profile.pseudo.use:
        print(f"skipped  pseudo_label: profile {run.profile.name} does not use it (--set pseudo.use=true)")
        return
    to_do = []
    for fold in run.folds:
        origin, made = lineage.pseudo_labels(run, fold), [run.files.pseudo(fold, n) for n in ("tiles.csv", "masks.npy")]
        if all(artifacts.is_fresh(path, origin) for path in made) and not run.force:
            artifacts.say_fresh(made[-1])
        else:
            to_do.append(fold)
    if runs_here(args.engine, 1, len(to_do)):
        for fold in to_do:
            label_fold(run, fold)
    else:
        jobs = {f"fold {fold}": command.job(run, args, [fold]) for fold in to_do}
        ENGINES[args.engine]("pipeline.pseudo_label", jobs, args.workers)


def label_fold(run: Run, fold: int) -> None:
    from pipeline.salt.device import pick_devices, resolve_precision
    from pipeline.salt.inference import predict_to_file
    from pipeline.salt.training import checkpoints, pseudo

    origin, path = lineage.pseudo_labels(run, fold), run.files.pseudo(fold, "masks.npy")
    profile, tiles, devices = run.profile, cache.read(run.files), pick_devices()
    size = profile.train.stages[-1].size
    trained = run.files.checkpoint(fold, size, profile.predict.checkpoint)
    network = checkpoints.load(trained, checkpoints.network(profile.model))
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        probs = Path(scratch, "probs.npy")
        predict_to_file(
            probs,
            tiles.test,
            [(network, np.arange(len(tiles.test)))],
            f"fold {fold}",
            size=size,
            batch=profile.predict.batch,
            flip=profile.predict.flip,
            precision=resolve_precision(profile.train.precision, devices[0]),
            devices=devices,
        )
        n = pseudo.write(run.files, fold, tiles, np.load(probs, mmap_mode="r"), profile.pseudo, origin)
    print(f"labelled {artifacts.shown(path)}: {n} of {len(tiles.test)} test tiles are sure enough for fold {fold}")


if __name__ == "__main__":
    command.start(main)
