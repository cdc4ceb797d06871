"""Tables of odd files in one's own folder, each a change to a valid one: REFUSED with their message, TAKEN with a
reason."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.bad.builders import (
    Bomb,
    Spoil,
    array,
    both,
    change,
    cut,
    edit,
    flipped,
    instead,
    link,
    move,
    picture,
    png,
    put,
    raw_png,
    remove,
)

SIDE = (40, 56)  # rows and columns of each image
IMAGE, MASK = "images/b.npy", "masks/b.npy"


def scene(seed: int) -> np.ndarray:
    """(40, 56) uint8."""
    return np.random.default_rng(seed).integers(0, 256, SIDE, dtype=np.uint8)


def whole(folder: Path) -> Path:
    """A valid folder: three images with masks, one to predict, and a depth for each."""
    for i, name in enumerate(("images/a", "images/b", "images/c", "test/d")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", scene(i))
        if i < 3:
            (folder / "masks").mkdir(exist_ok=True)
            np.save(folder / f"masks/{'abc'[i]}.npy", scene(i) > 128)
    (folder / "depths.csv").write_text("id,z\na,1\nb,2\nc,3\nd,4\n")
    return folder


def npy(pixels: object, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(pixels), **options)
    return file.getvalue()


def header(text: str) -> bytes:
    """A .npy with this header and 2,240 bytes of data."""
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + bytes(40 * 56)


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def tag(number: int, value: int) -> bytes:
    """A TIFF tag whose value is a 32-bit integer."""
    return struct.pack("<HHII", number, 4, 1, value)


def round_in_a_circle(content: bytes) -> bytes:
    """A TIFF whose only page links to itself as the next one."""
    end = 10 + 12 * struct.unpack_from("<H", content, 8)[0]
    return content[:end] + struct.pack("<I", 8) + content[end + 4 :]


def image(ending: str, content: bytes) -> Spoil:
    """Replace the file of image b."""
    return both(remove(IMAGE), put(f"images/b.{ending}", content))


def mask(ending: str, content: bytes) -> Spoil:
    return both(remove(MASK), put(f"masks/b.{ending}", content))


def pages(*pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in pixels:
            writer.write(page, contiguous=False)
    return file.getvalue()


def saved(pixels: np.ndarray, form: str, mode: str = "", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode or None).save(file, form, **options)
    return file.getvalue()


GREY, NAN = scene(1), scene(1).astype(np.float32)
NAN[:20] = np.nan
STRUCTURED = np.zeros(SIDE, dtype=[("r", "u1"), ("g", "u1")])
RGBA = np.dstack([GREY, GREY, 255 - GREY, GREY])

# name: (spoil, the one line that must be said: a regular expression)
REFUSED: dict[str, tuple[Spoil, str]] = {
    # ---- which files there are
    "mask missing": (
        remove(MASK),
        r"^images: b has no mask of that name in masks/; move images without a mask to test/",
    ),
    "image missing": (remove(IMAGE), r"^masks: b has no image of that name in images/"),
    "masks missing": (move("masks", "else"), r"^masks: missing; there is no such folder$"),
    "masks elsewhere": (move("masks", "labels"), r"^masks: missing; there is no such folder: rename labels to masks$"),
    "masks a level too deep": (move("masks", "else/masks"), r"^masks: missing; there is no such folder$"),
    "image in train and test": (
        move("test/d.npy", "test/b.npy"),
        r"^test: b is also among the labelled images; names must differ: rename it$",
    ),
    "image twice": (put("images/b.png", png(GREY)), r"^images: b is there twice, \.npy and \.png; remove one of them$"),
    "other format": (put("test/a.bmp", b"BM"), r"^test: a.bmp ends in .bmp; save it as one of \.png, "),
    "SEG-Y": (put("test/a.sgy", b"C"), r"^test: a.sgy ends in .sgy; save it as one of \.png, "),
    "MATLAB": (put("test/a.mat", b"MATLAB 5.0"), r"^test: a.mat ends in .mat; save it as one of \.png, "),
    "a folder": (instead(IMAGE, Path.mkdir), r"^images: b.npy is not a regular file; remove it"),
    "a pipe": (instead(IMAGE, os.mkfifo), r"^images: b.npy is not a regular file; remove it"),
    "a device": (link(IMAGE, "/dev/zero"), r"^images: b.npy is not a regular file; remove it"),
    "a dangling link": (link(IMAGE, "gone"), r"^images: b.npy is a link to gone, which does not exist"),
    "a name that is no text": (
        lambda folder: (folder / "test/d.npy").rename(os.fsdecode(os.fsencode(folder / "test") + b"/\xff.npy")),
        r"^test: '\\udcff.npy' has a name with characters that cannot be printed; rename it$",
    ),
    "a name with a line break": (
        move("test/d.npy", "test/d\nerror: e.npy"),
        r"^test: 'd\\nerror: e.npy' has a name with characters that cannot be printed; rename it$",
    ),
    # ---- .npy
    "npy empty": (put(IMAGE, b""), r"^images: b.npy is empty \(0 bytes\)$"),
    "npy a web page": (put(IMAGE, b"<html>"), r"^images: b.npy cannot be decoded \(.*\); save it again as PNG"),
    "npy cut short": (cut(IMAGE), r"^images: b.npy cannot be decoded \("),
    "npy cut in its header": (change(IMAGE, lambda old: old[:20]), r"^images: b.npy cannot be decoded \("),
    "npy of objects": (
        array(IMAGE, np.array([[{}]])),
        r"^images: b.npy cannot be decoded \((Object|Array can't be memory-mapped: Python obj).*\); save it again",
    ),
    "npy that would run code": (
        array(IMAGE, np.array([[Bomb()]], dtype=object)),
        r"^images: b.npy cannot be decoded \((Object|Array can't be memory-mapped: Python obj)",
    ),
    "npy a bare pickle": (
        put(IMAGE, b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R."),
        r"^images: b.npy cannot be decoded \(",
    ),
    "npy several arrays": (
        both(remove(IMAGE), lambda folder: np.savez(folder / "b.npz", a=GREY, b=GREY), move("b.npz", IMAGE)),
        r"^images: b.npy (cannot be decoded|holds several arrays; a file must hold one image)",
    ),
    "npy that says it is huge": (
        put(IMAGE, header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000000000)}\n")),
        r"^images: b.npy cannot be decoded \(",
    ),
    "npy of a negative shape": (
        put(IMAGE, header("{'descr': '|u1', 'fortran_order': False, 'shape': (-40, -56)}\n")),
        r"^images: b.npy (cannot be decoded \(|has the shape)",
    ),
    "npy whose header is code": (
        put(IMAGE, header("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (40, 56)}\n")),
        r"^images: b.npy cannot be decoded \(malformed node or string",
    ),
    "npy whose header is deep": (put(IMAGE, header("(" * 9000)), r"^images: b.npy cannot be decoded \(.{,300}$"),
    "npy of text": (array(IMAGE, np.array([["a"]])), r"^images: b.npy holds <U1; an image must hold whole numbers or"),
    "npy of complex numbers": (
        array(IMAGE, GREY * 1j),
        r"^images: b.npy holds complex128; an image must hold whole numbers",
    ),
    "npy of dates": (
        array(IMAGE, GREY.astype("datetime64[s]")),
        r"^images: b.npy holds datetime64\[s\]; an image must",
    ),
    "npy of records": (array(IMAGE, STRUCTURED), r"^images: b.npy holds \[\('r'.*; an image must hold whole numbers"),
    "npy a stack": (array(IMAGE, np.zeros((5, *SIDE))), r"^images: b.npy has the shape \(5, 40, 56\)"),
    "npy of five channels": (array(IMAGE, np.zeros((*SIDE, 5))), r"^images: b.npy has the shape \(40, 56, 5\)"),
    "npy a line": (array(IMAGE, np.zeros(56)), r"^images: b.npy has the shape \(56,\)"),
    "npy a number": (array(IMAGE, np.float64(7)), r"^images: b.npy has the shape \(\)"),
    "npy of no rows": (array(IMAGE, np.zeros((0, 56))), r"^images: b.npy (has the shape \(0, 56\)|cannot be decoded)"),
    "npy of NaN alone": (array(IMAGE, np.full(SIDE, np.nan)), r"^images: b.npy has no finite value$"),
    "npy of inf alone": (array(IMAGE, np.full(SIDE, np.inf)), r"^images: b.npy has no finite value$"),
    # ---- pictures
    "PNG cut short": (image("png", png(GREY)[:-100]), r"^images: b.png cannot be decoded \("),
    "PNG with another byte": (image("png", flipped(png(GREY), 1000)), r"^images: b.png cannot be decoded \("),
    "PNG a GIF": (
        image("png", picture("P", "GIF")),
        "^images: b.png is not a PNG, JPG or TIFF, whatever its name says$",
    ),
    "PNG a zip": (image("png", b"PK\3\4" + bytes(100)), "^images: b.png is not a PNG, JPG or TIFF, whatever"),
    "PNG of several frames": (
        image("png", png(GREY, save_all=True, append_images=[Image.fromarray(GREY + 1)])),
        r"^images: b.png has 2 frames; a file must hold one image",
    ),
    "PNG that says it is huge": (
        image("png", raw_png(2**31 - 1, 2**31 - 1)),
        r"^images: b.png cannot be decoded \(it claims to be 2147483647 x 2147483647, which its \d+ bytes",
    ),
    "JPG cut short": (image("jpg", saved(GREY, "JPEG")[:-300]), r"^images: b.jpg cannot be decoded \("),
    "JPG a web page": (image("jpeg", b"<html>" * 99), "^images: b.jpeg is not a PNG, JPG or TIFF, whatever"),
    "TIFF cut short": (image("tif", tiff(GREY)[:-100]), r"^images: b.tif cannot be decoded \("),
    "TIFF cut in its header": (image("tif", tiff(GREY)[:40]), r"^images: b.tif cannot be decoded \("),
    "TIFF of 8 bytes": (image("tif", tiff(GREY)[:8]), r"^images: b.tif has 0 pages; a file must hold one image$"),
    "TIFF a web page": (image("tiff", b"<html>"), r"^images: b.tiff cannot be decoded \(not a TIFF file"),
    "TIFF of several pages": (image("tif", pages(GREY, GREY[:20], GREY)), r"^images: b.tif has 3 pages; a file must"),
    "TIFF a stack of pages": (
        image("tif", pages(GREY, GREY, GREY)),
        r"^images: b.tif has 3 pages; a file must hold one image",
    ),
    "TIFF of complex numbers": (
        image("tif", tiff(GREY.astype(np.complex64))),
        r"^images: b.tif holds complex64; an image",
    ),
    "TIFF that says it is huge": (
        image("tif", tiff(np.zeros((3, 5), np.uint8)).replace(tag(257, 3), tag(257, 2**32 - 1))),
        r"^images: b.tif cannot be decoded \(it claims to be 4294967295 x 5, which its \d+ bytes cannot hold\)",
    ),
    "TIFF that lacks strips": (
        image("tif", tiff(GREY, compression="zlib", rowsperstrip=len(GREY)).replace(tag(278, len(GREY)), tag(278, 1))),
        f"^images: b.tif has only 1 of its {len(GREY)} strips or tiles; save it again$",
    ),
    "TIFF of one bit that says it is huge": (
        image(
            "tif",
            tiff(np.zeros((3, 5), np.uint8))
            .replace(tag(257, 3), tag(257, 2**32 - 1))
            .replace(struct.pack("<HHII", 258, 3, 1, 8), struct.pack("<HHII", 258, 3, 1, 1)),
        ),
        r"^images: b.tif cannot be decoded \(it claims to be 4294967295 x 5, which its \d+ bytes cannot hold\)",
    ),
    # ---- masks
    "mask of colours": (
        array(MASK, np.indices((*SIDE, 3)).sum(0) % 2),
        r"^masks: b.npy has colours; a mask may have only 0 and one value for salt$",
    ),
    "mask of many values": (
        array(MASK, np.indices(SIDE)[0].astype(np.uint8)),
        r"^masks: b.npy has 40 values; a mask may have only 0 and one value for salt",
    ),
    "mask of another size": (
        array(MASK, np.zeros((40, 55), bool)),
        r"^masks: b.npy is 55 x 40 px, but its image is 56 x 40 px; they must have the same size$",
    ),
    "mask turned": (
        array(MASK, (GREY > 128).T),
        r"^masks: b.npy is 40 x 56 px, but its image is 56 x 40 px; they must have the same size$",
    ),
    "mask of inf": (
        array(MASK, np.where(GREY > 128, np.inf, -np.inf)),
        r"^masks: b.npy has 2 values; a mask may have only 0 and",
    ),
    "mask of signs": (
        array(MASK, np.where(GREY > 128, 1, -1)),
        r"^masks: b.npy has 2 values; a mask may have only 0 and one",
    ),
    "mask of probabilities": (
        array(MASK, GREY / 255),
        r"^masks: b.npy has 2\d\d values; a mask may have only 0 and one value",
    ),
    "mask of text": (array(MASK, np.array([["salt"]])), r"^masks: b.npy has the shape \(1, 1\) of <U4; a mask must be"),
    "mask that would run code": (
        array(MASK, np.array([[Bomb()]], dtype=object)),
        r"^masks: b.npy cannot be decoded \((Object|Array can't be memory-mapped: Python obj)",
    ),
    "mask as JPG": (
        mask("jpg", saved((GREY > 128) * np.uint8(255), "JPEG")),
        r"^masks: b.jpg has \d+ values; .*; JPG and smooth resizing change values$",
    ),
    "masks of two classes": (
        both(array(MASK, (GREY > 128) * np.uint8(2)), array("masks/a.npy", (scene(0) > 128) * np.uint8(1))),
        r"^masks: b.npy has 2 for salt, others have 1; use the same value in all masks, or remove what is not salt$",
    ),
    "mask of 255 among those of 1": (
        both(array(MASK, (GREY > 128) * np.uint8(255)), array("masks/a.npy", (scene(0) > 128) * np.uint8(1))),
        r"^masks: b.npy has 255 for salt, others have 1; use the same value in all masks \(255 beside 1 means not",
    ),
    # ---- sizes and depths
    "sizes that differ": (
        both(*(array(f"{kind}/b.npy", np.zeros((64, 64), bool)) for kind in ("images", "masks"))),
        r"^images: differ in size, 3 of 56 x 40 px, 1 of 64 x 64 px; --set tiles.side=32 cuts them into tiles$",
    ),
    "depth missing": (edit("depths.csv", "b,2\n", ""), r"^depths.csv: b has no row$"),
    "depth NaN": (
        edit("depths.csv", "b,2", "b,nan"),
        r"^depths.csv: b has the depth 'nan'; it must be a whole number$",
    ),
}

# name: (spoil, why it is taken, the image that b then is; its mask stays)
TAKEN: dict[str, tuple[Spoil, str, np.ndarray]] = {
    "without depths": (remove("depths.csv"), "not everybody has them", GREY),
    "files of the system": (
        both(put("images/.DS_Store", b"x"), put("masks/Thumbs.db", b"x"), put("images/notes.txt", b"x")),
        "systems leave them there",
        GREY,
    ),
    "a link": (
        both(move(IMAGE, "else.npy"), lambda folder: (folder / IMAGE).symlink_to("../else.npy")),
        "large sets",
        GREY,
    ),
    "npy in Fortran's order": (array(IMAGE, np.asfortranarray(GREY)), "the same array", GREY),
    "npy with NaN": (
        array(IMAGE, NAN),
        "a section has traces that are dead; they are black",
        np.vstack([np.zeros((20, 56)), ((NAN[20:] - 2) / (253 - 2) * 255).round().clip(0, 255)]),
    ),
    "npy big-endian": (array(IMAGE, (GREY > 9).astype(">f4")), "the same numbers", (GREY > 9) * np.uint8(255)),
    "npy of four channels": (array(IMAGE, np.dstack([GREY] * 3 + [255 - GREY])), "the fourth is transparency", GREY),
    "npy of one channel": (array(IMAGE, GREY[..., None]), "it is grey", GREY),
    "npy with bytes behind its end": (change(IMAGE, lambda old: old + b"more"), "an array knows its length", GREY),
    "PNG grey with transparency": (image("png", saved(GREY, "PNG", "LA")), "its grey counts", GREY),
    "TIFF of floats": (image("tif", tiff((GREY > 9).astype(np.float32))), "seismics is", (GREY > 9) * np.uint8(255)),
    "TIFF whose pages go round": (image("tif", round_in_a_circle(tiff(GREY))), "there is one of them", GREY),
    "TIFF of zlib": (image("tif", saved(GREY, "TIFF", compression="tiff_adobe_deflate")), "a usual one", GREY),
    "mask of 0 and 7": (array(MASK, (scene(1) > 128) * np.uint8(7)), "one value beside 0 is salt", GREY),
    "mask of 255 among those of true": (array(MASK, (scene(1) > 128) * np.uint8(255)), "true is no value", GREY),
    "mask with four channels": (
        mask("png", saved(np.dstack([(GREY > 128) * np.uint8(1)] * 3 + [GREY | 1]), "PNG")),
        "three equal ones and transparency are what drawing programs save",
        GREY,
    ),
}
