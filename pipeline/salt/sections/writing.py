"""Write the results for a picture row by row: mask.png, overlay.png, probability.tif."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

TILE = 256  # px, side of the TIFF's tiles, and rows of a band
PREVIEW = 4096  # px, longest side of an overlay
COLOUR = np.array([255, 120, 0])  # of salt in the overlay: orange, which stands out from grey
TINT = 0.35  # share of that colour in the pixels inside the outline


def write_probability(path: Path, bands: Iterator[np.ndarray], shape: tuple[int, int]) -> None:
    """Write probabilities in [0, 1] as a tiled, compressed TIFF of float32, which image and GIS programs can read.

    bands  (TILE, W) each; the last may be lower
    """

    def tiles() -> Iterator[np.ndarray]:
        for band in bands:
            for left in range(0, shape[1], TILE):
                yield np.ascontiguousarray(band[:, left : left + TILE], np.float32)

    with tifffile.TiffWriter(path, bigtiff=shape[0] * shape[1] * 4 > 2**31) as file:
        file.write(
            tiles(), shape=shape, dtype=np.float32, tile=(TILE, TILE), compression="zlib", maxworkers=1, metadata=None
        )


class MaskPng:
    """Writes a mask as a grey PNG of 0 and 255, row by row; Pillow would need all of it in memory.

    with MaskPng(path, shape) as png: png.write(rows)
    Format: https://www.w3.org/TR/png-3/
    """

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, (self.height, self.width) = path, shape

    def __enter__(self) -> "MaskPng":
        self.file, self.deflate = open(self.path, "wb"), zlib.compressobj()
        self.file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 0, 0, 0, 0))  # 8 bits, grey
        return self

    def write(self, mask: np.ndarray) -> None:
        """Write the next rows, (h, W) bool."""
        lines = np.pad(mask, ((0, 0), (1, 0)))  # each line begins with the number of its filter; 0 is none
        self._chunk(b"IDAT", self.deflate.compress((lines * np.uint8(255)).tobytes()))

    def __exit__(self, *_) -> None:
        with self.file:
            self._chunk(b"IDAT", self.deflate.flush())
            self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self.file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


class Overlay:
    """The picture with salt tinted and outlined; if it is larger than PREVIEW px, at 1/2, 1/4 ... of its size."""

    def __init__(self, picture: tuple[int, int]):
        (height, width), self.factor = picture, 1
        while max(height, width) > self.factor * PREVIEW and self.factor < TILE:
            self.factor *= 2  # a power of 2, so that it divides the rows of a band
        shape = -(-height // self.factor), -(-width // self.factor)
        self.image, self.salt, self.done = np.zeros((*shape, 3), np.uint8), np.zeros(shape, bool), 0

    def write(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Add the next rows of the picture, (h, W) or (h, W, 3) uint8, and of its mask, (h, W) bool."""
        small = self._mean(image)
        part = slice(self.done, self.done + len(small))
        self.image[part] = small if small.ndim == 3 else small[..., None]
        self.salt[part] = self._mean(mask) > 0.5
        self.done += len(small)

    def save(self, path: Path) -> None:
        around = np.pad(self.salt, 1, mode="edge")
        inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        for rows, salt, inner in zip(self.image, self.salt, inside, strict=True):  # row by row: no large float array
            rows[salt] = rows[salt] * (1 - TINT) + COLOUR * TINT
            rows[salt & ~inner] = COLOUR
        Image.fromarray(self.image).save(path, "PNG")

    def _mean(self, band: np.ndarray) -> np.ndarray:
        """Means over squares of factor x factor px; squares that reach beyond the picture repeat its last pixels."""
        f = self.factor
        if f == 1:
            return band
        height, width = band.shape[:2]
        grow = [(0, -height % f), (0, -width % f), (0, 0)][: band.ndim]
        square = np.pad(band, grow, mode="edge")
        return square.reshape(square.shape[0] // f, f, square.shape[1] // f, f, *square.shape[2:]).mean(
            axis=(1, 3), dtype=np.float32
        )
