"""Every tile of the competition, decoded and checked; `files` says how they may lie in the folder."""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pipeline.salt import rle
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import files
from pipeline.salt.tiles.faults import LINES, Faults
from pipeline.salt.tiles.files import find, inputs

__all__ = ["Competition", "find", "inputs", "read"]

SIDE = 101  # px, of every tile
SLUG = "tgs-salt-identification-challenge"
DOWNLOAD = f"kaggle competitions download -c {SLUG}"


@dataclass(frozen=True)
class Competition:
    """N train tiles sorted by id, M test tiles in the order of sample_submission.csv."""

    images: np.ndarray  # (N, 101, 101) uint8 grey
    masks: np.ndarray  # (N, 101, 101) bool, True where there is salt
    test: np.ndarray  # (M, 101, 101) uint8 grey
    tiles: pd.DataFrame  # N + M rows: id, split, z, coverage (salt share 0..1, NaN for test), black
    truth: np.ndarray | None  # (M, 101, 101) bool masks of the test tiles, where the folder has test_truth.csv
    notes: list[str]  # worth saying, no fault


def read(folder: Path, progress: bool = True) -> Competition:
    """All tiles of Kaggle's folder; InputError lists every fault of its files."""
    faults = Faults()
    rows = {name: files.rows(folder, name, faults) for name in files.COLUMNS}
    pngs = {split: files.pngs(folder, split, faults) for split in ("train", "test")}
    train, submission, depths, truths = (
        rows[name] for name in ("train.csv", "sample_submission.csv", "depths.csv", "test_truth.csv")
    )
    parts = [
        ("train", "images", train, "train.csv", _grey),
        ("train", "masks", train, "train.csv", _mask),
        ("test", "images", submission, "sample_submission.csv", _grey),
    ]
    for split, kind, expected, table, _ in parts:
        if pngs[split] and expected:
            _same_ids(f"{files.source(folder, split).name}/{kind}", pngs[split][kind], table, expected, faults)
    if truths and submission:
        _same_ids("test_truth.csv", truths, "sample_submission.csv", submission, faults)
    faults["split"] += [
        f"sample_submission.csv: {tile} is in train.csv too; an id is one tile" for tile in submission if tile in train
    ]

    found = [(pngs[split].get(kind, {}), decode) for split, kind, _, _, decode in parts]
    total, hidden = sum(len(some) for some, _ in found), None if progress else True  # None: where nobody watches
    with tqdm(total=total, desc="decoding tiles", unit="", disable=hidden) as bar:
        images, masks, test = (_decode(some, decode, bar, faults) for some, decode in found)
    _masks("train.csv", train, masks, faults)
    truth = _masks("test_truth.csv", truths, {}, faults)
    order, test_order = sorted(train), list(submission)
    z = _depths(depths, order + test_order, faults)
    faults.raise_if_any(folder)

    images, masks, test = (_stack(tiles, ids) for tiles, ids in ((images, order), (masks, order), (test, test_order)))
    tiles = pd.DataFrame(
        {
            "id": order + test_order,
            "split": ["train"] * len(train) + ["test"] * len(test),
            "z": z,
            "coverage": [*masks.mean(axis=(1, 2)), *np.full(len(test), np.nan)],
            "black": [*~images.any(axis=(1, 2)), *~test.any(axis=(1, 2))],
        }
    )
    notes = _notes(folder, tiles, [*images, *test])
    return Competition(images, masks, test, tiles, _stack(truth, test_order) if truth else None, notes)


def _same_ids(place: str, found: Iterable[str], table: str, expected: Iterable[str], faults: Faults) -> None:
    faults["missing"] += [f"{place}: {tile} is missing, {table} has it" for tile in sorted({*expected} - {*found})]
    faults["no row"] += [f"{place}: {tile} has no row in {table}" for tile in sorted({*found} - {*expected})]


def _decode(
    pngs: files.Pngs, decode: Callable[[Image.Image], np.ndarray], bar: tqdm, faults: Faults
) -> dict[str, np.ndarray]:
    """id -> (101, 101) array of each PNG without fault."""
    tiles = {}
    for tile, (name, load) in pngs.items():
        bar.update()
        try:
            with Image.open(io.BytesIO(load()), formats=["PNG"]) as image:
                if image.size != (SIDE, SIDE):
                    raise InputError(f"is {image.width} x {image.height} px; a tile is {SIDE} x {SIDE}")
                tiles[tile] = decode(image)
        except InputError as error:
            faults["picture"].append(f"{name}: {error}")
        except files.BROKEN as error:
            reason = str(error) or type(error).__name__
            faults["broken PNG"].append(f"{name}: cannot be decoded ({reason}); download it again")
    return tiles


def _grey(image: Image.Image) -> np.ndarray:
    """(101, 101) uint8."""
    if image.mode not in ("L", "RGB", "RGBA", "P"):
        raise InputError(f"is of mode {image.mode}; an image is 8-bit grey or RGB")
    if image.mode == "L":
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGB"))
    if (pixels != pixels[..., :1]).any():
        raise InputError("has colours; the three channels of an image are equal")
    return pixels[..., 0].copy()  # a view would keep all three channels in memory


def _mask(image: Image.Image) -> np.ndarray:
    """(101, 101) bool; not through mode L, to which Pillow would clip the 16-bit masks."""
    pixels = np.asarray(image)
    values = np.unique(pixels)
    if pixels.ndim != 2 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise InputError(f"has mode {image.mode} and {len(values)} values; a mask is grey, 0 and one value for salt")
    return pixels > 0


def _masks(name: str, codes: dict[str, str], pngs: dict[str, np.ndarray], faults: Faults) -> dict[str, np.ndarray]:
    """id -> (101, 101) bool of each valid code, held against the PNG where there is one."""
    masks = {}
    for tile, code in codes.items():
        try:
            masks[tile] = rle.decode(code, (SIDE, SIDE))
        except ValueError as error:
            faults["RLE"].append(f"{name}: {tile}: {error}")
            continue
        if wrong := np.count_nonzero(masks[tile] != pngs.get(tile, masks[tile])):
            faults["RLE and PNG"].append(f"{name}: {tile}: its RLE and its mask PNG differ in {wrong} px")
    return masks


def _depths(depths: dict[str, str], ids: list[str], faults: Faults) -> list[int]:
    """z of the tiles without fault; depths.csv may have more ids."""
    z = []
    for tile in ids if depths else []:
        try:
            z.append(int(depths[tile]))
        except KeyError:
            faults["depth"].append(f"depths.csv: {tile} has no row")
        except ValueError:
            faults["depth"].append(f"depths.csv: {tile} has the depth {depths[tile]!r}; a whole number is needed")
    return z


def _stack(tiles: dict[str, np.ndarray], ids: list[str]) -> np.ndarray:
    return np.stack([tiles[tile] for tile in ids])


def _notes(folder: Path, tiles: pd.DataFrame, images: list[np.ndarray]) -> list[str]:
    places = [files.source(folder, split) for split in ("train", "test")]
    notes = [
        f"{place.name} is read in place" + f", the folder {place.stem}/ is not" * place.with_suffix("").is_dir()
        for place in places
        if place.suffix == ".zip"
    ]
    for split, black in tiles.groupby("split", sort=False).black.sum().items():
        notes += [f"{black} {split} tiles are all black"] * (black > 0)
    same = defaultdict(list)
    for tile, split, black, image in zip(tiles.id, tiles.split, tiles.black, images, strict=True):
        if not black:
            same[image.tobytes()].append(f"{split} {tile}")
    pairs = [" = ".join(names) for names in same.values() if len(names) > 1 and names[0].startswith("train")]
    if pairs:
        more = f", and {len(pairs) - LINES} more" * (len(pairs) > LINES)
        notes.append(f"{len(pairs)} train pictures are there more than once: {'; '.join(pairs[:LINES])}{more}")
    return notes
