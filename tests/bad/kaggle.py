"""Tables of odd files in Kaggle's layout, each a change to a valid folder: REFUSED with their message, TAKEN with a
reason."""

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bad.builders import (
    CENTRAL,
    END,
    IMAGE,
    LINES,
    LOCAL,
    MASK,
    Bomb,
    Spoil,
    as_link,
    both,
    change,
    chunk,
    cut,
    deepen,
    edit,
    flipped,
    grey,
    image,
    instead,
    link,
    mask,
    move,
    packed,
    patched,
    picture,
    png,
    put,
    raw_png,
    remove,
    zipped,
)

TEST = "test/images/cc00000001.png"
MEMBER = "images/aa00000001.png"  # of train.zip


def rle(code: str) -> Spoil:
    """Another code for the mask of tile 12345e6789, whose upper left 2 x 2 px are salt."""
    return edit("train.csv", "1 2 102 2", code)


def depth(text: str) -> Spoil:
    return edit("depths.csv", "100,aa", f"{text},aa")


def npy(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([value], dtype=object), allow_pickle=True)
    return file.getvalue()


def wide(pixels: np.ndarray) -> bytes:
    """Lines of a 16-bit RGB PNG whose upper bytes are these pixels."""
    channels = np.stack([pixels, 255 - pixels], axis=-1)[:, :, None].repeat(3, axis=2)
    return b"".join(b"\0" + row.tobytes() for row in channels)


def more(name: str | zipfile.ZipInfo, content: bytes = png(image(3))) -> Spoil:
    """train.zip with an additional member."""
    return packed("train", (name, content))


def other(name: str | zipfile.ZipInfo = MEMBER, content: bytes = png(image())) -> Spoil:
    """train.zip with MEMBER, its first record, replaced."""
    return packed("train", (name, content), without=MEMBER, method=zipfile.ZIP_DEFLATED)


ZEROS = np.zeros((51, 101), np.uint8)

# name: (spoil, the one line that must be said: a regular expression)
REFUSED: dict[str, tuple[Spoil, str]] = {
    # ---- csv files
    "csv missing": (remove("depths.csv"), r"^depths.csv: missing"),
    "csv lacks a column": (
        edit("train.csv", "rle_mask", "mask"),
        r"^train.csv: has the columns id, mask and 4 rows; it needs id and rle_mask",
    ),
    "csv without a header": (
        edit("train.csv", "id,rle_mask\n", ""),
        r"^train.csv: has the columns aa00000001, '1 101' and 3 rows; it needs id and rle_mask",
    ),
    "csv in capitals": (edit("depths.csv", "z,id", "Z,ID"), r"^depths.csv: has the columns Z, ID and 7 rows"),
    "csv with a column twice": (
        change("depths.csv", lambda old: old.replace(b"\n", b",7\n").replace(b"z,id,7", b"z,id,z").rstrip(b",7\n")),
        r"^depths.csv: has the columns z, id, z .* it needs id and z once each",
    ),
    "csv empty": (put("depths.csv", b""), r"^depths.csv: has the columns none and 0 rows"),
    "csv of blank lines": (put("depths.csv", b"\n\n\n"), r"^depths.csv: has the columns none and 0 rows"),
    "csv without rows": (put("sample_submission.csv", b"id,rle_mask\n"), r"^sample_submission.csv: .* and 0 rows"),
    "csv of a header and blank lines": (put("train.csv", b"id,rle_mask\n\n\n"), r"^train.csv: .* and 0 rows"),
    "csv no text": (put("train.csv", b"\x80\x81\x00"), r"^train.csv: is not UTF-8 text"),
    "csv in latin-1": (
        change("depths.csv", lambda old: old + "1,sön".encode("latin-1")),
        r"^depths.csv: is not UTF-8 text \(invalid start byte at byte \d+\); save it as UTF-8$",
    ),
    "csv in UTF-16": (
        put("sample_submission.csv", "id,rle_mask\na,1 1\n".encode("utf-16")),
        r"^sample_submission.csv: is UTF-16 text; save it as UTF-8$",
    ),
    "csv of NUL bytes": (put("depths.csv", bytes(100)), r"^depths.csv: has the columns '\\x00.* and 0 rows"),
    "csv with semicolons": (
        change("depths.csv", lambda old: old.replace(b",", b";")),
        r"^depths.csv: has the columns 'z;id' and 7 rows; it needs id and z",
    ),
    "csv with tabs": (
        change("depths.csv", lambda old: old.replace(b",", b"\t")),
        r"^depths.csv: has the columns 'z\\tid' and 7 rows; it needs id and z",
    ),
    "csv with one quote": (
        edit("depths.csv", "104,cc", '104,"cc'),
        r"^depths.csv: cc00000001 has no row|^depths.csv: ",
    ),
    "csv with a field of 200,000 letters": (
        edit("train.csv", "1 101", "1 " * 100_000),
        r"^train.csv: cannot be read \(field larger than field limit \(131072\)\)",
    ),
    "csv of ragged rows": (edit("depths.csv", "106,dd", "106"), r"^depths.csv: line 8 has 1 fields, not 2"),
    "csv a folder": (instead("depths.csv", Path.mkdir), r"^depths.csv: is not a regular file; remove it"),
    "csv a pipe": (instead("depths.csv", os.mkfifo), r"^depths.csv: is not a regular file; remove it"),
    "csv a PNG": (put("depths.csv", png(image())), r"^depths.csv: is not UTF-8 text"),
    "csv a dangling link": (
        link("depths.csv", "gone.csv"),
        r"^depths.csv: is a link to gone.csv, which does not exist",
    ),
    "optional csv a link to itself": (
        lambda folder: (folder / "test_truth.csv").symlink_to("test_truth.csv"),
        r"^test_truth.csv: is a link to test_truth.csv, which does not exist",
    ),
    "csv in another case": (move("train.csv", "Train.CSV"), r"^train.csv: missing; rename Train.CSV to train.csv$"),
    "csv's zip of two": (
        both(remove("depths.csv"), zipped("depths.csv.zip", ("a.csv", b""), ("b.csv", b""))),
        r"^depths.csv.zip: holds 2 files; it should hold one csv",
    ),
    "csv's zip of none": (
        both(remove("depths.csv"), zipped("depths.csv.zip")),
        r"^depths.csv.zip: holds 0 files; it should hold one csv",
    ),
    "csv's zip no zip": (
        both(remove("depths.csv"), put("depths.csv.zip", b"z,id\n1,a\n")),
        r"^depths.csv.zip: cannot be read \(File is not a zip file\); download it again",
    ),
    "csv's zip of too much": (
        both(remove("depths.csv"), zipped("depths.csv.zip", ("depths.csv", bytes(2**26 + 1)))),
        r"^depths.csv.zip: has 67,108,865 bytes, but should have 67,108,864 at most",
    ),
    "csv's zip encrypted": (
        both(
            remove("depths.csv"),
            zipped("depths.csv.zip", ("depths.csv", b"z,id\n1,a\n")),
            patched("depths.csv.zip", LOCAL, 6, b"\1\0"),
            patched("depths.csv.zip", CENTRAL, 8, b"\1\0"),
        ),
        r"^depths.csv.zip: is encrypted; unpack the zip",
    ),
    "column with a blank": (
        edit("train.csv", "id,rle_mask", "id, rle_mask"),
        r"^train.csv: has the columns id, ' rle_mask' and 4 rows",
    ),
    "id twice in a csv": (
        edit("train.csv", "id,rle_mask\n", "id,rle_mask\naa00000001,1 101\n"),
        r"^train.csv: aa00000001 has 2 rows",
    ),
    "truth of another tile": (
        put("test_truth.csv", b"id,rle_mask\ncc00000001,\ncc00000002,\nee,\n"),
        r"^test_truth.csv: ee has no row in sample_submission.csv",
    ),
    "truth of fewer tiles": (
        put("test_truth.csv", b"id,rle_mask\ncc00000001,\n"),
        r"^test_truth.csv: cc00000002 is missing, but sample_submission.csv lists it",
    ),
    # ---- depths
    "depth missing": (edit("depths.csv", "104,cc00000002\n", ""), r"^depths.csv: cc00000002 has no row"),
    "depth no number": (depth("deep"), r"^depths.csv: aa00000001 has the depth 'deep'; it must be a whole number"),
    "depth empty": (depth(""), r"^depths.csv: aa00000001 has the depth ''"),
    "depth NaN": (depth("nan"), r"^depths.csv: aa00000001 has the depth 'nan'"),
    "depth inf": (depth("inf"), r"^depths.csv: aa00000001 has the depth 'inf'"),
    "depth with a point": (depth("100.0"), r"^depths.csv: aa00000001 has the depth '100.0'"),
    "depth with an exponent": (depth("1e2"), r"^depths.csv: aa00000001 has the depth '1e2'"),
    "depth with underscores": (depth("1_00"), r"^depths.csv: aa00000001 has the depth '1_00'"),
    "depth in Arabic digits": (depth("\u0661\u0660\u0660"), r"^depths.csv: aa00000001 has the depth '\u0661"),
    "depth of 30 digits": (depth("9" * 30), r"^depths.csv: aa00000001 has the depth '9{30}'"),
    "depth of 5000 digits": (depth("9" * 5000), r"^depths.csv: aa00000001 has the depth '9{20}.{,100}$"),
    # ---- run lengths
    "RLE odd": (rle("1 2 102"), r"^train.csv: 12345e6789 .*odd"),
    "RLE overlapping": (rle("1 2 2 2"), r"^train.csv: 12345e6789 .*overlap"),
    "RLE not in order": (rle("102 2 1 2"), r"^train.csv: 12345e6789 .*'1 2' overlaps or precedes the run before it"),
    "RLE out of range": (
        edit("train.csv", "10201 1", "10201 2"),
        r"^train.csv: bb00000004 .*range: the last pixel is 10201",
    ),
    "RLE no number": (edit("train.csv", "10201 1", "10201 x"), r"^train.csv: bb00000004 .*number"),
    "RLE of floats": (rle("1.0 2.0 102.0 2.0"), r"^train.csv: 12345e6789 .*'1.0 2.0 102.0 2.0' is not a list of whole"),
    "RLE NaN": (rle("nan"), r"^train.csv: 12345e6789 .*odd count"),
    "RLE from 0": (rle("0 2 102 2"), r"^train.csv: 12345e6789 .*start below 1, the first pixel"),
    "RLE negative": (rle("-1 2 102 2"), r"^train.csv: 12345e6789 .*start below 1, the first pixel"),
    "RLE of no length": (rle("1 0"), r"^train.csv: 12345e6789 .*a length below 1"),
    "RLE of negative length": (rle("1 -2"), r"^train.csv: 12345e6789 .*a length below 1"),
    "RLE with underscores": (rle("1 2 1_0_2 2"), r"^train.csv: 12345e6789 .*'1 2 1_0_2 2' is not a list of whole"),
    "RLE with a plus": (rle("+1 2 +102 2"), r"^train.csv: 12345e6789 .*'\+1 2 \+102 2' is not a list of whole"),
    "RLE in Arabic digits": (rle("\u0661 2 102 2"), r"^train.csv: 12345e6789 .* is not a list of whole numbers"),
    "RLE with a blank of another kind": (rle("1\u00a02"), r"^train.csv: 12345e6789 .* is not a list of whole numbers"),
    "RLE with NUL": (rle("1\0 2"), r"^train.csv: 12345e6789 .*'1\\x00 2' is not a list of whole numbers"),
    "RLE of a huge number": (rle("1 " + "9" * 30), r"^train.csv: 12345e6789 .* is out of range"),
    "RLE of 5000 digits": (rle("1 " + "9" * 5000), r"^train.csv: 12345e6789 .{,150}$"),
    "RLE with brackets": (rle("[1 2]"), r"^train.csv: 12345e6789 .*'\[1 2\]' is not a list of whole numbers"),
    "RLE of another mask": (
        edit("train.csv", "10201 1", "10200 1"),
        r"^train.csv: bb00000004 has an RLE and a mask PNG that differ in 2 px",
    ),
    "RLE by rows": (
        edit("train.csv", "1 101\n", " ".join(f"{1 + 101 * i} 1" for i in range(101)) + "\n"),
        r"^train.csv: aa00000001 has an RLE and a mask PNG that differ in 200 px",
    ),  # all but the corner
    # ---- which pictures there are
    "image missing": (remove(IMAGE), r"^train/images: aa00000001 is missing, but train.csv lists it"),
    "mask missing": (remove(MASK), r"^train/masks: aa00000001 is missing, but train.csv lists it"),
    "mask without row": (put("train/masks/ee.png", png(mask())), r"^train/masks: ee has no row in train.csv"),
    "test image missing": (remove(TEST), r"^test/images: cc00000001 is missing, but sample_sub"),
    "test image without row": (put("test/images/ee.png", png(image())), r"^test/images: ee has no row in sample_sub"),
    "split in another case": (
        move("test", "Test"),
        r"^test.zip: missing, .*; move or rename Test/images to test/images$",
    ),
    "split a level too deep": (
        deepen("train"),
        r"^train.zip: missing, .*; move or rename train/train/images to train/images$",
    ),
    "image a dangling link": (
        link(IMAGE, "gone.png"),
        r"^train/images: aa00000001.png is a link to gone.png, which does not exist",
    ),
    "image a link to itself": (
        link(TEST, "cc00000001.png"),
        r"^test/images: cc00000001.png is a link to cc00000001.png, which does not exist",
    ),
    "image a folder": (instead(IMAGE, Path.mkdir), r"^train/images: aa00000001.png is not a regular file; remove it"),
    "image a pipe": (instead(IMAGE, os.mkfifo), r"^train/images: aa00000001.png is not a regular file"),
    "image a device": (link(IMAGE, "/dev/zero"), r"^train/images: aa00000001.png is not a regular file"),
    "image .PNG": (
        move(IMAGE, "train/images/aa00000001.PNG"),
        r"^train/images: aa00000001.PNG ends in .PNG; rename it to .png$",
    ),
    "image .jpg": (
        move(TEST, "test/images/cc00000001.jpg"),
        r"^test/images: cc00000001.jpg ends in .jpg; a tile is a PNG",
    ),
    "name that is no text": (
        lambda folder: os.link(folder / TEST, os.fsencode(folder / "test/images") + b"/\xff.png"),
        r"^test/images: '\\udcff' has no row in sample_submission.csv",
    ),
    "name that is a script": (
        put("test/images/<script>alert(1)<|script>.png", png(image())),
        r"^test/images: '<script>alert\(1\)<\|script>' has no row in sample_submission.csv",
    ),
    "name with a line break": (
        put("test/images/a\nerror: b.png", png(image())),
        r"^test/images: 'a\\nerror: b' has no row in sample_submission.csv",
    ),
    "name that colours the terminal": (
        put("test/images/\x1b[31m.png", png(image())),
        r"^test/images: '\\x1b\[31m' has no row in sample_submission.csv",
    ),
    # ---- pictures
    "image truncated": (cut(IMAGE), r"^train/images: aa00000001.png cannot be decoded"),
    "image cut in its header": (
        change(IMAGE, lambda old: old[:20]),
        r"^train/images: aa00000001.png is cut short; downl",
    ),
    "image cut after its signature": (
        change(IMAGE, lambda old: old[:8]),
        r"^train/images: aa00000001.png is cut short; download it again",
    ),
    "image cut after its header": (change(IMAGE, lambda old: old[:33]), r"^train/images: aa00000001.png cannot be dec"),
    "image without its end": (cut(IMAGE, 12), r"^train/images: aa00000001.png cannot be decoded"),
    "image with a wrong CRC of its header": (
        change(IMAGE, lambda old: flipped(old, 30)),
        r"^train/images: aa00000001.png cannot be decoded \(cannot identify image file <_io.BytesIO object>\)",
    ),
    "image with a wrong CRC of its pixels": (
        change(IMAGE, lambda old: flipped(old, len(old) - 13)),
        r"^train/images: aa00000001.png cannot be decoded \(.*(CRC|checksum).*\)",
    ),
    "mask with another byte": (
        change(MASK, lambda old: flipped(old, len(old) - 24)),
        r"^train/masks: aa00000001.png cannot be decoded",
    ),
    "image of no px": (put(IMAGE, raw_png(width=0)), r"^train/images: aa00000001.png (cannot be|is 0 x 101 px)"),
    "image that says it is huge": (
        put(IMAGE, raw_png(2**31 - 1, 2**31 - 1)),
        r"^train/images: aa00000001.png is 2147483647 x 2147483647 px; a tile is 101 x 101",
    ),
    "image that says it is large": (
        put(IMAGE, raw_png(10_000, 10_000)),
        r"^train/images: aa00000001.png is 10000 x 10000 px; a tile is 101 x 101",
    ),
    "image without pixels": (
        put(IMAGE, raw_png().replace(chunk(b"IDAT", zlib.compress(b"")), b"")),
        r"^train/images: aa00000001.png cannot be decoded \(list index out of range\)",  # as Pillow says it
    ),
    "image of 7 bits": (put(IMAGE, raw_png(depth=7, lines=LINES)), r"^train/images: aa00000001.png cannot be decoded"),
    "image with 16 MB of text": (
        put(IMAGE, raw_png(101, 101, 8, 0, LINES, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))))),
        r"^train/images: aa00000001.png cannot be decoded \(.*too large",
    ),
    "image of several frames": (
        put(IMAGE, png(grey(), save_all=True, append_images=[Image.fromarray(grey(1))])),
        r"^train/images: aa00000001.png has 2 frames; a tile must be a single image",
    ),
    "image no PNG": (
        put(IMAGE, b"<html>"),
        r"^train/images: aa00000001.png begins with b'<html>'; a tile is a PNG: download it again",
    ),
    "image of zeros": (
        put(IMAGE, bytes(500)),
        r"^train/images: aa00000001.png begins with b'(\\x00){8}'; a tile is a PNG",
    ),
    "image a pickle": (put(IMAGE, npy(Bomb())), r"^train/images: aa00000001.png begins with b.\\x93NUMPY.*a tile is a"),
    "image a zip": (
        both(zipped("a.zip", ("a", b"")), move("a.zip", IMAGE)),
        r"^train/images: aa00000001.png begins with b.PK.*; a tile is a PNG",
    ),
    "image empty": (put(TEST, b""), r"^test/images: cc00000001.png is empty \(0 bytes\)"),
    "image a JPEG": (put(IMAGE, picture("L", "JPEG")), r"^train/images: aa00000001.png is a JPEG; a tile is a PNG"),
    "image a GIF": (put(IMAGE, picture("P", "GIF")), r"^train/images: aa00000001.png is a GIF; a tile is a PNG"),
    "image a TIFF": (put(IMAGE, picture("L", "TIFF")), r"^train/images: aa00000001.png is a TIFF; a tile is a PNG"),
    "image a BMP": (put(IMAGE, picture("L", "BMP")), r"^train/images: aa00000001.png is a BMP; a tile is a PNG"),
    "image of many bytes": (
        put(TEST, png(image()) + bytes(2**21)),
        r"^test/images: cc00000001.png has 2,\d{3},\d{3} bytes, but should have 1,048,576 at most",
    ),
    "size": (put(IMAGE, png(image()[1:])), r"^train/images: aa00000001.png is 101 x 100 px; a tile is 101 x 101"),
    "image of 16 bits": (put(TEST, png(mask((0, 0)))), r"^test/images: .* has mode I;16"),
    "image of 1 bit": (
        put(TEST, picture("1")),
        r"^test/images: cc00000001.png has mode 1; an image must be 8-bit grey",
    ),
    "image grey with transparency": (put(TEST, picture("LA")), r"^test/images: cc00000001.png has mode LA; an image"),
    "image with colours": (put(TEST, png(image() * np.uint8([1, 1, 0]))), r"^test/images: cc00000001.png has colours"),
    "image with a palette of colours": (
        put(TEST, raw_png(101, 101, 8, 3, LINES, chunk(b"PLTE", bytes(range(255)) + b"abc"))),
        r"^test/images: cc00000001.png has colours",
    ),
    "mask no PNG": (put(MASK, b"<html>"), r"^train/masks: aa00000001.png begins with b'<html>'; a tile is a PNG"),
    "mask of another size": (put(MASK, png(mask()[:, :100])), r"^train/masks: aa00000001.png is 100 x 101 px; a tile"),
    "mask of three values": (
        put(MASK, png((np.indices((101, 101))[0] % 3).astype(np.uint8))),
        r"^train/masks: aa00000001.png has mode L and 3 values",
    ),
    "mask of grey values": (
        put(MASK, png(grey())),
        r"^train/masks: aa00000001.png has mode L and 256 values; a mask is",
    ),
    "mask of 16-bit values": (
        put(MASK, png(np.arange(10201, dtype=np.uint16).reshape(101, 101))),
        r"^train/masks: aa00000001.png has mode I;16 and 10201 values",
    ),
    "mask without 0": (
        put(MASK, png(np.eye(101, dtype=np.uint8) + 1)),
        r"^train/masks: aa00000001.png has mode L and 2 values",
    ),
    "mask with channels": (put(MASK, png(image())), r"^train/masks: .* has mode RGB"),
    "mask with transparency": (put(MASK, picture("LA")), r"^train/masks: aa00000001.png has mode LA"),
    "mask inverted": (
        put(MASK, png(65535 - mask((slice(None), 0)))),
        r"^train.csv: aa00000001 has an RLE and a mask PNG that differ in 10201 px",
    ),
    # ---- zips
    "zip empty": (
        both(packed("train"), put("train.zip", b"")),
        r"^train.zip: cut short, or not a zip \(.*\); download it",
    ),
    "zip a web page": (
        both(packed("train"), put("train.zip", b"<!doctype html><title>Log in</title>" * 9)),
        r"^train.zip: cut short, or not a zip \(File is not a zip file\); download it again",
    ),
    "zip cut short": (both(packed("train"), cut("train.zip")), r"^train.zip: cut short, or not a zip"),
    "zip cut at its beginning": (
        both(packed("train"), change("train.zip", lambda old: old[200:])),
        r"^train.zip(/images)?: .*(cut short, or not a zip|cannot be decoded)",
    ),
    "zip whose directory is longer than the file": (
        both(packed("train"), patched("train.zip", END, 12, struct.pack("<I", 2**31))),
        r"^train.zip: cut short, or not a zip \(",
    ),
    "zip of another byte": (
        both(other(), patched("train.zip", LOCAL, 300, b"?")),
        r"^train.zip/images: aa00000001.png cannot be decoded \(",
    ),
    "zip with another name at the file": (
        both(other(), patched("train.zip", LOCAL, 30, b"?")),
        r"^train.zip/images: aa00000001.png cannot be decoded \(File name in directory",
    ),
    "zip encrypted": (
        both(other(), patched("train.zip", LOCAL, 6, b"\1\0"), patched("train.zip", CENTRAL, 8, b"\1\0")),
        r"^train.zip/images: aa00000001.png is encrypted; unpack the zip with its password, then delete the zip$",
    ),
    "zip of an unknown method": (
        both(other(), patched("train.zip", LOCAL, 8, b"\x63\0"), patched("train.zip", CENTRAL, 10, b"\x63\0")),
        r"^train.zip/images: aa00000001.png cannot be decoded \(That compression method is not supported",
    ),
    "zip of a later version": (
        both(other(), patched("train.zip", CENTRAL, 6, b"\xff\0")),
        r"^train.zip: cut short, or not a zip \(zip file version 25.5\)",
    ),
    "zip64 with nothing in it": (both(other(), patched("train.zip", CENTRAL, 20, b"\xff" * 8)), r"^train.zip"),
    "zip of overlapping files": (
        both(other(), patched("train.zip", CENTRAL, 42, struct.pack("<I", 5))),
        r"^train.zip/images: aa00000001.png cannot be decoded \(",
    ),
    "zip that unpacks to an absurd size": (
        other(content=png(image()) + bytes(2**26)),
        r"^train.zip/images: aa00000001.png has 67,\d{3},\d{3} bytes, but should have 1,048,576 at most",
    ),
    "zip that unpacks to more than it says": (
        both(other(content=png(image()) + bytes(2**26)), patched("train.zip", CENTRAL, 24, struct.pack("<I", 500))),
        r"^train.zip/images: aa00000001.png cannot be decoded \(Bad CRC-32",
    ),
    "zip of other things": (
        both(packed("test"), zipped("test.zip", ("readme.txt", b"nothing"))),
        r"^test.zip/images: each of 2 \(cc00000001, cc00000002\) is missing, but sample_submission.csv lists it$",
    ),
    "zip with backslashes": (
        other("images\\aa00000001.png"),
        r"^train.zip/images: aa00000001 is missing, but train.csv lists it",
    ),
    "zip with an id twice": (
        more("more/images/aa00000001.png"),
        r"^train.zip/images: aa00000001 is there twice; an id may have only one PNG$",
    ),
    "zip with an id twice, one of them outside": (
        more("../../images/aa00000001.png"),
        r"^train.zip/images: aa00000001 is there twice; an id may have only one PNG$",
    ),
    "zip with a folder called like a picture": (
        other("images/aa00000001.png/", b""),
        r"^train.zip/images: aa00000001.png is empty \(0 bytes\)",
    ),
    "zip with a link": (
        other(as_link(MEMBER), b"/etc/passwd"),
        r"^train.zip/images: aa00000001.png begins with b'/etc/pas'; a tile is a PNG",
    ),
    "zip with broken LZMA": (
        both(packed("train", method=zipfile.ZIP_LZMA), patched("train.zip", LOCAL, 75, b"\xff" * 20)),
        r"^train.zip/images: 0000000002.png cannot be decoded \(",
    ),
    "zip with a bad checksum": (
        both(other(), patched("train.zip", CENTRAL, 16, b"????")),
        r"^train.zip/images: aa00000001.png cannot be decoded \(Bad CRC-32",
    ),
}


# name: (spoil, why it is taken, the picture that aa00000001 then is; its mask stays)
TAKEN: dict[str, tuple[Spoil, str, np.ndarray]] = {
    "csv with a byte order mark": (change("train.csv", lambda old: b"\xef\xbb\xbf" + old), "Excel writes it", grey()),
    "csv with CRLF": (
        change("train.csv", lambda old: old.replace(b"\n", b"\r\n")),
        "Windows writes it; nothing of it is in an id or a code",
        grey(),
    ),
    "csv with CR alone": (
        change("depths.csv", lambda old: old.replace(b"\n", b"\r")),
        "old Macs wrote it; csv knows it",
        grey(),
    ),
    "csv quoted": (
        change("train.csv", lambda old: b"".join(b'"%s","%s"\n' % (*line.split(b","),) for line in old.splitlines())),
        "quotes are csv's own",
        grey(),
    ),
    "csv with more columns": (
        change("train.csv", lambda old: b"".join(b"7,%s,x\n" % line for line in old.splitlines())),
        "pandas adds an index",
        grey(),
    ),
    "csv in another order": (
        change("train.csv", lambda old: b"\n".join([b"id,rle_mask", *old.splitlines()[:0:-1]])),
        "rows go by their id, and the last line needs no end",
        grey(),
    ),
    "RLE of runs that touch": (rle("1 1 2 1 102 2"), "the same pixels", grey()),
    "RLE with more blanks and zeros": (rle("  1  02 102\t2 "), "the same numbers", grey()),
    "depth negative": (depth("-100"), "it is only shown; what lies above the datum is negative", grey()),
    "image a link to another folder": (
        both(move(IMAGE, "elsewhere/a.png"), lambda folder: (folder / IMAGE).symlink_to(folder / "elsewhere/a.png")),
        "Kaggle mounts and many others link",
        grey(),
    ),
    "other files among the images": (
        both(put("train/images/Thumbs.db", b"x"), put("train/images/.DS_Store", b"x"), put("train/notes.txt", b"")),
        "systems leave them there",
        grey(),
    ),
    "image grey": (put(IMAGE, png(grey())), "one channel is what three equal ones are", grey()),
    "image with transparency": (put(IMAGE, picture("RGBA")), "of a tile all is opaque", grey()),
    "image with a palette": (put(IMAGE, picture("P")), "its colours are greys", grey()),
    "image made by hand": (put(IMAGE, raw_png(lines=LINES)), "what a PNG may be", grey()),
    "image of 16-bit RGB": (
        put(IMAGE, raw_png(depth=16, colour=2, lines=wide(grey()))),
        "Pillow takes the upper 8 bits of each channel",
        grey(),
    ),
    "image of fewer lines than it says": (
        put(IMAGE, raw_png(lines=LINES[: 102 * 50])),
        "its checksums are right, so it was made so; the rest is black",
        np.vstack([grey()[:50], ZEROS]),
    ),
    "image with text": (
        put(IMAGE, raw_png(101, 101, 8, 0, LINES, chunk(b"tEXt", b"a\0<script>"))),
        "nothing of it is used",
        grey(),
    ),
    "image with bytes behind its end": (change(IMAGE, lambda old: old + b"more"), "decoders stop at the end", grey()),
    "mask of 1 bit": (put(MASK, png(mask((slice(None), 0)) > 0)), "0 and one value", grey()),
    "mask of 0 and 255": (put(MASK, png((mask((slice(None), 0)) > 0) * np.uint8(255))), "0 and one value", grey()),
    "mask of 0 and 1": (put(MASK, png((mask((slice(None), 0)) > 0).astype(np.uint8))), "0 and one value", grey()),
    "zip of Finder": (more("__MACOSX/images/._aa00000001.png", b"x"), "macOS adds it", grey()),
    "zip with names of folders": (packed("train", ("images/", b""), ("masks/", b"")), "zip -r writes them", grey()),
    "zip with everything below a folder": (
        other("train/images/aa00000001.png"),
        "as unpacking and packing again leaves it",
        grey(),
    ),
    "zip with a path that leads out": (
        other("../../../images/aa00000001.png"),
        "nothing is unpacked: a member is read by its number",
        grey(),
    ),
    "zip with an absolute path": (other("/etc/images/aa00000001.png"), "the same", grey()),
    "zip behind other bytes": (
        both(packed("train"), change("train.zip", lambda old: b"#!/bin/sh\n" * 9 + old)),
        "a zip is read from its end",
        grey(),
    ),
    "zip with a comment": (
        both(packed("train"), change("train.zip", lambda old: old[:-2] + b"\4\0text")),
        "a zip may have one",
        grey(),
    ),
    "zip packed by LZMA": (packed("train", method=zipfile.ZIP_LZMA), "Python knows the method", grey()),
}
