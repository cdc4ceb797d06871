"""Pictures of any size as rows of grey or RGB bytes: PNG, JPG, TIFF, .npy, a line of a SEG-Y volume.

What is uint8 stays as it is. Other numbers become grey by percentiles of up to 4 million evenly spread pixels: the
1st is black and the 99th white, what lies beyond is clipped, NaN is black. Amplitudes of SEG-Y keep their sign:
0 is grey 128, the 99th percentile of their size white, and its negative black.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from pipeline.salt.artifacts import display_path, zeros_on_disk
from pipeline.salt.errors import InputError, reason

PERCENTILES = (1, 99)
PIXELS_LOOKED_AT = 4_000_000  # percentiles of more take long, and tell no more
PIXELS_A_BYTE = 10**6  # at most: a blank row takes a fax one bit
SEGY, TIFF = {".sgy", ".segy"}, {".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """A picture whose rows are read when they are needed.

    name   what its results are called
    shape  (H, W) grey or (H, W, 3) RGB
    rows   rows(top, bottom): uint8, (bottom - top, W) or (bottom - top, W, 3)
    scale  how its values became grey, in words; '' where they are bytes as they are
    """

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]
    scale: str = ""


@contextlib.contextmanager
def open_picture(path: Path, inline: int | None = None, crossline: int | None = None) -> Iterator[Picture]:
    """The picture in a file; of a SEG-Y volume one inline or crossline, traces across and samples down.

    TIFF and .npy are mapped into memory (a compressed TIFF is unpacked into a temporary file), a PNG or JPG is decoded
    as a whole. InputError for what is none of these, cannot be read, or has no such line.
    """
    if not path.is_file():
        raise InputError(f"{display_path(path)}: there is no such file")
    if path.suffix.lower() in SEGY:
        yield _segy(path, inline, crossline)
        return
    if inline is not None or crossline is not None:
        raise InputError(f"{display_path(path)}: --inline and --crossline are of SEG-Y volumes (.sgy, .segy)")
    if path.suffix.lower() == ".npy":
        yield _npy(path)
        return
    opened = _tiff(path) if path.suffix.lower() in TIFF else _pillow(path)
    with opened as picture:
        yield picture


def check_size(path: Path, shape: Sequence[int]) -> None:
    """ValueError where a file's bytes cannot hold as many pixels as it says, before memory is taken for them."""
    if math.prod(shape) > PIXELS_A_BYTE * (size := path.stat().st_size):
        raise ValueError(f"it says that it is {' x '.join(map(str, shape))}, which its {size} bytes cannot hold")


def from_array(name: str, array: np.ndarray) -> Picture:
    """An array (H, W) or (H, W, 3), which may be a memory map, of real numbers. InputError for another."""
    grey, rgb = array.ndim == 2, array.ndim == 3 and array.shape[-1] == 3
    if not (grey or rgb) or not array.size:
        raise InputError(f"{name}: a picture is (H, W) grey or (H, W, 3) RGB, and this is {array.shape}")
    if array.dtype == np.uint8:
        return Picture(name, array.shape, lambda top, bottom: np.asarray(array[top:bottom]))
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: a picture holds real numbers, and this is {array.dtype}")
    step = max(1, int(np.ceil(np.sqrt(array.size / PIXELS_LOOKED_AT))))
    some = np.asarray(array[::step, ::step], np.float64)
    (low, high), words = _percentiles(name, some, PERCENTILES), "1st to 99th percentile"
    if low == high:  # all but a few are equal
        (low, high), words = _percentiles(name, some, (0, 100)), "least to greatest"
    return _scaled(name, array, low, high, words)


def _percentiles(name: str, values: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError(f"{name}: it has no finite value")
    return np.percentile(finite, percentiles)


def _scaled(name: str, array: np.ndarray, low: float, high: float, words: str) -> Picture:
    """The picture whose values `low` to `high` are grey 0 to 255."""
    factor = 255 / (high - low) if high > low else 0.0

    def rows(top: int, bottom: int) -> np.ndarray:
        grey = (np.asarray(array[top:bottom], np.float64) - low) * factor
        return np.nan_to_num(grey, nan=0.0).round().clip(0, 255).astype(np.uint8)

    return Picture(name, array.shape, rows, f"values {low:.6g} to {high:.6g} ({words}) as grey 0 to 255")


# ---- formats


def _npy(path: Path) -> Picture:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as e:  # of a header that is not one, also MemoryError and tokenize's own
        raise InputError(f"{display_path(path)} cannot be read as an array ({reason(e)})") from e
    return from_array(path.stem, array)


@contextlib.contextmanager
def _tiff(path: Path) -> Iterator[Picture]:
    """The first page."""
    tifffile.logger().disabled = True  # it would print warnings of what is refused here
    with contextlib.ExitStack() as stack:
        try:
            page = stack.enter_context(tifffile.TiffFile(path)).pages.first
            array: np.ndarray
            if page.is_memmappable:
                array = tifffile.memmap(path, page=0, mode="r")
            else:  # strip by strip, or tile by tile
                check_size(path, page.shape)
                array = zeros_on_disk(page.shape, np.dtype(page.dtype))
                page.asarray(out=array, maxworkers=1)
        except Exception as e:  # of broken bytes, whatever it comes upon
            raise InputError(f"{display_path(path)} cannot be read as TIFF ({reason(e)})") from e
        if array.ndim == 3 and page.axes.startswith("S"):  # a plane for each colour
            array = np.moveaxis(array, 0, -1)
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            raise InputError(f"{display_path(path)}: its pixels are {kind}; save it as grey or RGB")
        if array.ndim == 3 and array.shape[-1] == 4:  # what is transparent has a colour too
            array = array[..., :3]
        yield from_array(path.stem, array)


@contextlib.contextmanager
def _pillow(path: Path) -> Iterator[Picture]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(any_size())
            file = stack.enter_context(open(path, "rb"))  # which Pillow would leave open after a fault
            image = Image.open(file, formats=["PNG", "JPEG"])  # of others some call a program: EPS Ghostscript
            check_size(path, image.size)
            image.load()
        except Exception as e:  # of broken bytes, whatever it comes upon
            raise InputError(
                f"{display_path(path)} cannot be read as a picture ({reason(e)}); take PNG, JPG, TIFF, .npy or SEG-Y"
            ) from e
        yield _of_pillow(path.stem, image)


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Inside it Pillow opens pictures of any size.

    Its limit is for servers to which strangers send files: these were named by whoever waits for them.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _of_pillow(name: str, image: Image.Image) -> Picture:
    if image.mode.startswith(("I", "F")):
        return from_array(name, np.asarray(image))
    width, height = image.size
    mode, shape = ("L", (height, width)) if image.mode in ("1", "L", "LA") else ("RGB", (height, width, 3))

    def rows(top: int, bottom: int) -> np.ndarray:
        return np.asarray(image.crop((0, top, width, bottom)).convert(mode))

    return Picture(name, shape, rows)


def _segy(path: Path, inline: int | None, crossline: int | None) -> Picture:
    try:
        import segyio
    except ImportError:
        raise InputError("segyio, which reads SEG-Y, is not installed; get it with: pip install segyio") from None
    try:
        volume = segyio.open(path)
    except Exception as e:  # of broken bytes, whatever it comes upon
        raise InputError(
            f"{display_path(path)} cannot be read as a SEG-Y volume with inline and crossline numbers in bytes 189 and "
            f"193 of its trace headers ({reason(e)})"
        ) from e
    with volume:
        kinds = {"inline": (inline, volume.ilines, volume.iline), "crossline": (crossline, volume.xlines, volume.xline)}
        ranges = " and ".join(f"--{kind} {_range(numbers)}" for kind, (_, numbers, _) in kinds.items())
        asked = [(kind, number) for kind, (number, _, _) in kinds.items() if number is not None]
        if not asked:
            raise InputError(f"{display_path(path)} is a volume: choose a line of {ranges}")
        [(kind, number)] = asked
        _, numbers, lines = kinds[kind]
        if number not in numbers:
            raise InputError(f"{display_path(path)} has no {kind} {number}; there is --{kind} {_range(numbers)}")
        section = np.ascontiguousarray(lines[number].T, np.float32)  # traces across, samples down
    name = f"{path.stem}_{kind}_{number}"
    [high] = _percentiles(name, np.abs(section), PERCENTILES[1:])
    return _scaled(name, section, -high, high, "99th percentile of their size")


def _range(numbers: np.ndarray) -> str:
    """'100 to 120', '100 to 120 in steps of 4'."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return f"{numbers[0]} to {numbers[-1]}" + (f" in steps of {step}" if step != 1 else "")
