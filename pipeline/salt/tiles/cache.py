"""Every tile decoded once: plain arrays that any number of processes map into memory."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.salt.artifacts import Files, Origin, discard, publish
from pipeline.salt.errors import InputError
from pipeline.salt.tiles.competition import Competition

NAMES = ("images.npy", "masks.npy", "test.npy", "tiles.csv")


@dataclass(frozen=True)
class Cache:
    """images  (N, 101, 101) uint8 grey, read-only and memory-mapped, as all the arrays
    masks   (N, 101, 101) bool
    test    (M, 101, 101) uint8 grey
    tiles   id, split, z, coverage, black: N 'train' rows by id, then M 'test' rows in sample_submission.csv's order
    truth   (M, 101, 101) bool, where the masks of the test tiles are known, else None
    """

    images: np.ndarray
    masks: np.ndarray
    test: np.ndarray
    tiles: pd.DataFrame
    truth: np.ndarray | None = None

    @property
    def train_tiles(self) -> pd.DataFrame:
        return self.tiles[self.tiles["split"] == "train"].reset_index(drop=True)

    @property
    def test_tiles(self) -> pd.DataFrame:
        return self.tiles[self.tiles["split"] == "test"].reset_index(drop=True)


def write(competition: Competition, files: Files, origin: Origin) -> None:
    """Publish the arrays; tiles.csv, which the others are read by, comes last."""
    arrays = {"images.npy": competition.images, "masks.npy": competition.masks, "test.npy": competition.test}
    if competition.truth is not None:
        arrays["truth.npy"] = competition.truth
    else:
        discard(files.cache("truth.npy"))
    for name, array in arrays.items():
        publish(files.cache(name), origin, lambda tmp, array=array: np.save(tmp, array))
    publish(
        files.cache("tiles.csv"),
        origin,
        lambda tmp: competition.tiles.to_csv(tmp, index=False),
        notes=competition.notes,
    )


def read(files: Files) -> Cache:
    """The cache that `write` made. InputError if it is not there."""
    for name in NAMES:
        if not files.cache(name).exists():
            raise InputError(f"{files.cache(name)} is missing; run python -m pipeline.prepare first, same --data")
    images, masks, test = (np.load(files.cache(name), mmap_mode="r") for name in NAMES[:3])
    tiles = pd.read_csv(
        files.cache("tiles.csv"), dtype={"id": str}, keep_default_na=False, na_values={"coverage": [""]}
    )
    truth = files.cache("truth.npy")
    return Cache(images, masks, test, tiles, np.load(truth, mmap_mode="r") if truth.exists() else None)
