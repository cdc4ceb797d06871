"""The tiles that the benches use: Kaggle's if SALT_TILES names their folder, else generated ones."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.tiles import files
from pipeline.salt.tiles.synthetic import make_sample

GENERATED = 1200


@dataclass(frozen=True)
class BenchTiles:
    """Labelled tiles in two forms: as PNG files, which the plain side reads, and decoded.

    folder  images/<id>.png and masks/<id>.png, as in train.zip;  kind  "real" | "generated"
    images  (N, 101, 101) uint8;  masks  (N, 101, 101) bool;  ids  (N,), sorted
    """

    folder: Path
    kind: str
    images: np.ndarray
    masks: np.ndarray
    ids: list[str]

    def pngs(self, count: int) -> list[Path]:
        """Files of `count` images, starting over if there are too few."""
        return [self.folder / "images" / f"{self.ids[i % len(self.ids)]}.png" for i in range(count)]

    def arrays(self, count: int) -> np.ndarray:
        """The same images decoded: (count, 101, 101) uint8."""
        return self.images[np.arange(count) % len(self.ids)]


@cache
def load_tiles() -> BenchTiles:
    """Kaggle's tiles from the folder SALT_TILES, else GENERATED ones."""
    if "SALT_TILES" in os.environ:
        return _read(Path(os.environ["SALT_TILES"]), "real")
    return generate_tiles(GENERATED)


def generate_tiles(count: int, seed: int = 0) -> BenchTiles:
    """Tiles of the built-in sample."""
    folder = _temporary_folder() / "sample"
    make_sample(folder, count, 1, seed=seed)
    return _read(folder, "generated")


def random_masks(n: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Masks (n, side, side) bool like Kaggle's: smooth bodies, three in ten pixels, two in five tiles empty."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 1, 2, 2, generator=generator)
    masks = F.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0] > 0
    masks[torch.rand(n, generator=generator) < 0.4] = False
    return masks.to(device)


def _read(data: Path, kind: str) -> BenchTiles:
    folder = files.source(data, "train")
    if folder.suffix == ".zip":
        unpacked = _temporary_folder() / "train"
        shutil.unpack_archive(folder, unpacked)
        folder = unpacked
    pngs = sorted((folder / "images").iterdir(), key=lambda path: path.stem)
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in pngs])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / path.name)) > 0 for path in pngs])
    return BenchTiles(folder, kind, images, masks, [path.stem for path in pngs])


def _temporary_folder() -> Path:
    """A new folder, deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
