"""The tiles that the benches work on: Kaggle's where SALT_TILES names their folder, generated ones elsewhere."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.salt.tiles import files
from pipeline.salt.tiles.synthetic import make_sample

GENERATED = 1200


@dataclass(frozen=True)
class Tiles:
    """folder  images/<id>.png and masks/<id>.png, as in train.zip;  kind  "real" | "generated"
    images  (N, 101, 101) uint8, masks (N, 101, 101) bool, ids: the same files decoded, by id
    """

    folder: Path
    kind: str
    images: np.ndarray
    masks: np.ndarray
    ids: list[str]

    def pngs(self, count: int) -> list[Path]:
        """So many of the images' files, from the start again where there are not enough."""
        return [self.folder / "images" / f"{self.ids[i % len(self.ids)]}.png" for i in range(count)]

    def arrays(self, count: int) -> np.ndarray:
        """The same images decoded: (count, 101, 101) uint8."""
        return self.images[np.arange(count) % len(self.ids)]


@cache
def tiles() -> Tiles:
    """Kaggle's where SALT_TILES says, else GENERATED ones."""
    if "SALT_TILES" in os.environ:
        return _read(Path(os.environ["SALT_TILES"]), "real")
    return generated(GENERATED)


def generated(count: int, seed: int = 0) -> Tiles:
    where = _scratch() / "sample"
    make_sample(where, count, 1, seed=seed)
    return _read(where, "generated")


def _read(where: Path, kind: str) -> Tiles:
    """Unpacked into a temporary folder, which is gone with this process."""
    folder = files.source(where, "train")
    if folder.suffix == ".zip":
        work = _scratch()
        shutil.unpack_archive(folder, work / "train")
        folder = work / "train"
    pngs = sorted((folder / "images").iterdir())
    images = np.stack([np.asarray(Image.open(path).convert("L")) for path in pngs])
    masks = np.stack([np.asarray(Image.open(folder / "masks" / path.name)) > 0 for path in pngs])
    return Tiles(folder, kind, images, masks, [path.stem for path in pngs])


def _scratch() -> Path:
    work = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    return work
