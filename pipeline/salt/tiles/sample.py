"""Made-up tiles in Kaggle's layout and with its quirks, for whoever has none of the real ones."""
import io
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.salt import rle
from pipeline.salt.tiles.section import section

SIDE = 101
BLACK, EMPTY = 0.02, 0.39               # shares of all tiles, as in Kaggle's 4,000; black tiles are empty too
GREY, CONTRAST = (123, 20), (28, 8)     # mean and deviation over Kaggle's tiles of a tile's mean and deviation
WHEN = (2018, 7, 18, 0, 0, 0)           # in the zips, so that a seed gives the same bytes at any time


def make_sample(folder: Path, train: int, test: int, seed: int) -> None:
    """Write a competition of generated tiles, and test_truth.csv (id, rle_mask): the masks of its test tiles.

    The same numbers give the same bytes. The folder appears whole, in place of what was there before.
    """
    rng = np.random.default_rng(seed)
    splits = {"train": _tiles(rng, train), "test": _tiles(rng, test)}
    ids = [f"{number:010x}" for number in rng.choice(16**10, train + test, replace=False)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        for split, names in (("train", ids[:train]), ("test", ids[train:])):
            images, masks = splits[split]
            with zipfile.ZipFile(made / f"{split}.zip", "w") as archive:
                _add(archive, "images", names, (image[..., None].repeat(3, axis=2) for image in images))
                if split == "train":
                    _add(archive, "masks", names, (mask * np.uint16(65535) if mask.any() else mask.astype(np.uint8)
                                                   for mask in masks))
            table = {"train": "train.csv", "test": "test_truth.csv"}[split]
            _write_csv(made / table, "id,rle_mask", zip(names, rle.encode(masks), strict=True))
        _write_csv(made / "sample_submission.csv", "id,rle_mask", ((name, "1 1") for name in ids[train:]))
        _write_csv(made / "depths.csv", "id,z", zip(ids, rng.integers(50, 960, len(ids)), strict=True))
        if folder.exists():
            folder.rename(Path(temporary) / "before")
        made.rename(folder)


def _tiles(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 101, 101) uint8 and masks (N, 101, 101) bool in random order, with Kaggle's shares of black and empty."""
    black = round(BLACK * count)
    wanted = {False: count - round(EMPTY * count), True: round(EMPTY * count) - black}      # by "is empty"
    tiles = [(np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), bool))] * black
    while any(wanted.values()):
        for image, mask in _cut(rng, *section(rng)):
            empty = not mask.any()
            if wanted[empty]:
                wanted[empty] -= 1
                tiles.append((image, mask))
    order = rng.permutation(count)
    images, masks = (np.array(part) for part in zip(*tiles, strict=True))
    return images[order], masks[order]


def _cut(rng: np.random.Generator, amplitude: np.ndarray, salt: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The tiles of a section; one wholly inside salt has an empty mask, as at Kaggle."""
    for z in range(0, salt.shape[0], SIDE):
        for x in range(0, salt.shape[1], SIDE):
            tile, mask = (part[z:z + SIDE, x:x + SIDE] for part in (amplitude, salt))
            grey = rng.normal(*GREY) + max(rng.normal(*CONTRAST), 10) * (tile - tile.mean()) / tile.std()
            yield grey.clip(0, 255).astype(np.uint8), mask & ~mask.all()


def _add(archive: zipfile.ZipFile, kind: str, names: list[str], pictures: Iterable[np.ndarray]) -> None:
    for name, pixels in zip(names, pictures, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        archive.writestr(zipfile.ZipInfo(f"{kind}/{name}.png", WHEN), file.getvalue())


def _write_csv(path: Path, header: str, rows: Iterable[tuple]) -> None:
    path.write_text("".join(f"{row}\n" for row in [header, *(f"{name},{value}" for name, value in rows)]))
