"""Run and Files: the settings of a run, and the paths of its artifacts. No other module builds these paths.

RunFolder is the inverse: it finds a run's weights by the names that Files gives them, wherever the folder lies.
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

    out     the current folder, or that of --out
    source  name of the tiles, from `source_name`
    run     name of the run; 'a+b' for an ensemble of the runs a and b
    """

    out: Path
    source: str
    run: str

    @property
    def sample(self) -> Path:
        return self.out / "data" / SAMPLE

    def cache(self, name: str) -> Path:
        """name: images.npy | masks.npy | test.npy | tiles.csv | truth.npy (if the test tiles' masks are known)"""
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
        """State of an unfinished training; deleted when it has finished."""
        return self.fold(fold) / f"{phase.name}.resume.pt"

    def resume_of(self, prediction: Path) -> Path:
        """Partial sums of a stopped prediction; deleted when it has finished."""
        return prediction.with_suffix(".resume")

    def pseudo(self, fold: int, name: str) -> Path:
        """name: tiles.csv | masks.npy"""
        return self.fold(fold) / f"pseudo_{name}"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that hold all artifacts of this run and of its tiles."""
        return self.cache(""), self.folder, self.result("")

    def lr_find(self, fold: int, phase: Phase) -> Path:
        return self.fold(fold) / f"{phase.name}.lr_find.png"

    @property
    def kaggle_submission(self) -> Path:
        """The uncompressed submission, where Kaggle looks for that of a notebook."""
        return self.out / "submission.csv"

    @property
    def tracking(self) -> Path:
        """Folder of the logs that --track writes."""
        return self.folder / "tracking"

    def result(self, name: str) -> Path:
        """name: test.npy | disagreement.csv | submission.csv.gz | masks.zip | report.html | scores.json | segment/"""
        return self.out / "submissions" / self.run / name

    def comparison(self, names: Sequence[str]) -> Path:
        """Page about the runs of these names."""
        return self.out / "submissions" / f"compare-{joined(names)}.html"


def joined(names: Iterable[str]) -> str:
    """'a+b', the name of what several runs share; no run's own name has a '+'. InputError if it is too long."""
    together = "+".join(names)
    if len(together.encode()) > 200:  # file systems allow 255, and '.json' and more are added
        raise InputError(f"these runs' names are too long for one file name, {together}; use shorter ones")
    return together


def source_name(data: Path | None, tiling: Tiling) -> str:
    """'sample', the data folder's name, or '<folder>-<side>-<stride>' for cut images: each has its own cache."""
    if data is None:
        return SAMPLE
    name = {"": "tiles", SAMPLE: f"{SAMPLE}-folder"}.get(data.name, data.name)
    stride = tiling.side if tiling.stride == "side" else tiling.stride
    return name if tiling.side == "whole" else f"{name}-{tiling.side}-{stride}"


class Weights(NamedTuple):
    """The parts of a weights file's name; epoch: best | last | average."""

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
        """Where the run's submission lies, unless this folder is a copy."""
        folder = self.path.resolve()
        return Files(folder.parent.parent, "", folder.name).result("submission.csv.gz")


@dataclass(frozen=True, eq=False)
class Run:
    """A run as a stage's flags describe it. Compared by identity, so that it can be the key of a cache.

    data           folder with the tiles' files, None for the built-in sample
    own_data       the files are the user's own images and masks, not Kaggle's
    folds          the folds to work on
    force          redo what is up to date, replace what was made with other settings
    weights        where to look for ImageNet weights first, None for the default places
    reason         why this profile was chosen, in words
    engine         what trains and predicts the folds: a key of salt.launch.ENGINES
    workers        folds at once, None for one per GPU, or the profile's number without GPUs
    deadline       end of the hours of --max-hours, on the clock time.monotonic(), which is never set back
    track          tracker that logs its training: one of TRACKERS, or None
    flags          the command line that gives this run to another process, without folds, engine and workers
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
        """InputError for --force with --max-hours: each session would redo what the one before has finished."""
        if self.force and self.deadline < math.inf:
            raise InputError(
                "--force with --max-hours would start over in each call; leave one of them out, or use --run NAME"
            )
