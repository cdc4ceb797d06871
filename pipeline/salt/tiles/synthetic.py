"""Generate a data set of tiles with the layout and quirks of Kaggle's, for use without the real ones."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.salt import disk, rle
from pipeline.salt.tiles.competition import SIDE
from pipeline.salt.tiles.synthetic_section import make_section

BLACK, EMPTY = 0.02, 0.39  # shares of all tiles, as in Kaggle's 4,000; black tiles count as empty, too
GREY, CONTRAST = (123, 20), (28, 8)  # a tile's mean grey and its deviation: their (mean, deviation) over Kaggle's tiles
ZIP_TIME = (2018, 7, 18, 0, 0, 0)  # time stamp in the zips: fixed, so that a seed always gives the same bytes


def make_sample(folder: Path, train: int, test: int, seed: int) -> None:
    """Write generated tiles in the competition's layout, and the test tiles' masks in test_truth.csv (id, rle_mask).

    The same arguments give the same bytes. The folder appears complete, and replaces one that was there before.
    """
    rng = np.random.default_rng(seed)
    images, masks = _tiles(rng, train + test)
    ids = [f"{number:010x}" for number in rng.choice(16**10, train + test, replace=False)]
    codes = list(zip(ids, rle.encode(masks), strict=True))
    with disk.temporary(folder) as temporary:
        made = temporary / "made"
        made.mkdir(parents=True)
        with zipfile.ZipFile(made / "train.zip", "w") as archive:
            _add(archive, "images", ids[:train], map(_rgb, images[:train]))
            _add(archive, "masks", ids[:train], map(_sixteen_bit_if_salt, masks[:train]))
        with zipfile.ZipFile(made / "test.zip", "w") as archive:
            _add(archive, "images", ids[train:], map(_rgb, images[train:]))
        _write_csv(made / "train.csv", "id,rle_mask", codes[:train])
        _write_csv(made / "test_truth.csv", "id,rle_mask", codes[train:])
        _write_csv(made / "sample_submission.csv", "id,rle_mask", [(tile, "1 1") for tile in ids[train:]])
        _write_csv(made / "depths.csv", "id,z", zip(ids, rng.integers(50, 960, len(ids)), strict=True))
        if folder.exists():
            folder.rename(temporary / "before")
        made.rename(folder)


def _tiles(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 101, 101) uint8 and masks (N, 101, 101) bool, in random order, as Kaggle's are."""
    black = round(BLACK * count)
    wanted = {False: count - round(EMPTY * count), True: round(EMPTY * count) - black}  # by "is empty"
    tiles = [(np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), bool))] * black
    while any(wanted.values()):
        for image, mask in _cut(rng, *make_section(rng)):
            empty = not mask.any()
            if wanted[empty]:
                wanted[empty] -= 1
                tiles.append((image, mask))
    order = rng.permutation(count)
    images, masks = (np.array(part) for part in zip(*tiles, strict=True))
    return images[order], masks[order]


def _cut(rng: np.random.Generator, amplitude: np.ndarray, salt: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The tiles of a section, with their masks; a tile wholly inside salt has an empty mask, as at Kaggle."""
    for z in range(0, salt.shape[0], SIDE):
        for x in range(0, salt.shape[1], SIDE):
            tile, mask = (part[z : z + SIDE, x : x + SIDE] for part in (amplitude, salt))
            grey = rng.normal(*GREY) + max(rng.normal(*CONTRAST), 10) * (tile - tile.mean()) / tile.std()
            yield grey.clip(0, 255).astype(np.uint8), mask & ~mask.all()


def _rgb(image: np.ndarray) -> np.ndarray:
    return image[..., None].repeat(3, axis=2)


def _sixteen_bit_if_salt(mask: np.ndarray) -> np.ndarray:
    return mask * np.uint16(65535) if mask.any() else mask.astype(np.uint8)


def _add(archive: zipfile.ZipFile, kind: str, ids: list[str], pictures: Iterable[np.ndarray]) -> None:
    for tile, pixels in zip(ids, pictures, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        archive.writestr(zipfile.ZipInfo(f"{kind}/{tile}.png", ZIP_TIME), file.getvalue())


def _write_csv(path: Path, header: str, rows: Iterable[tuple]) -> None:
    path.write_text("\n".join([header, *(f"{tile},{value}" for tile, value in rows)]) + "\n")
