"""Kaggle's TGS files, read in place: the zips as downloaded, or the same files unpacked.

    train.zip | train/   images/<id>.png, masks/<id>.png        train.csv               id, rle_mask
    test.zip  | test/    images/<id>.png                        sample_submission.csv   id, rle_mask
    test_truth.csv       id, rle_mask (generated tiles only)    depths.csv              id, z

A csv may have a zip of its own (`train.csv.zip`); the folders in a zip may lie below another one. Nothing is written.
"""

import contextlib
import csv
import hashlib
import io
import os
import re
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from pipeline.salt.errors import InputError, reason

COLUMNS = {
    "train.csv": "rle_mask",
    "sample_submission.csv": "rle_mask",
    "depths.csv": "z",
    "test_truth.csv": "rle_mask",
}
OPTIONAL = {"test_truth.csv"}
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
LARGEST_PNG, LARGEST_CSV = 2**20, 2**26  # bytes; the competition's csv files are below 5 MB, a raw tile is 31 KB
LINES, ITEMS = 20, 10  # lines shown for one place, and names shown in one line; the rest is "and N more", "..."
Load = Callable[[], bytes]  # reads a file; raises an exception of any kind if that fails
Pngs = dict[str, tuple[str, Load]]  # id -> name of its file, and a function that reads its bytes


class Faults:
    """Collects everything that is wrong with the input files, to report it all at once; equal faults share a line."""

    def __init__(self) -> None:
        self.faults: dict[str, dict[str, list[str | None]]] = defaultdict(lambda: defaultdict(list))
        self.files: dict[str, set[str]] = {}  # place -> its files, to tell when all of them have a fault

    def add(self, place: str, fault: str, item: str | None = None) -> None:
        """place: a file or folder;  item: an id, file or line in it, the subject of a sentence;  fault: its end."""
        self.faults[place][fault].append(item)

    def total(self) -> int:
        return sum(len(items) for faults in self.faults.values() for items in faults.values())

    def raise_if_any(self, folder: Path) -> None:
        """Raise one InputError that lists all faults; return if there are none."""
        if not (total := self.total()):
            return
        lines = [f"{total} fault{'s' * (total > 1)} in {folder}: fix the files below, or download them again."]
        for place, faults in self.faults.items():
            most_first = sorted(faults, key=lambda fault: -len(faults[fault]))
            lines += [f"  {place}: {self._sentence(place, fault)}" for fault in most_first[:LINES]]
            more = sum(len(faults[fault]) for fault in most_first[LINES:])
            lines += [f"  {place}: and {more} more faults"] * (more > 0)
        raise InputError("\n".join(lines))

    def _sentence(self, place: str, fault: str) -> str:
        items = [item for item in self.faults[place][fault] if item is not None]
        if not items:
            return fault
        if len(items) == 1:
            return f"{quoted(items[0])} {fault}"
        if {*items} == self.files.get(place):
            return f"each of the {len(items)} files {fault}"
        named = ", ".join(map(quoted, items[:ITEMS])) + ", ..." * (len(items) > ITEMS)
        return f"each of {len(items)} ({named}) {fault}"


def quoted(name: str) -> str:
    """The name of a file, column or tile; quoted and escaped if it has blanks or odd characters."""
    return name if re.fullmatch(r"[\w.-]+|line \d+", name, re.ASCII) else repr(name)


def find(folder: Path) -> bool:
    """Whether the folder holds the competition's tiles, all or some of them; reading reports what is missing."""
    return any(source(folder, split) for split in ("train", "test"))


def is_sample(folder: Path) -> bool:
    """Whether these are generated tiles: only those come with the truth of their test tiles."""
    return table(folder, "test_truth.csv") is not None


def hint(folder: Path) -> str:
    """What to do if `find` found nothing because tiles have another name or lie a level too deep, else ''."""
    if not folder.is_dir():
        return ""
    if below := next((path for path in sorted(folder.iterdir()) if path.is_dir() and find(path)), None):
        return f"{below} has them: name that folder instead"
    return packed(folder) or "; ".join(filter(None, (_misplaced(folder, split) for split in ("train", "test"))))


def packed(folder: Path) -> str:
    """'unpack X.zip' if the competition's files lie in one zip, as Kaggle's client downloads them, else ''."""
    for path in sorted(folder.glob("*.zip")):
        with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if {"train.zip", "train.csv"} <= {*archive.namelist()}:
                return f"unpack {path.name} there"
    return ""


def inputs(folder: Path) -> list[tuple[str, int, str]]:
    """(name, size in bytes, digest) of each zip, folder and csv: changes with their content; decodes nothing."""
    sources: list[tuple[Path, Iterable[bytes | tuple]]]
    sources = [(path, _listing(path)) for split in ("train", "test") if (path := source(folder, split))]
    tables = [(path, _content(path)) for name in COLUMNS if (path := table(folder, name))]
    return [(path.name, path.stat().st_size, _digest(parts)) for path, parts in [*sources, *tables]]


def source(folder: Path, split: str) -> Path | None:
    """The zip or folder with a split's PNGs. The zip if there are both: a zip is whole or broken, never partial."""
    packed, unpacked = folder / f"{split}.zip", folder / split
    return packed if packed.is_file() else unpacked if (unpacked / "images").is_dir() else None


def rows(folder: Path, name: str, faults: Faults) -> dict[str, str]:
    """id -> text of the csv's other column, in the order of the file; {} if it cannot be read."""
    path = table(folder, name)
    if path is None:
        if fault := not_a_file(folder / name) or _other_case(folder, name):
            faults.add(name, fault)
        elif name not in OPTIONAL:
            faults.add(name, "missing; on Kaggle it lies beside train.zip")
        return {}
    return csv_rows(path, COLUMNS[name], faults)


def csv_rows(path: Path, column: str, faults: Faults) -> dict[str, str]:
    """id -> text of the column, in the order of the file; {} if it cannot be read."""
    try:
        header, *lines = list(csv.reader(io.StringIO(_text(path), newline=""))) or [[]]
    except InputError as error:
        faults.add(path.name, str(error))
        return {}
    except Exception as error:  # broken bytes make zipfile, its decompressors and csv raise exceptions of any kind
        faults.add(path.name, f"cannot be read ({reason(error)}); download it again")
        return {}
    if not any(lines) or [header.count(name) for name in ("id", column)] != [1, 1]:
        columns = ", ".join(map(quoted, header)) or "none"
        faults.add(
            path.name,
            f"has the columns {columns} and {sum(map(bool, lines))} rows; it needs id and {column} once each, and a "
            "row for each tile",
        )
        return {}
    for number, line in enumerate(lines, 2):
        if line and len(line) != len(header):
            faults.add(path.name, f"has {len(line)} fields, not {len(header)}", f"line {number}")
    ids = [unicodedata.normalize("NFC", line[header.index("id")]) for line in lines if len(line) == len(header)]
    pairs = [*zip(ids, (line[header.index(column)] for line in lines if len(line) == len(header)), strict=True)]
    for tile, count in Counter(tile for tile, _ in pairs).items():
        if count > 1:
            faults.add(path.name, f"has {count} rows; an id may have only one", tile)
    return dict(pairs)


def pngs(folder: Path, split: str, faults: Faults) -> dict[str, Pngs]:
    """The PNGs of a split, under the keys 'images' and 'masks'; {} if it cannot be opened."""
    place = source(folder, split)
    if place is None:
        instead = _misplaced(folder, split)
        faults.add(f"{split}.zip", f"missing, and so is the folder {split}/images/" + f"; {instead}" * bool(instead))
        return {}
    try:
        files = sorted(_files(place), key=lambda file: not file[0].endswith(".png"))  # correctly named files first
    except Exception as error:  # of any kind, as in `csv_rows`
        faults.add(place.name, f"cut short, or not a zip ({reason(error)}); download it again")
        return {}
    kinds: dict[str, Pngs] = {"images": {}, "masks": {}}
    for name, load in files:
        path = PurePosixPath(name)
        kind, tile, suffix = path.parent.name, path.stem, path.suffix
        if kind not in kinds or suffix.lower() not in PICTURES or _is_junk(path):
            continue
        if tile not in kinds[kind]:
            kinds[kind][tile] = path.name, load if suffix == ".png" else partial(_refuse, suffix)
        elif suffix == ".png":
            faults.add(f"{place.name}/{kind}", "is there twice; an id may have only one PNG", tile)
    for kind, tiles in kinds.items():
        faults.files[f"{place.name}/{kind}"] = {name for name, _ in tiles.values()}
    return kinds


def whole_number(text: str) -> int:
    """Parse up to 9 digits, with blanks around them or not. Stricter than int(): '1_0' and '+1' are a ValueError."""
    if not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", text):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)


# ---- where things lie


def table(folder: Path, name: str) -> Path | None:
    """The path of the csv with this name, or of the zip it lies in; None if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.zip") if path.is_file()), None)


def not_a_file(path: Path) -> str:
    """The end of a sentence on why this path is not a file; '' if it is one, or if nothing is there."""
    if path.is_file():
        return ""
    if path.is_symlink() and not path.exists():
        return f"is a link to {quoted(os.readlink(path))}, which does not exist; fix or remove the link"
    return "is not a regular file; remove it" if path.exists() else ""


def _other_case(folder: Path, name: str) -> str:
    near = [path.name for path in sorted(folder.iterdir()) if path.name.lower() == name] if folder.is_dir() else []
    return f"missing; rename {quoted(near[0])} to {name}" if near else ""


def _misplaced(folder: Path, split: str) -> str:
    """What to do with a split's tiles that have another name or lie a level too deep; '' if there are none."""
    for path in (folder / f"{split}.zip", folder / split):
        if path.is_symlink() and not path.exists():
            return f"{path.name} {not_a_file(path)}"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and path.name.lower() == f"{split}.zip":
            return f"rename {quoted(path.name)} to {split}.zip"
        if path.is_dir() and path.name.lower() == split:
            for below in sorted([*path.glob("*"), *path.glob("*/*")]):
                if below.is_dir() and below.name.lower() == "images":
                    return f"move or rename {below.relative_to(folder).as_posix()} to {split}/images"
    return ""


def _is_junk(path: PurePosixPath) -> bool:
    """Whether the path is one that macOS adds to folders and zips."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


# ---- reading, never more bytes than a tile or a table can have


def _files(place: Path) -> Iterator[tuple[str, Load]]:
    """(path below the place, its reader) for each file two levels down in a folder, or for each file in a zip."""
    if place.is_dir():
        for path in sorted(place.glob("*/*")):
            yield path.relative_to(place).as_posix(), partial(_read_file, path, LARGEST_PNG)
        return
    archive = zipfile.ZipFile(place)  # closes itself when the last reader is gone
    for member in archive.infolist():
        yield member.filename, partial(_read_member, archive, member, LARGEST_PNG)


def _read_file(path: Path, most: int) -> bytes:
    if fault := not_a_file(path):
        raise InputError(fault)
    _check_size(path.stat().st_size, most)
    return path.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    if member.flag_bits & 1:
        raise InputError("is encrypted; unpack the zip with its password, then delete the zip")
    _check_size(member.file_size, most)
    with archive.open(member) as file:
        content = file.read(most + 1)  # a member may unpack to more bytes than the zip declares
    _check_size(len(content), most)
    return content


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise InputError(f"has {size:,} bytes, but should have {most:,} at most; download it again")


def _refuse(suffix: str) -> bytes:
    rename = f"ends in {suffix}; rename it to .png"
    raise InputError(rename if suffix.lower() == ".png" else f"ends in {suffix}; a tile is a PNG: download it again")


def _text(path: Path) -> str:
    if path.suffix != ".zip":
        content = _read_file(path, LARGEST_CSV)
    else:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not _is_junk(PurePosixPath(member.filename))]
            if len(members) != 1:
                raise InputError(f"holds {len(members)} files; it should hold one csv")
            content = _read_member(archive, members[0], LARGEST_CSV)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


# ---- fingerprints


def _listing(place: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of change) of every PNG in a folder, or (name, size, CRC) of every file in a zip."""
    if place.is_dir():
        return [(path.relative_to(place).as_posix(), *size_and_time(path)) for path in sorted(place.glob("*/*.png"))]
    with contextlib.suppress(Exception), zipfile.ZipFile(place) as archive:
        return [(member.filename, member.file_size, member.CRC) for member in archive.infolist()]
    return [(place.name, *size_and_time(place))]  # a broken zip, which `pngs` reports


def _content(path: Path) -> list[bytes | tuple]:
    with contextlib.suppress(InputError, OSError):
        return [_read_file(path, LARGEST_CSV)]
    return [size_and_time(path)]  # an unreadable file, which `rows` reports


def size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; those of the link itself if its target does not exist."""
    stat = path.stat() if path.exists() else path.lstat()
    return stat.st_size, stat.st_mtime_ns


def _digest(parts: Iterable[bytes | tuple]) -> str:
    return hashlib.sha256(b"".join(p if isinstance(p, bytes) else repr(p).encode() for p in parts)).hexdigest()
