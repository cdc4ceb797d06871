"""Kaggle's TGS files where they lie: the zips as they were downloaded, or the same unpacked.

    train.zip | train/   images/<id>.png, masks/<id>.png        train.csv               id, rle_mask
    test.zip  | test/    images/<id>.png                        sample_submission.csv   id, rle_mask
    test_truth.csv       id, rle_mask (generated tiles only)    depths.csv              id, z

A csv may lie in a zip of its own (`train.csv.zip`), a zip's folders below another. Nothing is written.
"""

import csv
import hashlib
import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from pipeline.salt.tiles.faults import Faults

COLUMNS = {
    "train.csv": "rle_mask",
    "sample_submission.csv": "rle_mask",
    "depths.csv": "z",
    "test_truth.csv": "rle_mask",
}
OPTIONAL = {"test_truth.csv"}
# What zipfile, zlib and Pillow raise, between them, on broken bytes.
BROKEN = (
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)

Pngs = dict[str, tuple[str, Callable[[], bytes]]]  # id -> its file's name for people, the way to its bytes


def find(folder: Path) -> bool:
    """Whether the folder holds the competition's tiles, whole or in part (what is missing, reading it will say)."""
    return any(source(folder, split) for split in ("train", "test"))


def inputs(folder: Path) -> list[tuple[str, int, str]]:
    """(name, size in bytes, digest) of each zip, folder and csv: differs when their content does; decodes nothing."""
    sources = [(path, _listing(path)) for split in ("train", "test") if (path := source(folder, split))]
    tables = [(path, [path.read_bytes()]) for name in COLUMNS if (path := _table(folder, name))]
    return [(path.name, path.stat().st_size, _digest(parts)) for path, parts in [*sources, *tables]]


def source(folder: Path, split: str) -> Path | None:
    """The zip or the folder of a split's PNGs; the zip where there are both: it is whole or broken, never partial."""
    packed, unpacked = folder / f"{split}.zip", folder / split
    return packed if packed.is_file() else unpacked if (unpacked / "images").is_dir() else None


def rows(folder: Path, name: str, faults: Faults) -> dict[str, str]:
    """id -> text of the csv's other column, in the order of the file; {} where it cannot be read."""
    path, column = _table(folder, name), COLUMNS[name]
    if path is None:
        faults["csv"] += [f"{name}: missing; Kaggle has it beside train.zip"] * (name not in OPTIONAL)
        return {}
    try:
        header, *lines = list(csv.reader(io.StringIO(_text(path), newline=""))) or [[]]
    except (*BROKEN, csv.Error) as error:
        faults["csv"].append(f"{path.name}: cannot be read ({error}); download it again")
        return {}
    if not lines or not {"id", column} <= set(header):
        faults["csv"].append(
            f"{path.name}: has the columns {', '.join(header) or 'none'} and {len(lines)} rows; "
            f"it needs id and {column}, and a row for each tile"
        )
        return {}
    faults["ragged csv"] += [
        f"{path.name}: line {number} has {len(line)} fields, not {len(header)}"
        for number, line in enumerate(lines, 2)
        if line and len(line) != len(header)
    ]
    pairs = [(line[header.index("id")], line[header.index(column)]) for line in lines if len(line) == len(header)]
    faults["id twice"] += [
        f"{path.name}: {tile} has {count} rows; an id may have one"
        for tile, count in Counter(tile for tile, _ in pairs).items()
        if count > 1
    ]
    return dict(pairs)


def pngs(folder: Path, split: str, faults: Faults) -> dict[str, Pngs]:
    """The PNGs below 'images' and 'masks', {} where the split cannot be opened."""
    place = source(folder, split)
    if place is None:
        faults["tiles"].append(f"{split}.zip: missing, and there is no {split}/images/ in its place")
        return {}
    try:
        files = list(_files(place))
    except BROKEN as error:
        faults["tiles"].append(f"{place.name}: cut short or no zip ({error}); download it again")
        return {}
    found: dict[str, Pngs] = {"images": {}, "masks": {}}
    for name, load in files:
        path = PurePosixPath(name)
        kind, tile = path.parent.name, path.stem
        if kind in found and path.suffix == ".png" and not _is_junk(path):
            label = f"{place.name}/{name}"
            if tile in found[kind]:
                faults["id twice"].append(f"{label}: {kind} has {tile} twice; an id may have one PNG")
            found[kind][tile] = label, load
    return found


def _table(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.zip") if path.is_file()), None)


def _text(path: Path) -> str:
    if path.suffix != ".zip":
        return path.read_text(encoding="utf-8-sig")
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if not _is_junk(PurePosixPath(name))]
        if len(members) != 1:
            raise zipfile.BadZipFile(f"{len(members)} files in it, where one csv belongs")
        return archive.read(members[0]).decode("utf-8-sig")


def _files(place: Path) -> Iterable[tuple[str, Callable[[], bytes]]]:
    if place.is_dir():
        return ((path.relative_to(place).as_posix(), path.read_bytes) for path in sorted(place.glob("*/*.png")))
    archive = zipfile.ZipFile(place)  # closes itself when the last reader is gone
    return ((member.filename, partial(archive.read, member)) for member in archive.infolist())


def _is_junk(path: PurePosixPath) -> bool:
    """Whether macOS put it there."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _listing(place: Path) -> list[tuple[str, int, int]]:
    """(name, size, CRC or time of change) of every file in a folder or a zip."""
    if place.is_dir():
        paths = sorted(place.glob("*/*.png"))
        return [(path.relative_to(place).as_posix(), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in paths]
    try:
        with zipfile.ZipFile(place) as archive:
            return [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    except BROKEN:  # `pngs` tells the user
        return [(place.name, place.stat().st_size, place.stat().st_mtime_ns)]


def _digest(parts: Iterable[bytes | tuple]) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()
