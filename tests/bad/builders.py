"""Builders for the tables of bad inputs: small valid files, and ways to damage one of them."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Spoil = Callable[[Path], object]  # changes the folder that it is given

TRAIN = ["aa00000001", "0000000002", "12345e6789", "bb00000004"]  # two of them look like numbers
TEST = ["cc00000002", "cc00000001"]  # not in the order of their ids
RLE = {"aa00000001": "1 101", "0000000002": "", "12345e6789": "1 2 102 2", "bb00000004": "10201 1"}
IMAGE, MASK = "train/images/aa00000001.png", "train/masks/aa00000001.png"


class Bomb:
    """Runs code when unpickled, which here ends the test; harmless as plain bytes."""

    def __reduce__(self):
        return exec, ("import pytest; pytest.fail('code in a file was run')",)


# ---- pictures


def png(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def image(seed: int = 0) -> np.ndarray:
    """(101, 101, 3) uint8 with equal channels."""
    return np.random.default_rng(seed).integers(0, 256, (101, 101, 1), dtype=np.uint8).repeat(3, axis=2)


def grey(seed: int = 0) -> np.ndarray:
    """(101, 101) uint8."""
    return image(seed)[..., 0].copy()


def mask(*pixels: tuple[slice | int, slice | int]) -> np.ndarray:
    """(101, 101) uint16 in {0, 65535}, or uint8 if empty, as in Kaggle's files."""
    drawn = np.zeros((101, 101), np.uint16)
    for where in pixels:
        drawn[where] = 65535
    return drawn if pixels else drawn.astype(np.uint8)


def picture(mode: str, form: str = "PNG", **options) -> bytes:
    """The picture `grey(0)` in another mode or format."""
    file = io.BytesIO()
    Image.fromarray(grey()).convert(mode).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int = 101, height: int = 101, depth: int = 8, colour: int = 0, lines: bytes = b"", *more) -> bytes:
    """A PNG built chunk by chunk. lines: uncompressed, each a filter byte and a row; more: chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"".join(parts)


def flipped(content: bytes, at: int) -> bytes:
    """The bytes, with four bits of the one at this place flipped."""
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


LINES = b"".join(b"\0" + row.tobytes() for row in grey())  # of the raw PNG of grey(0)


# ---- Kaggle's folder


def competition(folder: Path) -> Path:
    """Four train and two test tiles, unpacked: ids that look like numbers, a black tile, a depth without a tile."""
    for name in ("train/images", "train/masks", "test/images"):
        (folder / name).mkdir(parents=True)
    masks = [mask((slice(None), 0)), mask(), mask((slice(2), slice(2))), mask((100, 100))]
    for i, tile in enumerate(TRAIN):
        (folder / f"train/images/{tile}.png").write_bytes(png(image(i) * (i != 1)))  # the second is black
        (folder / f"train/masks/{tile}.png").write_bytes(png(masks[i]))
    for i, tile in enumerate(TEST):
        (folder / f"test/images/{tile}.png").write_bytes(png(image(10 + i)))
    (folder / "train.csv").write_text("id,rle_mask\n" + "".join(f"{tile},{RLE[tile]}\n" for tile in TRAIN))
    (folder / "sample_submission.csv").write_text("id,rle_mask\n" + "".join(f"{tile},1 1\n" for tile in TEST))
    depths = "".join(f"{100 + i},{tile}\n" for i, tile in enumerate([*TRAIN, *TEST, "dd"]))
    (folder / "depths.csv").write_text(f"z,id\n{depths}\n")
    return folder


# ---- ways to spoil a folder


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def edit(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return spoil


def put(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def change(name: str, to: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: (folder / name).write_bytes(to((folder / name).read_bytes()))


def array(name: str, pixels: np.ndarray) -> Spoil:
    return lambda folder: np.save(folder / name, pixels, allow_pickle=True)


def cut(name: str, by: int = 100) -> Spoil:
    return change(name, lambda content: content[:-by])


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def move(name: str, to: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder / to)

    return spoil


def instead(name: str, make: Callable[[Path], object]) -> Spoil:
    """Replace a file by something else."""
    return both(remove(name), lambda folder: make(folder / name))


def link(name: str, to: str) -> Spoil:
    return instead(name, lambda path: path.symlink_to(to))


def deepen(name: str) -> Spoil:
    return both(move(name, "moved"), move("moved", f"{name}/{name}"))


# ---- zips

LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"  # signatures of a zip's records


def packed(split: str, *more: tuple[str | zipfile.ZipInfo, bytes], without: str = "", method: int = 0) -> Spoil:
    """Replace a split's folder by a zip without one of its files; `more` members come first."""

    def spoil(folder: Path) -> None:
        with zipfile.ZipFile(folder / f"{split}.zip", "w", method) as archive:
            for name, content in more:
                archive.writestr(name, content)
            for path in sorted((folder / split).glob("*/*.png")):
                if (name := path.relative_to(folder / split).as_posix()) != without:
                    archive.write(path, name)
        for path in sorted((folder / split).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (folder / split).rmdir()

    return spoil


def patched(name: str, signature: bytes, offset: int, value: bytes) -> Spoil:
    """Overwrite bytes at an offset from the first record of this kind."""

    def to(content: bytes) -> bytes:
        at = content.index(signature) + offset
        return content[:at] + value + content[at + len(value) :]

    return change(name, to)


def zipped(name: str, *members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Spoil:
    """A zip file of these members."""

    def spoil(folder: Path) -> None:
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, content in members:
                archive.writestr(member, content)

    return spoil


def as_link(name: str) -> zipfile.ZipInfo:
    """A zip member that unpackers would turn into a symbolic link."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info
