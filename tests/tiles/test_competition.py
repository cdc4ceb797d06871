"""Kaggle's files, whole and broken in every way that is checked. The tiles are six squares, drawn here."""

import io
import os
import re
import shutil
import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.salt.errors import InputError
from pipeline.salt.tiles import Tiles, competition

TRAIN = ["aa00000001", "0000000002", "12345e6789", "bb00000004"]  # two of them look like numbers
TEST = ["cc00000002", "cc00000001"]  # not in the order of their ids
RLE = {"aa00000001": "1 101", "0000000002": "", "12345e6789": "1 2 102 2", "bb00000004": "10201 1"}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image(seed: int) -> np.ndarray:
    """(101, 101, 3) uint8 with equal channels."""
    return np.random.default_rng(seed).integers(0, 256, (101, 101, 1), dtype=np.uint8).repeat(3, axis=2)


def mask(*pixels: tuple[slice | int, slice | int]) -> np.ndarray:
    """(101, 101) uint16 0/65535; uint8 where it is empty, as Kaggle has it."""
    drawn = np.zeros((101, 101), np.uint16)
    for where in pixels:
        drawn[where] = 65535
    return drawn if pixels else drawn.astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A competition of four train and two test tiles, unpacked."""
    for name in ("train/images", "train/masks", "test/images"):
        (tmp_path / name).mkdir(parents=True)
    masks = [mask((slice(None), 0)), mask(), mask((slice(2), slice(2))), mask((100, 100))]
    for i, tile in enumerate(TRAIN):
        (tmp_path / f"train/images/{tile}.png").write_bytes(png(image(i) * (i != 1)))  # the second is black
        (tmp_path / f"train/masks/{tile}.png").write_bytes(png(masks[i]))
    for i, tile in enumerate(TEST):
        (tmp_path / f"test/images/{tile}.png").write_bytes(png(image(10 + i)))
    (tmp_path / "train.csv").write_text("id,rle_mask\n" + "".join(f"{tile},{RLE[tile]}\n" for tile in TRAIN))
    (tmp_path / "sample_submission.csv").write_text("id,rle_mask\n" + "".join(f"{tile},1 1\n" for tile in TEST))
    depths = "".join(f"{100 + i},{tile}\n" for i, tile in enumerate([*TRAIN, *TEST, "dd"]))  # one more than tiles
    (tmp_path / "depths.csv").write_text(f"z,id\n{depths}\n")
    return tmp_path


def pack(folder: Path, split: str, below: str = "", keep: bool = False) -> Path:
    """Replace the folder of a split by its zip, with the junk that macOS adds."""
    with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
        for path in sorted((folder / split).glob("*/*.png")):
            archive.write(path, f"{below}{path.relative_to(folder / split)}")
            archive.writestr(f"__MACOSX/{path.parent.name}/._{path.name}", b"junk")
        archive.writestr(f"{below}images/.DS_Store", b"junk")
    if not keep:
        shutil.rmtree(folder / split)
    return folder / f"{split}.zip"


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def faults(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        competition.read(folder)
    first, *lines = str(caught.value).split("\n")
    assert re.fullmatch(rf"\d+ faults? in {re.escape(str(folder))}: mend or download again what is named here\.", first)
    assert "0x" not in str(caught.value) and "Errno" not in str(caught.value), "an address or a number helps nobody"
    return [line.strip() for line in lines]


def tiles_of(folder: Path) -> Tiles:
    return competition.read(folder)[0]


def remarks_of(folder: Path) -> list[str]:
    return competition.read(folder)[1]


def assert_same(a: Tiles, b: Tiles) -> None:
    for name in ("train_images", "train_masks", "test_images"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.table.equals(b.table)


# ---- whole


def test_order_types_and_values(folder):
    got = tiles_of(folder)
    order = sorted(TRAIN)
    assert list(got.table.id) == order + TEST
    assert list(got.table.split) == ["train"] * 4 + ["test"] * 2
    assert list(got.table.z) == [100 + TRAIN.index(tile) for tile in order] + [104, 105]
    assert list(got.table.black) == [True] + [False] * 5  # 0000000002
    np.testing.assert_allclose(got.table.coverage[:4], np.array([0, 4, 101, 1]) / 101**2)
    assert got.table.coverage[4:].isna().all()
    np.testing.assert_array_equal(got.train_images[2], image(0)[..., 0])  # aa00000001 is third
    np.testing.assert_array_equal(got.test_images[0], image(10)[..., 0])
    assert (got.train_images.dtype, got.train_masks.dtype, got.test_images.dtype) == (np.uint8, bool, np.uint8)
    assert got.test_truth is None
    assert remarks_of(folder) == ["1 train tiles are all black"]


def test_truth_of_the_test_tiles(folder):
    (folder / "test_truth.csv").write_text("id,rle_mask\ncc00000001,1 1\ncc00000002,\n")  # in another order
    truth = tiles_of(folder).test_truth
    assert truth.shape == (2, 101, 101) and not truth[0].any() and truth[1].sum() == 1


@pytest.mark.parametrize("below", ["", "train/"])
def test_zips_and_folders_are_the_same(folder, below):
    unpacked = tiles_of(folder)
    pack(folder, "train", below)
    pack(folder, "test", below)
    assert_same(tiles_of(folder), unpacked)
    assert remarks_of(folder)[:2] == ["train.zip is read in place", "test.zip is read in place"]


def test_a_csv_may_be_zipped_and_read_only(folder):
    unpacked = tiles_of(folder)
    for path in list(folder.glob("*.csv")):
        with zipfile.ZipFile(folder / f"{path.name}.zip", "w") as archive:
            archive.write(path, path.name)
            archive.writestr(f"__MACOSX/._{path.name}", b"junk")
        path.unlink()
    before = sorted(folder.rglob("*"))
    for path in [folder, *before]:
        path.chmod(stat.S_IREAD | (stat.S_IEXEC if path.is_dir() else 0))
    try:
        assert_same(tiles_of(folder), unpacked)
        assert sorted(folder.rglob("*")) == before
    finally:
        for path in [folder, *before]:
            path.chmod(stat.S_IRWXU)


def test_the_zip_is_read_where_both_are_there(folder):
    pack(folder, "train", keep=True)
    assert "train.zip is read in place, the folder train/ is not" in remarks_of(folder)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_of_an_image(folder, mode):
    Image.fromarray(image(0)).convert("L").convert(mode).save(folder / "train/images/aa00000001.png")
    np.testing.assert_array_equal(tiles_of(folder).train_images[2], image(0)[..., 0])


@pytest.mark.parametrize("salt, dtype", [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (True, bool)])
def test_other_values_of_a_mask(folder, salt, dtype):
    (folder / "train/masks/aa00000001.png").write_bytes(png((mask((slice(None), 0)) > 0).astype(dtype) * dtype(salt)))
    assert tiles_of(folder).train_masks[2].sum() == 101


def test_a_mask_may_be_full(folder):
    (folder / "train/masks/aa00000001.png").write_bytes(png(np.full((101, 101), 65535, np.uint16)))
    edit(folder / "train.csv", "aa00000001,1 101", "aa00000001,1 10201")
    assert tiles_of(folder).train_masks[2].all()


def test_the_same_picture_twice_is_a_remark(folder):
    shutil.copy(folder / "train/images/aa00000001.png", folder / "train/images/bb00000004.png")
    shutil.copy(folder / "train/images/12345e6789.png", folder / "test/images/cc00000001.png")
    assert remarks_of(folder)[-1] == (
        "2 train pictures are there more than once: "
        "train 12345e6789 = test cc00000001; train aa00000001 = train bb00000004"
    )


def test_find(folder, tmp_path_factory):
    assert competition.find(folder)
    assert not competition.find(folder / "train") and not competition.find(folder / "absent")
    pack(folder, "train"), pack(folder, "test")
    assert competition.find(folder)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "train.zip").touch()
    assert competition.find(empty)  # so that `read` says what is wrong with it


@pytest.mark.parametrize("packed", [False, True])
def test_inputs_change_with_each_file_and_only_then(folder, packed):
    (folder / "test_truth.csv").write_text("id,rle_mask\ncc00000001,1 1\ncc00000002,\n")

    def described() -> list[tuple]:
        if packed:
            pack(folder, "train", keep=True)
        return competition.inputs(folder)

    seen = [described()]
    assert described() == seen[0]
    assert [name for name, *_ in seen[0]] == [
        "train.zip" if packed else "train",
        "test",
        "train.csv",
        "sample_submission.csv",
        "depths.csv",
        "test_truth.csv",
    ]
    for path in [*sorted(folder.glob("*.csv")), folder / "train/masks/aa00000001.png"]:
        path.write_bytes(path.read_bytes()[::-1])  # of the same length
        os.utime(path, (10**9, 10**9))
        assert described() not in seen
        seen.append(described())
    (folder / "train.zip").write_bytes(b"cut short")
    assert competition.inputs(folder) not in seen


# ---- broken


def break_csv(name: str, old: str, new: str):
    return lambda folder: edit(folder / name, old, new)


def put(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def move(name: str, to: str):
    return lambda folder: (folder / name).rename(folder / to)


def instead(name: str, make: Callable[[Path], object]):
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def link(name: str, to: str):
    return instead(name, lambda path: path.symlink_to(to))


def deepen(name: str):
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder / "moved")
        (folder / name).mkdir()
        (folder / "moved").rename(folder / name / name)

    return spoil


def jpeg(name: str):
    return lambda folder: Image.fromarray(image(0)).save(folder / name, "JPEG")


BROKEN = {
    "csv missing": (remove("depths.csv"), r"^depths.csv: missing"),
    "csv lacks a column": (
        break_csv("train.csv", "rle_mask", "mask"),
        r"^train.csv: has the columns id, mask and 4 rows; it needs id and rle_mask",
    ),
    "csv empty": (put("depths.csv", b""), r"^depths.csv: has the columns none and 0 rows"),
    "csv without rows": (put("sample_submission.csv", b"id,rle_mask\n"), r"^sample_submission.csv: .* and 0 rows"),
    "csv no text": (put("train.csv", b"\x80\x81\x00"), r"^train.csv: is no UTF-8 text"),
    "csv of ragged rows": (break_csv("depths.csv", "106,dd", "106"), r"^depths.csv: line 8 has 1 fields, not 2"),
    "id twice in a csv": (
        break_csv("train.csv", "id,rle_mask\n", "id,rle_mask\naa00000001,1 101\n"),
        r"^train.csv: aa00000001 has 2 rows",
    ),
    "image missing": (remove("train/images/aa00000001.png"), r"^train/images: aa00000001 is missing, train.csv has it"),
    "mask missing": (remove("train/masks/aa00000001.png"), r"^train/masks: aa00000001 is missing, train.csv has it"),
    "mask without row": (put("train/masks/ee.png", png(mask())), r"^train/masks: ee has no row in train.csv"),
    "test image missing": (remove("test/images/cc00000001.png"), r"^test/images: cc00000001 is missing, sample_sub"),
    "test image without row": (put("test/images/ee.png", png(image(0))), r"^test/images: ee has no row in sample_sub"),
    "truth of another tile": (
        put("test_truth.csv", b"id,rle_mask\ncc00000001,\ncc00000002,\nee,\n"),
        r"^test_truth.csv: ee has no row in sample_submission.csv",
    ),
    "image truncated": (cut("train/images/aa00000001.png"), r"^train/images: aa00000001.png cannot be decoded"),
    "mask no PNG": (
        put("train/masks/aa00000001.png", b"<html>"),
        r"^train/masks: aa00000001.png begins with b'<html>'; a tile is a PNG",
    ),
    "image empty": (put("test/images/cc00000001.png", b""), r"^test/images: cc00000001.png is empty \(0 bytes\)"),
    "size": (
        put("train/images/aa00000001.png", png(image(0)[1:])),
        r"^train/images: aa00000001.png is 101 x 100 px; a tile is 101 x 101",
    ),
    "image of 16 bits": (put("test/images/cc00000001.png", png(mask((0, 0)))), r"^test/images: .* is of mode I;16"),
    "image with colours": (
        put("test/images/cc00000001.png", png(image(0) * np.uint8([1, 1, 0]))),
        r"^test/images: cc00000001.png has colours",
    ),
    "mask of three values": (
        put("train/masks/aa00000001.png", png((np.indices((101, 101))[0] % 3).astype(np.uint8))),
        r"^train/masks: aa00000001.png has mode L and 3 values",
    ),
    "mask without 0": (
        put("train/masks/aa00000001.png", png(np.eye(101, dtype=np.uint8) + 1)),
        r"^train/masks: aa00000001.png has mode L and 2 values",
    ),
    "mask with channels": (put("train/masks/aa00000001.png", png(image(0))), r"^train/masks: .* has mode RGB"),
    "RLE odd": (break_csv("train.csv", "1 2 102 2", "1 2 102"), r"^train.csv: 12345e6789 .*odd"),
    "RLE overlapping": (break_csv("train.csv", "1 2 102 2", "1 2 2 2"), r"^train.csv: 12345e6789 .*overlap"),
    "RLE out of range": (break_csv("train.csv", "10201 1", "10201 2"), r"^train.csv: bb00000004 .*range"),
    "RLE no number": (break_csv("train.csv", "10201 1", "10201 x"), r"^train.csv: bb00000004 .*number"),
    "RLE of another mask": (
        break_csv("train.csv", "10201 1", "10200 1"),
        r"^train.csv: bb00000004 has an RLE and a mask PNG that differ in 2 px",
    ),
    "RLE by rows": (
        break_csv("train.csv", "1 101\n", " ".join(f"{1 + 101 * i} 1" for i in range(101)) + "\n"),
        r"^train.csv: aa00000001 has an RLE and a mask PNG that differ in 200 px",
    ),  # all but the corner
    "depth missing": (break_csv("depths.csv", "104,cc00000002\n", ""), r"^depths.csv: cc00000002 has no row"),
    "image a dangling link": (
        link("train/images/aa00000001.png", "gone.png"),
        r"^train/images: aa00000001.png is a link to gone.png, which is not there",
    ),
    "image a link to itself": (
        link("test/images/cc00000001.png", "cc00000001.png"),
        r"^test/images: cc00000001.png is a link to cc00000001.png, which is not there",
    ),
    "csv a dangling link": (link("depths.csv", "gone.csv"), r"^depths.csv: is a link to gone.csv, which is not there"),
    "optional csv a link to itself": (
        lambda folder: (folder / "test_truth.csv").symlink_to("test_truth.csv"),
        r"^test_truth.csv: is a link to test_truth.csv, which is not there",
    ),
    "image a folder": (
        instead("train/images/aa00000001.png", Path.mkdir),
        r"^train/images: aa00000001.png is no file; remove it",
    ),
    "image a pipe": (instead("train/images/aa00000001.png", os.mkfifo), r"^train/images: aa00000001.png is no file"),
    "image .PNG": (
        move("train/images/aa00000001.png", "train/images/aa00000001.PNG"),
        r"^train/images: aa00000001.PNG ends in .PNG; rename it to .png$",
    ),
    "image .jpg": (
        move("test/images/cc00000001.png", "test/images/cc00000001.jpg"),
        r"^test/images: cc00000001.jpg ends in .jpg; a tile is a PNG",
    ),
    "csv in another case": (move("train.csv", "Train.CSV"), r"^train.csv: missing; rename Train.CSV to train.csv$"),
    "split in another case": (
        move("test", "Test"),
        r"^test.zip: missing, .*; move or rename Test/images to test/images$",
    ),
    "split a level too deep": (
        deepen("train"),
        r"^train.zip: missing, .*; move or rename train/train/images to train/images$",
    ),
    "image a JPEG": (jpeg("train/images/aa00000001.png"), r"^train/images: aa00000001.png is a JPEG; a tile is a PNG"),
    "image of many bytes": (
        put("test/images/cc00000001.png", png(image(0)) + bytes(2**21)),
        r"^test/images: cc00000001.png has 2,\d{3},\d{3} bytes, where 1,048,576 are plenty",
    ),
    "csv in UTF-16": (
        put("sample_submission.csv", "id,rle_mask\na,1 1\n".encode("utf-16")),
        r"^sample_submission.csv: is UTF-16 text; save it as UTF-8$",
    ),
    "column with a blank": (
        break_csv("train.csv", "id,rle_mask", "id, rle_mask"),
        r"^train.csv: has the columns id, ' rle_mask' and 4 rows",
    ),
    "depth no number": (break_csv("depths.csv", "100,aa", "deep,aa"), r"^depths.csv: aa00000001 has the depth 'deep'"),
}


@pytest.mark.parametrize("spoil, message", BROKEN.values(), ids=BROKEN.keys())
def test_a_fault_is_named_alone_and_with_its_file(folder, spoil, message):
    spoil(folder)
    lines = faults(folder)
    assert len(lines) == 1 and re.search(message, lines[0]), lines


def test_all_faults_in_one_list(folder):
    for name in ("csv of ragged rows", "image truncated", "mask missing", "depth no number", "test image without row"):
        BROKEN[name][0](folder)
    assert len(faults(folder)) == 5


def test_what_is_wrong_alike_is_one_line(folder):
    for tile in TRAIN:
        put(f"train/images/{tile}.png", png(np.zeros((256, 256), np.uint8)))(folder)
    for tile in TRAIN[:2]:
        put(f"train/masks/{tile}.png", png(image(0)))(folder)
    assert faults(folder) == [
        "train/images: each of the 4 files is 256 x 256 px; a tile is 101 x 101 (but without train.csv and "
        "sample_submission.csv these are images of your own, of any size)",
        "train/masks: each of 2 (0000000002.png, aa00000001.png) has mode RGB and 256 values; "
        "a mask is grey, 0 and one value for salt",
    ]


def test_a_long_list_is_cut(folder):
    for i in range(25):
        put(f"test/images/ee{i:02}.png", png(image(0)))(folder)
    [line] = faults(folder)
    assert line.startswith("test/images: each of 25 (ee00, ee01, ") and "ee09, ...) has no row" in line
    with open(folder / "train.csv", "a") as file:
        file.writelines(f"1{i:09},x{i} 1\n" for i in range(25))  # each wrong in its own way
    *lines, more = [line for line in faults(folder) if line.startswith("train.csv")]
    assert len(lines) == 20 and re.fullmatch(r"train.csv: and \d more faults", more)


def test_an_id_in_train_and_test(folder):
    edit(folder / "sample_submission.csv", "cc00000001", "aa00000001")
    (folder / "test/images/cc00000001.png").rename(folder / "test/images/aa00000001.png")
    assert faults(folder) == ["sample_submission.csv: aa00000001 is in train.csv too; an id is one tile"]


def test_a_zip_cut_short(folder):
    path = pack(folder, "train")
    path.write_bytes(path.read_bytes()[:-100])
    assert competition.find(folder)
    [line] = faults(folder)
    assert line.startswith("train.zip: cut short or no zip")


def test_a_bad_checksum_in_a_zip(folder):
    content = (folder / "train/masks/aa00000001.png").read_bytes()
    path = pack(folder, "train")
    assert path.read_bytes().count(content) == 1
    path.write_bytes(path.read_bytes().replace(content, content[:-20] + b"?" + content[-19:]))
    [line] = faults(folder)
    assert line.startswith("train.zip/masks: aa00000001.png cannot be decoded (Bad CRC-32")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_id_twice_in_a_zip(folder):
    with zipfile.ZipFile(pack(folder, "train"), "a") as archive:
        archive.writestr("images/aa00000001.png", png(image(0)))
    assert faults(folder) == ["train.zip/images: aa00000001 is there twice; an id may have one PNG"]


def test_a_zip_of_other_things(folder):
    shutil.rmtree(folder / "test")
    with zipfile.ZipFile(folder / "test.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert faults(folder) == [
        "test.zip/images: each of 2 (cc00000001, cc00000002) is missing, sample_submission.csv has it"
    ]


def test_a_split_that_is_not_there(folder):
    shutil.rmtree(folder / "train")
    assert faults(folder) == ["train.zip: missing, and there is no train/images/ in its place"]


def test_odd_ids_are_quoted(folder):
    edit(folder / "train.csv", "aa00000001,", "aa00000001 ,")
    edit(folder / "train.csv", "bb00000004,", "bb\x0000000004,")
    edit(folder / "train.csv", "0000000002,", ",")
    text = "\n".join(faults(folder))
    assert "(0000000002, aa00000001, bb00000004) has no row in train.csv" in text
    assert r"('', 'aa00000001 ', 'bb\x0000000004') is missing, train.csv has it" in text and "\0" not in text


def test_a_stray_link_is_a_fault_and_does_not_stop_what_only_looks(folder):
    (folder / "train/images/stray.png").symlink_to("gone.png")
    assert competition.inputs(folder) == competition.inputs(folder)
    assert faults(folder) == [
        "train/images: stray has no row in train.csv",
        "train/images: stray.png is a link to gone.png, which is not there; mend or remove it",
    ]


def spoiled_zip(folder: Path, patch: dict[bytes, tuple[int, bytes]], content: bytes) -> None:
    """train.zip with `content` for an image, and other bytes at some offset from a record's signature."""
    pack(folder, "train")
    with zipfile.ZipFile(folder / "train.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "images/aa00000001.png"
    with zipfile.ZipFile(folder / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)  # the first record
        for other in members.keys() - {name}:
            archive.writestr(other, members[other])
    packed = bytearray((folder / "train.zip").read_bytes())
    for signature, (offset, value) in patch.items():
        at = packed.index(signature) + offset
        packed[at : at + len(value)] = value
    (folder / "train.zip").write_bytes(packed)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def test_an_encrypted_zip_says_so(folder):
    spoiled_zip(folder, {LOCAL: (6, b"\1\0"), CENTRAL: (8, b"\1\0")}, png(image(0)))  # general purpose flag, bit 0
    assert faults(folder) == [
        "train.zip/images: aa00000001.png is encrypted; unpack the zip with its password, and remove it"
    ]


@pytest.mark.parametrize("declared", [None, 500])
def test_a_zip_that_unpacks_to_an_absurd_size_is_refused_before_it_fills_the_memory(folder, declared):
    size = {} if declared is None else {CENTRAL: (24, declared.to_bytes(4, "little"))}
    spoiled_zip(folder, size, png(image(0)) + bytes(2**26))
    tracemalloc.start()
    [line] = faults(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24
    said = "has 67,.* bytes, where 1,048,576 are plenty" if declared is None else "cannot be decoded .Bad CRC-32"
    assert re.match(f"train.zip/images: aa00000001.png {said}", line), line


def test_a_hint_at_tiles_that_lie_elsewhere(folder):
    (folder / "a").mkdir()
    assert competition.hint(folder / "a") == competition.hint(folder / "absent") == ""
    below = folder / "a" / "tgs"
    below.mkdir()
    shutil.move(folder / "train", below), shutil.move(folder / "test", below)
    assert competition.hint(folder / "a") == f"{below} has them: name that folder"
    (below / "train").rename(below / "Train"), (below / "test").rename(below / "TEST")
    assert not competition.find(below)
    assert competition.hint(below) == (
        "move or rename Train/images to train/images; move or rename TEST/images to test/images"
    )


# ---- Kaggle's own tiles


def test_real_tiles_have_no_fault():
    if "SALT_TILES" not in os.environ:
        pytest.skip("set SALT_TILES to a folder with Kaggle's files to check the real tiles")
    got, remarks = competition.read(Path(os.environ["SALT_TILES"]))
    n, m = len(got.train_images), len(got.test_images)
    assert len(got.train_masks) == n and len(got.table) == n + m
    train, test = got.table[:n], got.table[n:]
    assert train.id.is_monotonic_increasing and got.table.id.is_unique
    assert got.table.z.between(50, 959).all()
    # Of all 4,000 train tiles 1,562 masks are empty (39 %), 80 tiles are black, no mask is full; of 18,000 test
    # tiles 430 are black. The folder may hold a part of them.
    assert (train.coverage == 0).mean() == pytest.approx(0.39, abs=0.02)
    assert train.black.mean() == pytest.approx(0.02, abs=0.005) and test.black.mean() == pytest.approx(0.024, abs=0.005)
    assert train.coverage[train.black].max() == 0 and train.coverage.max() < 1
    stripes = (got.train_masks == got.train_masks[:, :1]).all(axis=(1, 2)) & got.train_masks.any(axis=(1, 2))
    assert stripes.mean() == pytest.approx(113 / 4000, abs=0.01)
    assert not any("more than once" in remark for remark in remarks)
