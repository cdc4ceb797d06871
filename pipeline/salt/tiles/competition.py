"""Read the competition's tiles from Kaggle's files and check every one; the layout is in `files`."""

import hashlib
import io
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pipeline.salt import disk, rle
from pipeline.salt.errors import InputError, reason
from pipeline.salt.tiles import Tiles, files
from pipeline.salt.tiles.files import Faults, find, hint, inputs, is_sample, packed

__all__ = ["find", "hint", "inputs", "is_sample", "packed", "read"]

SIDE = 101  # px, width and height of every image and mask
SLUG = "tgs-salt-identification-challenge"
LISTS = ("train.csv", "sample_submission.csv")
DOWNLOAD = f"kaggle competitions download -c {SLUG}"
LISTED = 20  # sets of identical images that a remark names
PNG = b"\x89PNG\r\n\x1a\n"
OTHER_FORMATS = {b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"II*\0": "a TIFF", b"MM\0*": "a TIFF", b"BM": "a BMP"}


def read(folder: Path) -> tuple[Tiles, list[str]]:
    """The tiles in Kaggle's folder, and remarks on oddities that are not faults. InputError lists every fault."""
    faults = Faults()
    rows = {name: files.rows(folder, name, faults) for name in files.COLUMNS}
    train, submission, depths, truths = (
        rows[name] for name in ("train.csv", "sample_submission.csv", "depths.csv", "test_truth.csv")
    )
    pngs = {split: files.pngs(folder, split, faults) for split in ("train", "test")}
    parts = [
        ("train", "images", "train.csv", _grey),
        ("train", "masks", "train.csv", _mask),
        ("test", "images", "sample_submission.csv", _grey),
    ]
    for split, kind, table, _ in parts:
        if pngs[split] and rows[table]:
            _same_ids(_place(folder, split, kind), pngs[split][kind], table, rows[table], faults)
    if truths and submission:
        _same_ids("test_truth.csv", truths, "sample_submission.csv", submission, faults)
    for tile in submission:
        if tile in train:
            faults.add("sample_submission.csv", "is also in train.csv; each id must be one tile", tile)

    order, test_order = sorted(train), list(submission)
    total = sum(len(pngs[split].get(kind, {})) for split, kind, *_ in parts)
    with tqdm(total=total, desc="decoding tiles", unit="", disable=None) as bar:
        (train_images, _), (train_masks, masked), (test_images, _) = (
            _filled(
                order if split == "train" else test_order,
                np.bool_ if kind == "masks" else np.uint8,
                _decoded(_place(folder, split, kind), pngs[split].get(kind, {}), decode, bar, faults),
            )
            for split, kind, _, decode in parts
        )
    rows_of = {tile: row for row, tile in enumerate(order)}
    for tile, mask in _masks("train.csv", train, faults):
        row = rows_of[tile]
        if masked[row] and (wrong := np.count_nonzero(mask != train_masks[row])):
            faults.add("train.csv", f"has an RLE and a mask PNG that differ in {wrong} px", tile)
    truth, _ = _filled(test_order, np.bool_, _masks("test_truth.csv", truths, faults)) if truths else (None, None)
    z = depths_of(depths, order + test_order, faults)
    faults.raise_if_any(folder)

    table = pd.DataFrame(
        {
            "id": order + test_order,
            "split": ["train"] * len(train) + ["test"] * len(test_images),
            "z": z,
            "coverage": [*train_masks.mean(axis=(1, 2)), *np.full(len(test_images), np.nan)],
            "black": [*~np.any(train_images, axis=(1, 2)), *~np.any(test_images, axis=(1, 2))],
        }
    )
    tiles = Tiles(train_images, train_masks, test_images, table, truth)
    return tiles, remarks_of(folder, tiles)


def _place(folder: Path, split: str, kind: str) -> str:
    place = files.source(folder, split)
    return f"{place.name if place else split}/{kind}"


def _same_ids(place: str, ids: Iterable[str], table: str, expected: Iterable[str], faults: Faults) -> None:
    for tile in sorted({*expected} - {*ids}):
        faults.add(place, f"is missing, but {table} lists it", tile)
    for tile in sorted({*ids} - {*expected}):
        faults.add(place, f"has no row in {table}", tile)


def _filled(ids: list[str], dtype: type, tiles: Iterator[tuple[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 101, 101), the tiles of N ids, in a temporary file to save memory; and (N,) bool, which ids have one."""
    rows = {tile: row for row, tile in enumerate(ids)}
    array = disk.zeros((len(ids), SIDE, SIDE), dtype)
    there = np.zeros(len(ids), bool)
    for tile, pixels in tiles:
        if tile in rows:
            array[rows[tile]], there[rows[tile]] = pixels, True
    return array, there


def _decoded(
    place: str, pngs: files.Pngs, decode: Callable[[Image.Image], np.ndarray], bar: tqdm, faults: Faults
) -> Iterator[tuple[str, np.ndarray]]:
    """(id, (101, 101) array) for each PNG without a fault."""
    for tile, (name, load) in pngs.items():
        bar.update()
        try:
            yield tile, _decode_png(load(), decode)
        except InputError as error:
            faults.add(place, str(error), name)
        except (
            Exception
        ) as error:  # broken bytes make zipfile, its decompressors and Pillow raise exceptions of any kind
            faults.add(place, f"cannot be decoded ({reason(error)}); download it again", name)


def _decode_png(content: bytes, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    if not content:
        raise InputError("is empty (0 bytes); download it again")
    if not content.startswith(PNG):
        other = [name for start, name in OTHER_FORMATS.items() if content.startswith(start)]
        what = f"is {other[0]}" if other else f"begins with {content[: len(PNG)]!r}"
        raise InputError(f"{what}; a tile is a PNG: download it again")
    if len(content) < 33:
        raise InputError("is cut short; download it again")
    width, height = struct.unpack(">II", content[16:24])  # checked before Pillow, which warns of huge images
    if (width, height) != (SIDE, SIDE):
        raise InputError(
            f"is {width} x {height} px; a tile is {SIDE} x {SIDE} (without {' and '.join(LISTS)} "
            "the images count as your own and may have any size)"
        )
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.verify()  # the checksums, which decoding skips
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:  # an animation; Pillow would read its first frame
            raise InputError(f"has {frames} frames; a tile must be a single image")
        return decode(image)


def _grey(image: Image.Image) -> np.ndarray:
    """An image PNG -> (101, 101) uint8."""
    if image.mode not in ("L", "RGB", "RGBA", "P"):
        raise InputError(f"has mode {image.mode}; an image must be 8-bit grey or RGB")
    if image.mode == "L":
        return np.asarray(image)
    pixels = np.asarray(image.convert("RGB"))
    if (pixels != pixels[..., :1]).any():
        raise InputError("has colours; the three channels of an image must be equal")
    return pixels[..., 0]


def _mask(image: Image.Image) -> np.ndarray:
    """A mask PNG -> (101, 101) bool. Not by way of mode L: Pillow would clip the 16-bit masks."""
    pixels = np.asarray(image)
    values = np.unique(pixels)
    if pixels.ndim != 2 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise InputError(f"has mode {image.mode} and {len(values)} values; a mask is grey: 0 and one value for salt")
    return pixels > 0


def _masks(name: str, codes: dict[str, str], faults: Faults) -> Iterator[tuple[str, np.ndarray]]:
    """(id, (101, 101) bool) for each valid run-length code."""
    for tile, code in codes.items():
        try:
            mask = rle.decode(code, (SIDE, SIDE))
        except ValueError as error:
            faults.add(name, f"has an invalid RLE: {error}", tile)
        else:
            yield tile, mask


def depths_of(depths: dict[str, str], ids: list[str], faults: Faults) -> list[int]:
    """z of each tile whose depth is valid; depths.csv may have more ids than these."""
    z = []
    for tile in ids if depths else []:
        try:
            z.append(files.whole_number(depths[tile]))
        except KeyError:
            faults.add("depths.csv", "has no row", tile)
        except ValueError:
            faults.add("depths.csv", f"has the depth {depths[tile][:40]!r}; it must be a whole number", tile)
    return z


def remarks_of(folder: Path, tiles: Tiles) -> list[str]:
    """Sentences on what is worth a note but not a fault: zips read in place, black tiles, identical images."""
    places = [place for split in ("train", "test") if (place := files.source(folder, split))]
    remarks = [
        f"{place.name} is read in place" + f"; the folder {place.stem}/ is ignored" * place.with_suffix("").is_dir()
        for place in places
        if place.suffix == ".zip"
    ]
    table, equal = tiles.table, defaultdict(list)
    for split, black in table.groupby("split", sort=False).black.sum().items():
        remarks += [f"{black} {split} tiles are all black"] * (black > 0)
    images = (image for part in (tiles.train_images, tiles.test_images) for image in part)
    for tile, split, black, image in zip(table.id, table.split, table.black, images, strict=True):
        if not black:
            equal[hashlib.sha256(image).digest()].append(f"{split} {tile}")
    pairs = [" = ".join(names) for names in equal.values() if len(names) > 1 and names[0].startswith("train")]
    if pairs:
        more = f", and {len(pairs) - LISTED} more" * (len(pairs) > LISTED)
        remarks.append(f"{len(pairs)} train images occur more than once: {'; '.join(pairs[:LISTED])}{more}")
    return remarks
