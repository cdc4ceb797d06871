"""Shared fixtures: small competitions, a tiny run, and the folders of real tiles and weights."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads cost more than they give on tiny inputs
os.environ.setdefault("MPLBACKEND", "Agg")

import contextlib  # noqa: E402
import io  # noqa: E402
import shutil  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from pipeline.salt import cli  # noqa: E402
from pipeline.salt.run import Run  # noqa: E402
from pipeline.salt.tiles import Tiles  # noqa: E402
from pipeline.salt.tiles.synthetic import make_sample  # noqa: E402

LIBRARIES = ["`torch.jit.script.*` is deprecated", "The 'mode.chained_assignment' option is deprecated"]


# Hypothesis: always the same examples in the suite, and no test that a busy machine fails; others each time in a soak.
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=60, database=None)
settings.register_profile("soak", deadline=None, max_examples=20_000, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("soak" if config.option.markexpr == "soak" else "suite")
    for words in LIBRARIES:  # what fastai and timm make Python say when they are imported: nothing to be done here
        config.addinivalue_line("filterwarnings", f"ignore:{words}")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    """24 + 8 generated tiles in Kaggle's layout. Read-only."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    make_sample(folder, 24, 8, 3)
    return folder


@pytest.fixture
def tiny_competition(made_once, tmp_path) -> Path:
    """A copy of `made_once` for tests that change it."""
    return shutil.copytree(made_once, tmp_path / "tiny")


@pytest.fixture
def drawn() -> Tiles:
    """36 + 5 tiles in memory, easy to learn: salt is a bright rectangle in noise, every fourth tile is empty."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(60, 120, (41, 101, 101), dtype=np.uint8), np.zeros((41, 101, 101), bool)
    for i in range(41):
        if i % 4:
            top, left = rng.integers(0, 60, 2)
            height, width = rng.integers(20, 60, 2)
            masks[i, top : top + height, left : left + width] = True
    images[masks] += 100
    table = pd.DataFrame(
        {
            "id": [f"{i:04}" for i in range(41)],
            "split": ["train"] * 36 + ["test"] * 5,
            "z": range(100, 141),
            "coverage": [*masks[:36].mean((1, 2)), *[np.nan] * 5],
            "black": False,
        }
    )
    return Tiles(images[:36], masks[:36], images[36:], table, masks[36:])


@pytest.fixture(scope="session")
def fast_clock(tmp_path_factory) -> str:
    """A folder for PYTHONPATH in which the clock runs 1000 times too fast: a state is saved after every epoch."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(
        "import time\nslow = time.perf_counter\ntime.perf_counter = lambda: 1000 * slow()\n"
    )
    return str(folder)


@dataclass(frozen=True)
class TinyRun:
    """A small version of profile demo: two folds, at 32 px, then at 48 px; all stages take seconds.

    run(train, predict) calls these stages with its flags and returns their output.
    """

    out: Path
    data: Path | str = "sample"
    settings = (
        "sample.train=25",  # folds of 13 and 12
        "sample.test=8",
        "run_folds=2",
        "workers=1",
        "folds.k=2",
        "train.64.size=32",
        "train.96.size=48",
        "train.batch=6",
        "train.32.epochs=8",  # some to be killed in
        "train.32.lr=3e-2",  # so that some salt is found
        "train.48.epochs=1",
        "model.options.width=8",
        "train.precision=fp32",
        "predict.batch=5",
    )

    def flags(self, *extra: str) -> list[str]:
        return [
            f"--data={self.data}",
            f"--out={self.out}",
            "--profile=demo",
            *(f"--set={setting}" for setting in self.settings),
            *extra,
        ]

    def parse(self, *extra: str) -> Run:
        return cli.parse("", self.flags(*extra))[0]

    def __call__(self, *stages, extra: tuple[str, ...] = ()) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for stage in stages:
                stage.main(self.flags(*extra))
        return printed.getvalue()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[TinyRun, str]:
    """A tiny run after all stages, and its output. Read-only."""
    from pipeline import make_folds, predict, prepare, report, submit, train

    run = TinyRun(tmp_path_factory.mktemp("tiny run") / "out")
    return run, run(prepare, make_folds, train, predict, submit, report)


@pytest.fixture
def tiny(finished, tmp_path) -> TinyRun:
    """A copy of the finished run for tests that change it."""
    return TinyRun(shutil.copytree(finished[0].out, tmp_path / "out"))


@pytest.fixture
def untrained(tiny) -> TinyRun:
    """A copy with tiles and folds, but without weights."""
    for folder in (tiny.out / "submissions", *tiny.out.glob("folds/demo/fold_*")):
        shutil.rmtree(folder)
    for file in tiny.out.glob("folds/demo/oof.npy*"):
        file.unlink()
    return tiny


@pytest.fixture
def empty(tmp_path) -> TinyRun:
    """A tiny run before its first stage."""
    return TinyRun(tmp_path / "out")


@pytest.fixture(scope="session")
def salt_tiles() -> Path:
    """Folder with Kaggle's own tiles, or a subset of them."""
    return _folder("SALT_TILES", "a folder with the competition's files")


@pytest.fixture(scope="session")
def salt_weights() -> Path:
    """Folder with ImageNet weights of tf_efficientnet_lite0."""
    return _folder("SALT_WEIGHTS", "a folder with ImageNet weights")


def _folder(variable: str, what: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; it names {what}")
    return Path(os.environ[variable])
