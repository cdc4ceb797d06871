"""Train the network of each fold: at the profile's first size, then at the next from those weights.

    python -m pipeline.train                         every size of the profile
    python -m pipeline.train --size 128 --fold 2     one piece
    python -m pipeline.train --weights DIR           ImageNet weights from a local file
    python -m pipeline.train --pseudo                the last step, with pseudo-labelled tiles, where the profile has it
    python -m pipeline.train --engine ray            folds as tasks of a Ray cluster; docs/scaling.md has all the ways

reads   folds/<profile>/folds.csv, data/cache/<source>/, fold_<k>/<size before>.safetensors
writes  folds/<profile>/fold_<k>/<size>.safetensors (best epoch), <size>.csv (history), <last size>.last.safetensors
A training that is stopped goes on from its last saved epoch when the same command is run again.
"""

import argparse
from pathlib import Path

import pandas as pd

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.cli import Run
from pipeline.salt.config import PSEUDO
from pipeline.salt.distributed import is_first, joined
from pipeline.salt.launch import ENGINES, runs_here, visible_gpus


def main(argv: list[str] | None = None) -> None:
    run, args = command.parse(__doc__, argv, add_flags)
    sizes = steps(run, args)
    to_do = [fold for fold in run.folds if any(run.force or not is_trained(run, fold, size) for size in sizes)]
    workers = args.workers
    if workers is None and args.engine == "local" and not visible_gpus():
        workers = run.profile.workers
    here = runs_here(args.engine, workers, len(to_do))
    with joined() as wait_for_ranks:
        for fold in run.folds if here else sorted({*run.folds} - {*to_do}):
            for size in sizes:
                train_fold(run, fold, size)
                wait_for_ranks()  # the next size starts from what the first of them publishes
    if not here:
        jobs = {f"fold {fold}": command.job(run, args, [fold]) for fold in to_do}
        ENGINES[args.engine]("pipeline.train", jobs, workers)


def add_flags(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--size", type=int, metavar="PX", help="only this size of the profile (default: all, in order)")
    which.add_argument("--pseudo", action="store_true", help="the step after the last size, with pseudo-labelled tiles")


def steps(run: Run, args: argparse.Namespace) -> list[int | str]:
    """The sizes to train at, or PSEUDO; nothing where the profile does not use pseudo-labels."""
    if args.pseudo and not run.profile.pseudo.use:
        print(f"skipped  train --pseudo: profile {run.profile.name} does not use it (--set pseudo.use=true)")
        return []
    if args.pseudo:
        return [PSEUDO]
    return [stage.size for stage in run.profile.train.stages] if args.size is None else [args.size]


def is_trained(run: Run, fold: int, size: int | str) -> bool:
    origin, files = lineage.checkpoint(run, fold, size), run.files
    made = [*(files.checkpoint(fold, size, which) for which in run.profile.kept(size)), files.history(fold, size)]
    return all(artifacts.is_fresh(path, origin) for path in made)


def train_fold(run: Run, fold: int, size: int | str) -> None:
    origin = lineage.checkpoint(run, fold, size)
    files = run.files
    best, history = files.checkpoint(fold, size), files.history(fold, size)
    if is_trained(run, fold, size) and not run.force:
        artifacts.say_fresh(best)
        return
    if told := artifacts.differences(history, origin):
        print(f"retrain  {artifacts.shown(best)}: {'; '.join(told)}")

    # fastai and torch take seconds to import, so what is up to date does without them.
    from pipeline.salt.device import device_name, resolve_precision
    from pipeline.salt.training import checkpoints
    from pipeline.salt.training.fold import set_up_fold
    from pipeline.salt.training.learner import fit_fold

    profile = run.profile
    start = set_up_fold(run, fold, size)
    device = device_name(start.dls.device)
    title = f"fold {fold}  {size if size == PSEUDO else f'{size} px'}"
    print(f"train    {title}, {len(start.dls.train.ids)} tiles, on {device}, from {start.weights}")
    fitted = fit_fold(
        start.model,
        start.dls,
        start.stage,
        profile.train,
        name=title,
        seed=start.seed,
        resume=files.resume(fold, size),
        key=origin.key(),
    )
    if not is_first():
        return

    facts = {
        "profile": profile.name,
        "fold": fold,
        "device": device,
        "began_with": Path(start.weights).name,
        "precision": resolve_precision(profile.train.precision, start.dls.device),
    }
    epochs = {"best": (fitted.best, fitted.best_row), "last": (fitted.last, fitted.rows[-1])}
    for which in profile.kept(size):
        weights, row = epochs[which]
        checkpoints.save(
            files.checkpoint(fold, size, which), origin, weights, **facts, epoch=row["epoch"], score=row["meanap"]
        )
    artifacts.publish(
        history,
        origin,
        lambda tmp: pd.DataFrame(fitted.rows).to_csv(tmp, index=False),
        **facts,
        seconds=round(sum(row["seconds"] for row in fitted.rows), 1),
    )
    files.resume(fold, size).unlink(missing_ok=True)
    print(
        f"trained  {artifacts.shown(best)}: score {fitted.best_row['meanap']:.4f} in epoch "
        f"{fitted.best_row['epoch']}, {fitted.rows[-1]['meanap']:.4f} in the last"
    )


if __name__ == "__main__":
    command.start(main)
