"""Kaggle's files, valid and with several faults at once; tests/bad/kaggle.py has each fault alone."""

import os
import re
import shutil
import stat
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.salt.errors import InputError
from pipeline.salt.tiles import Tiles, competition
from tests.bad import builders, kaggle
from tests.bad.builders import TEST, TRAIN, edit, image, png, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A competition of four train and two test tiles, unpacked."""
    return builders.competition(tmp_path / "tgs")


def pack(folder: Path, split: str, below: str = "", keep: bool = False) -> Path:
    """Replace a split's folder by its zip, with the extra files that macOS adds."""
    with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
        for path in sorted((folder / split).glob("*/*.png")):
            archive.write(path, f"{below}{path.relative_to(folder / split)}")
            archive.writestr(f"__MACOSX/{path.parent.name}/._{path.name}", b"junk")
        archive.writestr(f"{below}images/.DS_Store", b"junk")
    if not keep:
        shutil.rmtree(folder / split)
    return folder / f"{split}.zip"


def faults(folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        competition.read(folder)
    first, *lines = str(caught.value).split("\n")
    assert re.fullmatch(
        rf"\d+ faults? in {re.escape(str(folder))}: fix the files below, or download them again\.", first
    )
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
    assert "train.zip is read in place; the folder train/ is ignored" in remarks_of(folder)


def test_a_mask_may_be_full(folder):
    (folder / "train/masks/aa00000001.png").write_bytes(png(np.full((101, 101), 65535, np.uint16)))
    edit("train.csv", "aa00000001,1 101", "aa00000001,1 10201")(folder)
    assert tiles_of(folder).train_masks[2].all()


def test_the_same_picture_twice_is_a_remark(folder):
    shutil.copy(folder / "train/images/aa00000001.png", folder / "train/images/bb00000004.png")
    shutil.copy(folder / "train/images/12345e6789.png", folder / "test/images/cc00000001.png")
    assert remarks_of(folder)[-1] == (
        "2 train images occur more than once: train 12345e6789 = test cc00000001; train aa00000001 = train bb00000004"
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


def test_all_faults_in_one_list(folder):
    for name in ("csv of ragged rows", "image truncated", "mask missing", "depth no number", "test image without row"):
        kaggle.REFUSED[name][0](folder)
    assert len(faults(folder)) == 5


def test_what_is_wrong_alike_is_one_line(folder):
    for tile in TRAIN:
        put(f"train/images/{tile}.png", png(np.zeros((256, 256), np.uint8)))(folder)
    for tile in TRAIN[:2]:
        put(f"train/masks/{tile}.png", png(image(0)))(folder)
    assert faults(folder) == [
        "train/images: each of the 4 files is 256 x 256 px; a tile is 101 x 101 (without train.csv and "
        "sample_submission.csv the images count as your own and may have any size)",
        "train/masks: each of 2 (0000000002.png, aa00000001.png) has mode RGB and 256 values; "
        "a mask is grey: 0 and one value for salt",
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
    edit("sample_submission.csv", "cc00000001", "aa00000001")(folder)
    (folder / "test/images/cc00000001.png").rename(folder / "test/images/aa00000001.png")
    assert faults(folder) == ["sample_submission.csv: aa00000001 is also in train.csv; each id must be one tile"]


def test_a_split_that_is_not_there(folder):
    shutil.rmtree(folder / "train")
    assert faults(folder) == ["train.zip: missing, and so is the folder train/images/"]


def test_odd_ids_are_quoted(folder):
    edit("train.csv", "aa00000001,", "aa00000001 ,")(folder)
    edit("train.csv", "bb00000004,", "bb\x0000000004,")(folder)
    edit("train.csv", "0000000002,", ",")(folder)
    text = "\n".join(faults(folder))
    assert "(0000000002, aa00000001, bb00000004) has no row in train.csv" in text
    assert r"('', 'aa00000001 ', 'bb\x0000000004') is missing, but train.csv lists it" in text and "\0" not in text


def test_a_stray_link_is_a_fault_and_does_not_stop_what_only_looks(folder):
    (folder / "train/images/stray.png").symlink_to("gone.png")
    assert competition.inputs(folder) == competition.inputs(folder)
    assert faults(folder) == [
        "train/images: stray has no row in train.csv",
        "train/images: stray.png is a link to gone.png, which does not exist; fix or remove the link",
    ]


@pytest.mark.parametrize("row", ["zip that unpacks to an absurd size", "zip that unpacks to more than it says"])
def test_a_zip_of_an_absurd_size_is_refused_before_it_fills_the_memory(folder, row):
    kaggle.REFUSED[row][0](folder)
    tracemalloc.start()
    faults(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_a_hint_at_tiles_that_lie_elsewhere(folder):
    (folder / "a").mkdir()
    assert competition.hint(folder / "a") == competition.hint(folder / "absent") == ""
    below = folder / "a" / "tgs"
    below.mkdir()
    shutil.move(folder / "train", below), shutil.move(folder / "test", below)
    assert competition.hint(folder / "a") == f"{below} has them: name that folder instead"
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
