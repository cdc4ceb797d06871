"""What several test files share: little competitions, the environment, the folders of real tiles and weights."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads cost more than they give on tiny inputs
os.environ.setdefault("MPLBACKEND", "Agg")

import shutil  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402

from pipeline.salt.tiles.cache import Cache  # noqa: E402
from pipeline.salt.tiles.synthetic import make_sample  # noqa: E402

LIBRARIES = ["`torch.jit.script.*` is deprecated", "The 'mode.chained_assignment' option is deprecated"]


def pytest_configure(config: pytest.Config) -> None:
    for words in LIBRARIES:  # what fastai and timm make Python say when they are imported: nothing to be done here
        config.addinivalue_line("filterwarnings", f"ignore:{words}")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    """24 + 8 generated tiles in Kaggle's layout; not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "tiny"
    make_sample(folder, 24, 8, 3)
    return folder


@pytest.fixture
def tiny_competition(made_once, tmp_path) -> Path:
    """The same as a folder of the test's own."""
    return shutil.copytree(made_once, tmp_path / "tiny")


@pytest.fixture
def drawn() -> Cache:
    """36 + 5 tiles whose salt is a bright rectangle in noise, every fourth one empty; easy to learn, in memory."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(60, 120, (41, 101, 101), dtype=np.uint8), np.zeros((41, 101, 101), bool)
    for i in range(41):
        if i % 4:
            top, left = rng.integers(0, 60, 2)
            height, width = rng.integers(20, 60, 2)
            masks[i, top : top + height, left : left + width] = True
    images[masks] += 100
    tiles = pd.DataFrame(
        {
            "id": [f"{i:04}" for i in range(41)],
            "split": ["train"] * 36 + ["test"] * 5,
            "z": range(100, 141),
            "coverage": [*masks[:36].mean((1, 2)), *[np.nan] * 5],
            "black": False,
        }
    )
    return Cache(images[:36], masks[:36], images[36:], tiles, masks[36:])


@pytest.fixture(scope="session")
def salt_tiles() -> Path:
    """Kaggle's own tiles, or a part of them."""
    return _folder("SALT_TILES", "a folder with the competition's files")


@pytest.fixture(scope="session")
def salt_weights() -> Path:
    """ImageNet weights of tf_efficientnet_lite0."""
    return _folder("SALT_WEIGHTS", "a folder with ImageNet weights")


def _folder(variable: str, what: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; it names {what}")
    return Path(os.environ[variable])
