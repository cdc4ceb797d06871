"""What each artifact is made from: the one place that says which change remakes what.

Each function gives the Origin of a stage's product, and raises InputError when something it needs is not made yet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin
from pipeline.salt.cli import Run
from pipeline.salt.config import PSEUDO, settings_of
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import competition


def cache(run: Run) -> Origin:
    if run.data is None:  # the sample follows from its numbers alone
        return artifacts.origin({"sample": settings_of(run.profile.sample)})
    if not run.data.is_dir():  # another machine has decoded it, and here there is nothing to hold that against
        made = artifacts.read_sidecar(run.files.cache("tiles.csv"))
        return Origin(made["settings"], made["inputs"])
    return artifacts.origin({"files": artifacts.hash_of(competition.inputs(run.data))})


def folds(run: Run) -> Origin:
    return artifacts.origin({"folds": settings_of(run.profile.folds)}, [run.files.cache("tiles.csv")])


def checkpoint(run: Run, fold: int, size: int | str) -> Origin:
    """Fold k of one size: the sections model, augment and train, without the other sizes; the size before it, if any.

    The step PSEUDO also has fold k's pseudo-labels, and the test tiles they belong to.
    """
    stage, before = run.profile.stage(size)
    train = settings_of(run.profile.train) | {"stage": settings_of(stage)}
    del train["stages"]
    settings = {
        "fold": fold,
        "model": settings_of(run.profile.model),
        "augment": settings_of(run.profile.augment),
        "train": train,
    }
    inputs = [run.files.folds, run.files.cache("images.npy"), run.files.cache("masks.npy")]
    if before:
        inputs.append(run.files.checkpoint(fold, before.size))
    if size == PSEUDO:
        inputs += [
            run.files.pseudo(fold, "tiles.csv"),
            run.files.pseudo(fold, "masks.npy"),
            run.files.cache("test.npy"),
        ]
    return artifacts.origin(settings, inputs)


def pseudo_labels(run: Run, fold: int) -> Origin:
    """Made by fold k's own network alone: every other one has learned from fold k's tiles."""
    how = run.profile.pseudo
    settings = {"low": how.low, "high": how.high, "share": how.share, "flip": run.profile.predict.flip}
    trained = run.files.checkpoint(fold, run.profile.train.stages[-1].size, run.profile.predict.checkpoint)
    return artifacts.origin(settings, [trained, run.files.cache("test.npy")])


def predictions(run: Run) -> Origin:
    """Out-of-fold and test predictions of run.folds. InputError for a fold that is missing or trained otherwise."""
    last = run.profile.steps[-1]
    checkpoints = [run.files.checkpoint(fold, last, run.profile.predict.checkpoint) for fold in run.folds]
    for fold, path in zip(run.folds, checkpoints, strict=True):
        _same_training(run, fold, last, path)
    settings = {"predict": settings_of(run.profile.predict), "folds": list(run.folds)}
    tiles = [run.files.cache("images.npy"), run.files.cache("test.npy")]
    return artifacts.origin(settings, [run.files.folds, *tiles, *checkpoints])


def submission(run: Run) -> Origin:
    return artifacts.origin(
        {"submit": settings_of(run.profile.submit)},
        [run.files.result("test.npy"), run.files.oof(), run.files.cache("tiles.csv")],
    )


def report(run: Run) -> Origin:
    """InputError where predictions or submission were made with other settings than the report would name."""
    files, predicted = run.files, predictions(run)
    oof, test, sent = files.oof(), files.result("test.npy"), files.result("submission.csv.gz")
    made = [(oof, predicted, "predict"), (test, predicted, "predict"), (sent, submission(run), "submit")]
    for path, wanted, stage in made:
        if told := artifacts.differences(path, wanted):
            raise InputError(
                f"{artifacts.shown(path)} was made otherwise ({'; '.join(told)}); "
                f"run python -m pipeline.{stage} first, or give the same flags as then"
            )
    histories = [files.history(fold, step) for fold in run.folds for step in run.profile.steps]
    cached = [path for path in map(files.cache, ("tiles.csv", "masks.npy", "truth.npy")) if path.exists()]
    return artifacts.origin(
        {"profile": settings_of(run.profile), "folds": list(run.folds)},
        [files.folds, *cached, *histories, oof, test, sent],
    )


def _same_training(run: Run, fold: int, size: int | str, path: Path) -> None:
    again = f"python -m pipeline.train --profile {run.profile.name} --fold {fold}{' --pseudo' * (size == PSEUDO)}"
    if artifacts.read_sidecar(path) is None:
        trained = [
            k
            for k in range(run.profile.folds.k)
            if artifacts.read_sidecar(run.files.checkpoint(k, size, run.profile.predict.checkpoint))
        ]
        how = "with pseudo-labels" if size == PSEUDO else f"at {size} px"
        raise InputError(
            f"fold {fold} has not been trained {how} ({artifacts.shown(path)} is missing; trained: "
            f"{trained or 'none'}); run {again}, or name the folds to use with --fold"
        )
    if told := artifacts.differences(path, checkpoint(run, fold, size)):
        raise InputError(
            f"{artifacts.shown(path)} was trained with other settings ({'; '.join(told)}): folds must not "
            f"be mixed; run {again}, or give the same --set as then"
        )


@dataclass(frozen=True)
class Product:
    """What shows that a piece of a stage is done: a file, what it must be made from, the state of an unfinished one."""

    path: Path
    origin: Callable[[], Origin]
    resume: Path | None = None


def stages(run: Run) -> Iterator[tuple[str, str, list[Product]]]:
    """(stage, what it does, its products) in the order in which they run."""
    files, profile = run.files, run.profile
    yield "prepare", "decode every tile once, and check it", [Product(files.cache("tiles.csv"), lambda: cache(run))]
    yield "make_folds", f"deal the tiles to {profile.folds.k} folds", [Product(files.folds, lambda: folds(run))]
    for stage in profile.train.stages:
        yield (
            f"train --size {stage.size}",
            f"{stage.epochs} epochs, folds {', '.join(map(str, run.folds))}",
            [
                Product(
                    files.history(k, stage.size), partial(checkpoint, run, k, stage.size), files.resume(k, stage.size)
                )
                for k in run.folds
            ],
        )
    if profile.pseudo.use:
        yield (
            "pseudo_label",
            "the test tiles each fold is sure of",
            [Product(files.pseudo(k, "masks.npy"), partial(pseudo_labels, run, k)) for k in run.folds],
        )
        yield (
            "train --pseudo",
            f"{profile.pseudo.epochs} epochs with them",
            [
                Product(files.history(k, PSEUDO), partial(checkpoint, run, k, PSEUDO), files.resume(k, PSEUDO))
                for k in run.folds
            ],
        )
    yield (
        "predict",
        "every tile, flip TTA, mean of the folds",
        [Product(files.oof(), lambda: predictions(run)), Product(files.result("test.npy"), lambda: predictions(run))],
    )
    yield (
        "submit",
        "threshold, rules, run lengths",
        [Product(files.result("submission.csv.gz"), lambda: submission(run))],
    )
    yield (
        "report",
        "one page with scores, curves and tiles",
        [Product(files.result("report.html"), lambda: report(run))],
    )
