"""Product: one artifact of a run, with its inputs, settings and command, and whether it is up to date."""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run

RECIPE = ("data", "out", "profile", "run", "model", "encoder", "weights", "set", "add-phase")  # flags that define a run


@dataclass(frozen=True, eq=False)
class Product:
    """One artifact of a run. Functions that stages.per_run decorates give the same Product each time.

    name      its name among the inputs of others: 'fold_0/128.safetensors'
    maker     the command that makes it, without the leading `python -m pipeline.`
    settings  returns the settings of the run that it depends on, as JSON values
    inputs    the artifacts it is made from
    state     where the state of an unfinished training or prediction is saved
    """

    name: str
    path: Path
    maker: str
    settings: Callable[[], dict]
    inputs: "tuple[Product, ...]" = ()
    state: Path | None = None

    def origin(self) -> Origin:
        """What this run would make it from. InputError if an input is missing, or was made with other settings."""
        with one_look() as seen:
            if self not in seen.origins:
                for product in self.inputs:
                    product.require()
                inputs = {product.name: product.path for product in self.inputs}
                seen.origins[self] = artifacts.origin(self.settings(), inputs)
            return seen.origins[self]

    def require(self) -> None:
        """InputError that names the command to run first, unless the artifact is whole and has this run's settings."""
        with one_look() as seen:
            if self in seen.good:
                return
            artifacts.check(self.path, self.maker)
            if changes := artifacts.differences(self.path, self.origin()):
                made = "made with other settings" if self.inputs else "made from other tiles than this command's"
                raise InputError(
                    f"{display_path(self.path)} was {made} ({'; '.join(changes)}); run python -m "
                    f"pipeline.{self.maker} first, or give the same flags as then"
                )
            seen.good.add(self)

    def file(self) -> Path:
        """Its path, to load weights from or pass on, after a check of its bytes' hash. InputError as in `require`."""
        self.require()
        artifacts.check(self.path, self.maker, hashed=True)
        return self.path

    def sidecar(self) -> dict:
        """Its sidecar, read-only. InputError as in `require`."""
        self.require()
        return artifacts.read_sidecar(self.path) or {}

    def is_fresh(self) -> bool:
        """Whether the artifact is whole and made from what this run would use. InputError as in `origin`."""
        origin = self.origin()
        return not artifacts.damage_of(self.path) and artifacts.is_fresh(self.path, origin)

    def changes(self) -> list[str]:
        """How its origin differs from what this run would make it from; [] if its inputs have to be made first."""
        try:
            return artifacts.differences(self.path, self.origin())
        except InputError:
            return []

    def status(self) -> str:
        """'done', 'waits' (for an input), 'damaged', 'under way', 'out of date' or 'to do'."""
        try:
            if self.is_fresh():
                return "done"
        except InputError:
            return "waits"
        if artifacts.damage_of(self.path):
            return "damaged"
        if self.state and self.state.exists():
            return "under way"
        return "out of date" if artifacts.read_sidecar(self.path) else "to do"


@dataclass(frozen=True)
class Seen:
    """What `one_look` has found so far: origins, and the products that are whole and up to date."""

    origins: dict[Product, Origin] = field(default_factory=dict)
    good: set[Product] = field(default_factory=set)


_seen: ContextVar[Seen | None] = ContextVar("seen", default=None)


@contextlib.contextmanager
def one_look() -> Iterator[Seen]:
    """Inside it each artifact is checked only once: not for code that makes artifacts, or waits for others to."""
    seen = _seen.get() or Seen()
    token = _seen.set(seen)
    try:
        yield seen
    finally:
        _seen.reset(token)


def up_to_date(products: Sequence[Product], force: bool) -> bool:
    """Whether a stage has nothing to do; if so, prints that. InputError if an input is missing, also with --force."""
    with one_look():
        fresh = all([product.is_fresh() for product in products])
    if force or not fresh:
        artifacts.note_code()
        for damage in filter(None, (artifacts.damage_of(product.path) for product in products)):
            print(f"damaged  {damage}")
        return False
    artifacts.print_fresh(products[-1].path)
    return True


def all_done(products: Iterable[Product]) -> bool:
    """Whether every product is whole and made from what this run would use."""
    return all(product.status() == "done" for product in products)


def keep_finished(products: Iterable[Product], force: bool) -> None:
    """InputError if a finished artifact that is damaged, or was made with other settings, would be replaced.

    Never with --force. Damaged ones are kept too: they may be good weights beside a damaged sidecar.
    """
    for product in [] if force else products:
        if artifacts.damage_of(product.path):
            artifacts.check(product.path, product.maker)
        if changes := product.changes():
            raise InputError(
                f"{display_path(product.path)} was made with other settings ({'; '.join(changes)}); --run NAME keeps "
                f"it and makes a new one; python -m pipeline.{product.maker} --force, with the same flags, replaces it"
            )


def command_of(run: Run, maker: str = "") -> str:
    """The command line that makes an artifact of this run, or all of them, to be run in the current folder.

    maker  that of a Product; '' for all stages: run_all.sh of the clone that this code lies in, or else `salt run`
    """
    script = artifacts.CODE.with_name("run_all.sh")
    all_stages = [os.path.join(".", display_path(script))] if script.exists() else ["salt", "run"]
    words = ["python", "-m", *f"pipeline.{maker}".split()] if maker else all_stages
    defaults = {"out": str(Path.cwd()), "run": run.profile.name}
    for flag in run.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name in RECIPE and value != defaults.get(name):
            words += [f"--{name}", display_path(Path(value)) if Path(value).is_absolute() else value]
    if "--fold" not in words and run.folds != tuple(range(run.profile.run_folds)):
        words += [word for fold in run.folds for word in ("--fold", str(fold))]
    return shlex.join(words)
