"""Read pictures of any size as rows of grey or RGB bytes: PNG, JPG, TIFF, .npy, a line of a SEG-Y volume.

uint8 values stay as they are. Other numbers are scaled to grey by percentiles of up to 4 million evenly spread pixels:
the 1st is black, the 99th white, values beyond are clipped, NaN is black. SEG-Y amplitudes keep their sign: 0 is grey
128, the 99th percentile of their absolute values is white, its negative black.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.salt import disk
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError, reason
from pipeline.salt.parts import slices

PERCENTILES = (1, 99)
PIXELS_LOOKED_AT = 4_000_000  # percentiles of more pixels take longer and are hardly more precise
PIXELS_A_BYTE = 10**6  # the most that a byte of a file can stand for: in fax compression, a blank row takes one bit
SEGY, TIFF = {".sgy", ".segy"}, {".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """A picture whose rows are read when they are needed.

    name   the name given to its results
    shape  (H, W) grey or (H, W, 3) RGB
    rows   rows(top, bottom): uint8, (bottom - top, W) or (bottom - top, W, 3)
    scale  how its values were scaled to grey, in words; '' if its bytes are unchanged
    """

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]
    scale: str = ""


@contextlib.contextmanager
def open_picture(path: Path, inline: int | None = None, crossline: int | None = None) -> Iterator[Picture]:
    """Open the picture in a file: what `pixels` reads, or one inline or crossline of a SEG-Y volume, samples down.

    InputError if the file is not a picture, cannot be read, or has no such line.
    """
    if not path.is_file():
        raise InputError(f"{display_path(path)}: there is no such file")
    if path.suffix.lower() in SEGY:
        yield _segy(path, inline, crossline)
        return
    if inline is not None or crossline is not None:
        raise InputError(f"{display_path(path)}: --inline and --crossline are only for SEG-Y volumes (.sgy, .segy)")
    try:
        array = pixels(path)
    except InputError as e:
        raise InputError(f"{display_path(path)} {e}") from e
    yield from_array(path.stem, array)


def pixels(path: Path, labels: bool = False) -> np.ndarray:
    """The numbers in a PNG, JPG, TIFF or .npy: (H, W) or (H, W, channels), oriented as other programs show them.

    labels  for a palette that is not grey, return its indices: the colours of a label map are only for the eye
    Uncompressed .npy and TIFF are memory-mapped. Compressed TIFFs, or those with GDAL's nodata, go to a temporary file.
    InputError, the end of a sentence about the file, if it has another format, is damaged or holds several images.
    """
    if not path.stat().st_size:
        raise InputError("is empty (0 bytes)")
    try:
        if path.suffix.lower() == ".npy":
            # No pickle: it could run code. Mapping fails if the header claims more bytes than the file has.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise InputError("holds several arrays; a file must hold one image")
            return array
        if path.suffix.lower() in TIFF and (tiff := _tiff(path, labels)) is not None:
            return tiff
        return _pillow(path, labels)
    except InputError:
        raise
    except UnidentifiedImageError as e:
        raise InputError("is not a PNG, JPG or TIFF, whatever its name says") from e
    except Exception as e:  # broken bytes make decoders raise exceptions of any kind, even MemoryError
        raise InputError(f"cannot be decoded ({reason(e)}); save it again as PNG, JPG, TIFF or .npy") from e


def check_size(path: Path, shape: Sequence[int]) -> None:
    """ValueError if a file is too small for the pixels that it claims; call before memory is allocated for them."""
    if math.prod(shape) > PIXELS_A_BYTE * (size := path.stat().st_size):
        raise ValueError(f"it claims to be {' x '.join(map(str, shape))}, which its {size} bytes cannot hold")


def from_array(name: str, array: np.ndarray) -> Picture:
    """The picture in an array of real numbers, (H, W) or (H, W, 3), possibly a memory map; else InputError.

    With two or four channels, the last one is transparency and is dropped. True is white.
    """
    if array.ndim == 3 and array.shape[-1] in (1, 2, 4):
        array = array[..., :3] if array.shape[-1] == 4 else array[..., 0]
    grey, rgb = array.ndim == 2, array.ndim == 3 and array.shape[-1] == 3
    if not (grey or rgb) or not array.size:
        raise InputError(f"{name}: a picture must be (H, W) grey or (H, W, 3) RGB, but this is {array.shape}")
    if array.dtype == bool:
        return Picture(name, array.shape, lambda top, bottom: array[top:bottom] * np.uint8(255))
    if array.dtype == np.uint8:
        return Picture(name, array.shape, lambda top, bottom: np.asarray(array[top:bottom]))
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: a picture must hold real numbers, but this is {array.dtype}")
    step = max(1, int(np.ceil(np.sqrt(array.size / PIXELS_LOOKED_AT))))
    some = np.asarray(array[::step, ::step], np.float64)
    (low, high), words = _percentiles(name, some, PERCENTILES), "1st to 99th percentile"
    if low == high:  # all but a few values are equal
        (low, high), words = _percentiles(name, some, (0, 100)), "smallest to largest"
    return _scaled(name, array, low, high, words)


def _percentiles(name: str, values: np.ndarray, percentiles: Sequence[float]) -> np.ndarray:
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise InputError(f"{name}: it has no finite value")
    return np.percentile(finite, percentiles)


def _scaled(name: str, array: np.ndarray, low: float, high: float, words: str) -> Picture:
    """The picture in an array, with the values `low` to `high` as grey 0 to 255."""
    factor = 255 / (high - low) if high > low else 0.0

    def rows(top: int, bottom: int) -> np.ndarray:
        grey = (np.asarray(array[top:bottom], np.float64) - low) * factor
        return np.nan_to_num(grey, nan=0.0).round().clip(0, 255).astype(np.uint8)

    return Picture(name, array.shape, rows, f"values {low:.6g} to {high:.6g} ({words}) as grey 0 to 255")


# ---- formats


def _tiff(path: Path, labels: bool) -> np.ndarray | None:
    """The one image of a TIFF; None if Pillow must read it, because of its colours or its compression."""
    tifffile.logger().disabled = True  # it would print warnings on files that are refused here anyway
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = range(len(tiff.pages))  # len() ends even if the pages link in a circle; iterating would not
            kinds = [tiff.pages[i].aspage().subfiletype for i in pages]
            full = [i for i in pages if not kinds[i] & (1 | 4)]  # the others are smaller copies and transparency
            if len(full) != 1:
                raise InputError(f"has {len(full)} pages; a file must hold one image")
            page = tiff.pages[full[0]].aspage()
            check_size(path, page.shape)
            if (parts := len(page.dataoffsets)) < (needed := math.prod(page.chunked)):  # tifffile would read zeros
                raise InputError(f"has only {parts:,} of its {needed:,} strips or tiles; save it again")
            shapes = [series.shape for series in tiff.series if page.index in {p.index for p in series.pages if p}]
            if shapes != [page.shape]:  # an ImageJ stack: several images in one page
                raise InputError(f"has the shape {shapes[0] if shapes else '()'}; a file must hold one image")
            white_first = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and np.dtype(page.dtype).kind in "bu"
            if not white_first and page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
                return None
            array: np.ndarray
            if page.is_memmappable:
                array = tifffile.memmap(path, page=full[0], mode="r")
            else:  # decoded strip by strip, or tile by tile
                array = disk.zeros(page.shape, np.dtype(page.dtype))
                page.asarray(out=array, maxworkers=1)
            if array.ndim == 3 and page.axes.startswith("S"):  # one plane per colour
                array = np.moveaxis(array, 0, -1)
            if (nodata := _nodata(page, array.dtype)) is not None and not (labels and nodata == 0):
                array = _with_nan(array, nodata)
            return _upright(~array if white_first else array, _tag(page, "Orientation"))
    except ValueError as e:
        # For some compressions tifffile needs imagecodecs, a large package; Pillow can decode the common ones.
        if not any(words in str(e) for words in ("imagecodecs", "not supported")):
            raise
        return None


def _tag(page: tifffile.TiffPage, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value


def _upright(array: np.ndarray, orientation: int | None) -> np.ndarray:
    """A view of the array with rows and columns in the order that a TIFF's orientation tag asks for."""
    if orientation in (3, 4, 7):
        array = array[::-1]
    if orientation in (2, 3, 7):
        array = array[:, ::-1]
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    return array[:, ::-1] if orientation == 6 else array[::-1] if orientation == 8 else array


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> Any:
    """GDAL's nodata value, which marks pixels without a measurement, in the page's type; None if there is none.

    None as well for bytes, which are taken as they are, and for a value that no pixel of this type can have.
    """
    with contextlib.suppress(ValueError, TypeError, OverflowError), np.errstate(over="ignore"):
        nodata = float(_tag(page, "GDAL_NODATA"))
        if dtype.kind == "f" and np.isfinite(dtype.type(nodata)):
            return dtype.type(nodata)
        if dtype.kind in "iu" and dtype.itemsize > 1 and nodata.is_integer():
            return dtype.type(int(nodata))
    return None


def _with_nan(array: np.ndarray, nodata: Any) -> np.ndarray:
    """A copy as floats in a temporary file, with NaN in place of `nodata`."""
    copy = disk.zeros(array.shape, np.result_type(array.dtype, np.float32))
    for rows in slices(len(array), array.shape[1:]):
        copy[rows] = np.where(array[rows] == nodata, np.nan, array[rows])
    return copy


def _pillow(path: Path, labels: bool) -> np.ndarray:
    # Only these formats: some of the others start a program, as EPS does Ghostscript.
    with any_size(), open(path, "rb") as file, Image.open(file, formats=["PNG", "JPEG", "TIFF"]) as image:
        check_size(path, image.size)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a phone's JPG; its other frames are a thumbnail or depths
            raise InputError(f"has {frames} frames; a file must hold one image")
        image.load()  # raises if the image is damaged
        with contextlib.suppress(Exception):  # broken EXIF raises exceptions of any kind; the image then stays as it is
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB"))
        if image.mode not in ("P", "PA"):
            return np.asarray(image)
        colours = np.asarray(image.convert("RGB"))
        return np.asarray(image) if labels and (colours != colours[..., :1]).any() else colours


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """A context in which Pillow opens pictures of any size.

    Pillow's limit protects servers that strangers send files to; here, users name their own files.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _segy(path: Path, inline: int | None, crossline: int | None) -> Picture:
    try:
        import segyio
    except ImportError:
        raise InputError("SEG-Y needs segyio, which is not installed; get it with: pip install segyio") from None
    try:
        volume = segyio.open(path)
    except Exception as e:  # broken bytes make segyio raise exceptions of any kind
        raise InputError(
            f"{display_path(path)} cannot be read as a SEG-Y volume with inline and crossline numbers at bytes 189 and "
            f"193 of its trace headers ({reason(e)}); save the traces of a single 2-D line as .npy"
        ) from e
    with volume:
        if len(volume.offsets) > 1:
            raise InputError(
                f"{display_path(path)} is not stacked: it has {len(volume.offsets)} offsets; stack it first"
            )
        kinds = {"inline": (inline, volume.ilines, volume.iline), "crossline": (crossline, volume.xlines, volume.xline)}
        ranges = " or ".join(f"--{kind} {_range(numbers)}" for kind, (_, numbers, _) in kinds.items())
        asked = [(kind, number) for kind, (number, _, _) in kinds.items() if number is not None]
        if not asked:
            raise InputError(f"{display_path(path)} is a volume; choose one line with {ranges}")
        [(kind, number)] = asked
        _, numbers, lines = kinds[kind]
        if number not in numbers:
            raise InputError(f"{display_path(path)} has no {kind} {number}; choose from --{kind} {_range(numbers)}")
        section = np.ascontiguousarray(lines[number].T, np.float32)  # traces across, samples down
    name = f"{path.stem}_{kind}_{number}"
    [high], words = _percentiles(name, np.abs(section), PERCENTILES[1:]), "99th percentile of their absolute value"
    if not high:  # all but a few amplitudes are 0
        [high], words = _percentiles(name, np.abs(section), (100,)), "largest absolute value"
    high = high or 1.0
    return _scaled(name, section, -high, high, words)


def _range(numbers: np.ndarray) -> str:
    """Line numbers in words: '100 to 120', or '100 to 120 in steps of 4'."""
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return f"{numbers[0]} to {numbers[-1]}" + (f" in steps of {step}" if step != 1 else "")
