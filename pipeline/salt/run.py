"""Run and Files: the settings of a run, and the paths of its artifacts, each named here alone.

RunFolder reads the names that Files gives: the weights in a run's folder, wherever it lies.
"""

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.salt.config import Phase, Profile, Tiling
from pipeline.salt.errors import InputError

SAMPLE = "sample"
TRACKERS = ("tensorboard", "wandb")  # packages that fastai has a callback for


@dataclass(frozen=True)
class Files:
    """Where everything of one run lies, below `out`.

    out     the current folder, or what --out names
    source  name of the tiles, as `source_name` gives it
    run     name of the run; 'a+b' of an ensemble of runs
    """

    out: Path
    source: str
    run: str

    @property
    def sample(self) -> Path:
        return self.out / "data" / SAMPLE

    def cache(self, name: str) -> Path:
        """name: images.npy | masks.npy | test.npy | tiles.csv | truth.npy (where the test tiles' masks are known)"""
        return self.out / "data" / "cache" / self.source / name

    @property
    def folder(self) -> Path:
        return self.out / "folds" / self.run

    @property
    def folds(self) -> Path:
        return self.folder / "folds.csv"

    def neighbours(self, kind: str) -> Path:
        """kind: csv | png"""
        return self.folder / f"neighbours.{kind}"

    @property
    def oof(self) -> Path:
        return self.folder / "oof.npy"

    def fold(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}"

    def weights(self, fold: int, phase: Phase, epoch: str = "best") -> Path:
        """epoch: best | last | average"""
        return self.fold(fold) / (
            f"{phase.name}.safetensors" if epoch == "best" else f"{phase.name}.{epoch}.safetensors"
        )

    def history(self, fold: int, phase: Phase) -> Path:
        return self.fold(fold) / f"{phase.name}.csv"

    def resume(self, fold: int, phase: Phase) -> Path:
        """State of a training that is under way; gone when it has ended."""
        return self.fold(fold) / f"{phase.name}.resume.pt"

    def resume_of(self, prediction: Path) -> Path:
        """Sums of a prediction that was stopped; gone when it is finished."""
        return prediction.with_suffix(".resume")

    def pseudo(self, fold: int, name: str) -> Path:
        """name: tiles.csv | masks.npy"""
        return self.fold(fold) / f"pseudo_{name}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of all artifacts of this run and of its tiles."""
        return self.cache(""), self.folder, self.result("")

    def lr_find(self, fold: int, phase: Phase) -> Path:
        return self.fold(fold) / f"{phase.name}.lr_find.png"

    @property
    def kaggle_submission(self) -> Path:
        """The submission where Kaggle looks for a notebook's, not packed."""
        return self.out / "submission.csv"

    @property
    def tracking(self) -> Path:
        """Folder of the logs that --track leaves."""
        return self.folder / "tracking"

    def result(self, name: str) -> Path:
        """name: test.npy | disagreement.csv | submission.csv.gz | masks.zip | report.html | scores.json | segment/"""
        return self.out / "submissions" / self.run / name

    def comparison(self, names: Sequence[str]) -> Path:
        """Page about the runs of these names."""
        return self.out / "submissions" / f"compare-{joined(names)}.html"


def joined(names: Iterable[str]) -> str:
    """'a+b', for what several runs have together; a run's own name has no '+'. InputError if it is too long."""
    together = "+".join(names)
    if len(together.encode()) > 200:  # bytes; a file system takes 255, and '.json' and more are added
        raise InputError(
            f"these runs' names are too long to stand in one file name, {together}; give them shorter ones"
        )
    return together


def source_name(data: Path | None, tiling: Tiling) -> str:
    """'sample', the data folder's name, or 'folder-<side>-<stride>' of cut images: each has its own cache."""
    if data is None:
        return SAMPLE
    name = {"": "tiles", SAMPLE: f"{SAMPLE}-folder"}.get(data.name, data.name)
    stride = tiling.side if tiling.stride == "side" else tiling.stride
    return name if tiling.side == "whole" else f"{name}-{tiling.side}-{stride}"


class Weights(NamedTuple):
    """What the name of a weights file says; epoch: best | last | average."""

    fold: int
    phase: str
    epoch: str

    @classmethod
    def parse(cls, name: str) -> "Weights | None":
        """'fold_0/96.last.safetensors' -> (0, '96', 'last'); None for any other name."""
        found = re.fullmatch(r"fold_(\d+)/(\w+)(?:\.(last|average))?\.safetensors", name)
        return cls(int(found[1]), found[2], found[3] or "best") if found else None

    @property
    def name(self) -> str:
        """The file's name: '96.last.safetensors'."""
        return self.phase + f".{self.epoch}" * (self.epoch != "best") + ".safetensors"

    def __str__(self) -> str:
        return f"fold_{self.fold}/{self.name}"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a trained run: folds/<run>, or a copy of it anywhere."""

    path: Path

    def weights(self) -> dict[Weights, Path]:
        """Every weights file in it, by fold, then by name."""
        files = {path.relative_to(self.path).as_posix(): path for path in self.path.glob("fold_*/*.safetensors")}
        return dict(sorted((weights, path) for name, path in files.items() if (weights := Weights.parse(name))))

    @property
    def oof(self) -> Path:
        return self.path / "oof.npy"

    @property
    def submission(self) -> Path:
        """Where the run's submission lies, unless this is a copy."""
        folder = self.path.resolve()
        return Files(folder.parent.parent, "", folder.name).result("submission.csv.gz")


@dataclass(frozen=True, eq=False)
class Run:
    """A run as the flags of a stage describe it. Equal to itself alone: what is known of it can be kept by it.

    data           folder with the tiles' files, None for the built-in sample
    own_data       they are images and masks of one's own, not Kaggle's files
    folds          the folds to work on
    force          redo what is up to date, replace what was made with other settings
    weights        where to look for ImageNet weights first, None for the default places
    reason         why this profile, in words
    engine         who trains and predicts the folds: a key of salt.launch.ENGINES
    workers        folds at once, None for one a GPU, or the profile's number
    deadline       when the hours of --max-hours are over, as time.monotonic() has it, which nobody sets back
    track          where its training is followed while it runs: one of TRACKERS, or nowhere
    flags          the command line that gives this run in another process, without folds, engine and workers
    """

    profile: Profile
    files: Files
    data: Path | None
    folds: tuple[int, ...]
    force: bool = False
    weights: Path | None = None
    reason: str = ""
    engine: str = "local"
    workers: int | None = None
    deadline: float = math.inf
    track: str | None = None
    flags: tuple[str, ...] = ()
    own_data: bool = False

    def is_late(self) -> bool:
        """Whether the hours of --max-hours are over."""
        return time.monotonic() > self.deadline

    def refuse_forced_sessions(self) -> None:
        """InputError for --force with --max-hours: each session would begin anew what the one before has finished."""
        if self.force and self.deadline < math.inf:
            raise InputError(
                "--force with --max-hours would begin anew in each call; leave one of them out, or use --run NAME"
            )
