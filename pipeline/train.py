"""Train the network of each fold: at the profile's first size, then at the next from those weights.

    python -m pipeline.train                         every size of the profile
    python -m pipeline.train --size 128 --fold 2     one piece
    python -m pipeline.train --weights DIR           ImageNet weights from a local file

reads   folds/<profile>/folds.csv, data/cache/<source>/, fold_<k>/<size before>.safetensors
writes  folds/<profile>/fold_<k>/<size>.safetensors (best epoch), <size>.last.safetensors, <size>.csv (history)
A training that is stopped goes on from its last saved epoch when the same command is run again.
"""

import time

import pandas as pd

from pipeline.salt import artifacts, command, lineage
from pipeline.salt.command import Run
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(__doc__, argv, lambda p: p.add_argument(
        "--size", type=int, metavar="PX", help="only this size of the profile (default: all, in order)"))
    for size in [args.size] if args.size else [stage.size for stage in run.profile.train.stages]:
        for fold in run.folds:
            train_fold(run, fold, size)


def train_fold(run: Run, fold: int, size: int) -> None:
    origin = lineage.checkpoint(run, fold, size)
    best, last, history = (run.files.checkpoint(fold, size), run.files.checkpoint(fold, size, "last"), run.files.history(fold, size))
    if artifacts.is_fresh(history, origin) and not run.force:
        artifacts.say_fresh(best)
        return
    if told := artifacts.differences(history, origin):
        print(f"retrain  {artifacts.shown(best)}: {'; '.join(told)}")

    # fastai and torch take seconds to import, so what is up to date does without them.
    from pipeline.salt import checkpoints
    from pipeline.salt.device import device_name, pick_device
    from pipeline.salt.learner import fit_fold, seed_everything
    from pipeline.salt.models.weights import load_imagenet
    from pipeline.salt.tiles.loaders import get_data

    began, profile, device = time.perf_counter(), run.profile, pick_device()
    stage, before = profile.stage(size)
    seed = profile.train.seed + fold
    seed_everything(seed)
    model = checkpoints.network(profile.model)
    start = "random weights"
    if before:
        start = run.files.checkpoint(fold, before.size)
        checkpoints.load(start, model)
    elif profile.model.weights == "imagenet":
        start = load_imagenet(model.encoder, run.weights)
    print(f"train    fold {fold} at {size} px on {device_name(device)}, from {start}")

    folds = pd.read_csv(run.files.folds, dtype={"id": str})
    dls = get_data(fold, folds, size, stage.batch, cache=cache.read(run.files), how=profile.augment,
                   stats=(model.encoder.mean, model.encoder.std), device=device)
    fitted = fit_fold(model, dls, stage, profile.train, name=f"fold {fold}  {size} px", seed=seed,
                      resume=run.files.resume(fold, size), key=origin.key())

    facts = {"profile": profile.name, "fold": fold, "device": device_name(device)}
    for path, weights, row in [(best, fitted.best, fitted.best_row), (last, fitted.last, fitted.rows[-1])]:
        checkpoints.save(path, origin, weights, **facts, epoch=row["epoch"], score=row["meanap"])
    artifacts.publish(history, origin, lambda tmp: pd.DataFrame(fitted.rows).to_csv(tmp, index=False), **facts,
                      seconds=round(time.perf_counter() - began, 1))
    run.files.resume(fold, size).unlink(missing_ok=True)
    print(f"trained  {artifacts.shown(best)}: score {fitted.best_row['meanap']:.4f} in epoch {fitted.best_row['epoch']}, "
          f"{fitted.rows[-1]['meanap']:.4f} in the last")


if __name__ == "__main__":
    command.start(main)
