"""Run and Files: the settings of a run, and the paths of its artifacts. No other file joins a path below --out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.salt.config import Phase, Profile

SAMPLE = "sample"
TRACKERS = ("tensorboard", "wandb")  # packages that fastai has a callback for


@dataclass(frozen=True)
class Files:
    """Where everything of one run lies, below `out`.

    out     the repository, or what --out names
    source  name of the tiles: 'sample', or the data folder's name
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
    def folds(self) -> Path:
        return self.out / "folds" / self.run / "folds.csv"

    @property
    def oof(self) -> Path:
        return self.out / "folds" / self.run / "oof.npy"

    def fold(self, fold: int) -> Path:
        return self.out / "folds" / self.run / f"fold_{fold}"

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

    def pseudo(self, fold: int, name: str) -> Path:
        """name: tiles.csv | masks.npy"""
        return self.fold(fold) / f"pseudo_{name}"

    def lr_find(self, fold: int, phase: Phase) -> Path:
        return self.fold(fold) / f"{phase.name}.lr_find.png"

    @property
    def tracking(self) -> Path:
        """Folder of the logs that --track leaves."""
        return self.out / "folds" / self.run / "tracking"

    def result(self, name: str) -> Path:
        """name: test.npy | submission.csv.gz | report.html | scores.json"""
        return self.out / "submissions" / self.run / name

    def comparison(self, names: Sequence[str]) -> Path:
        """Page about the runs of these names."""
        return self.out / "submissions" / f"compare-{'-'.join(names)}.html"


@dataclass(frozen=True)
class Run:
    """A run as the flags of a stage describe it.

    data           folder with the tiles' files, None for the built-in sample
    folds          the folds to work on
    force          redo what is up to date, replace what was made with other settings
    weights        where to look for ImageNet weights first, None for the default places
    reason         why this profile, in words
    engine         who trains and predicts the folds: a key of salt.launch.ENGINES
    workers        folds at once, None for one a GPU, or the profile's number
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
    track: str | None = None
    flags: tuple[str, ...] = ()
