"""Train the model of each fold, phase by phase; each phase starts from the weights of the one before.

    python -m pipeline.train                         every phase of the profile
    python -m pipeline.train --phase 128 --fold 2    one fold in one phase; --size 128 is the same
    python -m pipeline.train --weights DIR           ImageNet weights from a local file
    python -m pipeline.train --add-phase size=256,epochs=10         one more phase
    python -m pipeline.train --pseudo                the phase with pseudo-labels, if the profile has one
    python -m pipeline.train --track tensorboard     losses and scores while it runs; docs/how-to/track.md
    python -m pipeline.train --engine ray            folds as tasks of a Ray cluster; docs/scaling.md has other ways

reads   folds/<run>/folds.csv, data/cache/<source>/, fold_<k>/<phase before>.safetensors
writes  folds/<run>/fold_<k>/<phase>.safetensors (best epoch), <phase>.csv (history); for the last
        phase also <phase>.last.safetensors and, with train.average, <phase>.average.safetensors
On Ctrl-C or SIGTERM a training finishes its step and saves; the same command resumes it. If it is killed, two minutes
of work at most are lost. With --max-hours H it stops by itself, after the last epoch that fits, with exit status 75.
"""

import argparse
import contextlib
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.salt import artifacts, cli, disk, stages, stopping
from pipeline.salt.config import Phase
from pipeline.salt.disk import display_path
from pipeline.salt.distributed import is_main_process, largest, process_group
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.launch import fan_out
from pipeline.salt.product import all_done, keep_finished, up_to_date
from pipeline.salt.run import Run, RunFolder

if TYPE_CHECKING:
    from pipeline.salt.training.learner import Fitted


def main(argv: list[str] | None = None) -> None:
    run, args = cli.parse(__doc__, argv, add_flags)
    phases = chosen_phases(run, args)
    if not phases:
        print(f"skipped  train --pseudo: no phase of run {run.files.run} learns from pseudo-labels")
        return
    run.refuse_forced_sessions()
    for fold in run.folds:
        keep_first_weights(run, fold)
    to_do = [fold for fold in run.folds if run.force or not is_trained(run, fold, phases)]
    for fold in to_do:  # raises all errors before any fold starts
        stages.trained(run, fold, phases[0])["history"].origin()
        for phase in phases:
            keep_trained(run, fold, phase)
    with process_group() as wait_for_all:

        def train_folds(folds) -> None:
            for fold in folds:
                for phase in phases:
                    train_fold(run, fold, phase)
                    wait_for_all()  # the next phase starts from weights that the main process publishes

        train_folds([fold for fold in run.folds if fold not in to_do])
        fan_out("pipeline.train", run, {f"fold {fold}": (fold,) for fold in to_do}, train_folds)


def add_flags(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    cli.add_phase_flags(which)
    which.add_argument("--pseudo", action="store_true", help="only the phase that learns from pseudo-labels")


def chosen_phases(run: Run, args: argparse.Namespace) -> list[Phase]:
    """The phases to train; without --phase or --pseudo, all phases before the one with pseudo-labels."""
    phases = run.profile.train.phases
    if args.phase is not None:
        return [run.profile.train.phase(args.phase)]
    first_pseudo = next((i for i, phase in enumerate(phases) if phase.pseudo), len(phases))
    return [*(phases[first_pseudo:] if args.pseudo else phases[:first_pseudo])]


def is_trained(run: Run, fold: int, phases: list[Phase]) -> bool:
    return all(all_done(stages.trained(run, fold, phase).values()) for phase in phases)


def train_fold(run: Run, fold: int, phase: Phase) -> None:
    """Train one fold in one phase, unless its weights and history exist: only --force replaces those."""
    products = stages.trained(run, fold, phase)
    if up_to_date([*products.values()][::-1], run.force):
        return
    keep_trained(run, fold, phase)
    from pipeline.salt.device import enough_memory  # torch takes seconds to import: only now

    with (
        disk.making(products["history"].path) if is_main_process() else contextlib.nullcontext(),
        enough_memory(f"fold {fold} {phase.name}", f"train.{phase.name}.batch", phase.batch),
    ):
        if not run.force and all_done(products.values()):  # by another process, since this one last looked
            return
        try:
            fit_and_publish(run, fold, phase)
        except Stopped as e:
            if not run.force or not run.files.resume(fold, phase).exists():  # this training is finished
                raise
            raise Stopped(
                f"{e}, with only this fold and phase: --force --fold {fold} --phase {phase.name}", e.status
            ) from e


def keep_trained(run: Run, fold: int, phase: Phase) -> None:
    """InputError if this would replace finished weights of fold k in this phase. With --force nothing is checked.

    If only some of a phase's files are left, the phase is trained again to make the others. That is an InputError too
    if a phase that this command's flags do not include was trained from the weights that are left: to the run with
    that phase, no file is missing.
    """
    products = stages.trained(run, fold, phase)
    keep_finished(products.values(), run.force)
    states = {product.status() for product in products.values()}
    if run.force or products["history"].status() != "done" or "to do" not in states:
        return
    known, best = {each.name for each in run.profile.train.phases}, products["best"]
    for weights, path in RunFolder(run.files.folder).weights().items():
        inputs = (artifacts.read_sidecar(path) or {}).get("inputs", {})
        if weights.fold == fold and weights.phase not in known and best.name in inputs:
            raise InputError(
                f"{display_path(path)} was trained from {best.path.name} in a phase that this command does not have; "
                "give the same flags as then (--add-phase ...), or --run NAME; or, to train again, "
                f"python -m pipeline.{best.maker} --force, with these flags"
            )


def keep_first_weights(run: Run, fold: int) -> None:
    """InputError if fold k's finished training began from another file than --weights names; never with --force.

    Checked here because the file is no setting of the run: predictions are made on machines that do not have it.
    """
    from_scratch = run.profile.model.weights == "none"
    if run.weights is None or not run.weights.is_file() or from_scratch or run.force:
        return
    first = stages.trained(run, fold, run.profile.train.phases[0])["best"].path
    began = (artifacts.read_sidecar(first) or {}).get("init_from", run.weights.name)
    if began != run.weights.name:
        raise InputError(
            f"{display_path(first)} was trained from {began}, and --weights names {run.weights.name}; --run NAME keeps "
            f"it and makes a new one; python -m pipeline.train --force --fold {fold}, with the same flags, replaces it"
        )


def fit_and_publish(run: Run, fold: int, phase: Phase) -> None:
    """Train one fold in one phase and publish its weights and history. Stopped if a signal or the clock asks for it."""
    from pipeline.salt.device import device_name, resolve_precision
    from pipeline.salt.training.fold import set_up_fold
    from pipeline.salt.training.learner import fit_fold
    from pipeline.salt.training.tracking import tracking

    products, train = stages.trained(run, fold, phase), run.profile.train
    title = f"fold {fold}  {phase.name}{' px' * phase.name.isdecimal()}"
    start = set_up_fold(run, fold, phase)
    device, origin = start.dls.device, products["history"].origin()
    print(f"train    {title}, {len(start.dls.train.ids)} tiles, on {device_name(device)}, from {start.init_from}")
    with stopping.noting() as stop, tracking(run, fold, phase) as trackers:
        fitted = fit_fold(
            start.model,
            start.dls,
            phase,
            train,
            title=title,
            seed=start.seed,
            resume=run.files.resume(fold, phase),
            origin=origin,
            force=run.force,
            deadline=run.deadline,
            trackers=trackers,
            stop=stop,
        )
        if is_main_process():
            extra = {
                "profile": run.profile.name,
                "fold": fold,
                "device": device_name(device),
                "init_from": start.init_from,
                "precision": resolve_precision(train.precision, device),
                "tile": start.dls.train.shape,
            }
            publish(run, fold, phase, fitted, origin, extra)
        asked = largest(stop(), run.is_late())  # all processes stop here, or none
    stopping.stop_if_asked(f"{title} is trained", *asked)


def publish(run: Run, fold: int, phase: Phase, fitted: "Fitted", origin: artifacts.Origin, extra: dict) -> None:
    """Publish the weights, then the history, which marks the training as ended. `extra` goes into their sidecars."""
    from safetensors.torch import save

    products = stages.trained(run, fold, phase)
    for epoch in run.profile.train.epochs_kept(phase):
        row = fitted.row(epoch)
        score = {"score": row["meanap"]} if epoch != "average" else {}  # the history scores each epoch's own weights
        with artifacts.publish(products[epoch].path, origin, **extra, epoch=row["epoch"], **score) as tmp:
            # not safetensors' save_file: that makes a second file beside it, which only its owner may read
            tmp.write_bytes(save(fitted.weights[epoch]))
    seconds = round(sum(row["seconds"] for row in fitted.rows), 1)
    with artifacts.publish(products["history"].path, origin, **extra, seconds=seconds) as tmp:
        pd.DataFrame(fitted.rows).to_csv(tmp, index=False)
    artifacts.discard(run.files.resume(fold, phase))
    if run.force:
        discard_outdated_phases(run, fold, phase)
    best, last = fitted.row("best"), fitted.row("last")
    print(
        f"trained  {display_path(products['best'].path)}: score {best['meanap']:.4f} in epoch {best['epoch']}, "
        f"{last['meanap']:.4f} in the last"
    )


def discard_outdated_phases(run: Run, fold: int, phase: Phase) -> None:
    """Delete the later phases' artifacts if they were trained from the weights that this phase has just replaced."""
    phases = run.profile.train.phases
    weights = stages.trained(run, fold, phase)["best"]
    sha256 = weights.sidecar()["sha256"]
    outdated = False  # once one phase is outdated, all that follow it are
    for later in phases[phases.index(phase) + 1 :]:
        paths = [product.path for product in stages.trained(run, fold, later).values()]
        whole = [path for path in paths if not artifacts.damage_of(path)]  # whatever uses a damaged one reports it
        inputs = [sidecar["inputs"] for path in whole if (sidecar := artifacts.read_sidecar(path))]
        outdated = outdated or any(of_one.get(weights.name, sha256) != sha256 for of_one in inputs)
        for path in paths if outdated else []:
            artifacts.discard(path)


if __name__ == "__main__":
    cli.start(main)
