"""One's own data by folder: what is read, and three sets from files to mask PNGs. tests/bad/ has bad ones."""

import io
import json
import os
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from pipeline import make_folds, predict, prepare, report, submit, train
from pipeline.salt import artifacts, cli, rle, stages, submission
from pipeline.salt.config import Augment, Submit, Tiling
from pipeline.salt.errors import InputError
from pipeline.salt.folds import split
from pipeline.salt.inference import InferenceSettings, predict_to_file
from pipeline.salt.sections.reading import from_array
from pipeline.salt.tiles import Tiles, cache, competition, cutting, folder, own_folds
from pipeline.salt.tiles.augment import augment_batch
from pipeline.salt.tiles.geometry import channels_first
from pipeline.salt.tiles.loaders import get_data
from tests.conftest import TinyRun

WHOLE, CUT = Tiling(), Tiling(side=32, stride=16)
STATS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def scene(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright disc, (height, width) float, and where the disc is."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre, radius = rng.uniform(0.3, 0.7, 2) * (height, width), 0.25 * min(height, width)
    salt = np.hypot(y - centre[0], x - centre[1]) < radius
    return rng.normal(90, 10, (height, width)) + 80 * salt, salt


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


@pytest.fixture
def rgb(tmp_path) -> Path:
    """8 + 3 colour JPGs of 48 x 48 px, with PNG masks of 0 and 255."""
    for i in range(11):
        grey, salt = scene(48, 48, i)
        image = np.stack([grey, 0.8 * grey, 0.5 * grey + 40], axis=-1).clip(0, 255).astype(np.uint8)
        save(tmp_path / "own" / ("images" if i < 8 else "test") / f"p{i}.jpg", image)
        if i < 8:
            save(tmp_path / "own" / "masks" / f"p{i}.png", salt * np.uint8(255))
    return tmp_path / "own"


@pytest.fixture
def section(tmp_path) -> Path:
    """One float TIFF of 100 rows and 230 columns, the left 130 of them labelled."""
    amplitude, salt = scene(100, 230, 0)
    save(tmp_path / "own/images/line7.tif", amplitude.astype(np.float32))
    labels = salt.astype(np.uint8)
    labels[:, 130:] = 255
    save(tmp_path / "own/masks/line7.tif", labels)
    return tmp_path / "own"


@pytest.fixture
def arrays(tmp_path) -> Path:
    """8 + 2 .npy of 40 rows and 56 columns in Kaggle's layout: float64 images, bool masks."""
    for i in range(10):
        grey, salt = scene(40, 56, i)
        save(tmp_path / "own" / ("train/images" if i < 8 else "test/images") / f"{i:03}.npy", grey)
        if i < 8:
            save(tmp_path / "own" / "train/masks" / f"{i:03}.npy", salt)
    return tmp_path / "own"


def faults(data: Path, tiling: Tiling = WHOLE) -> list[str]:
    with pytest.raises(InputError) as caught:
        folder.read(data, tiling)
    first, *lines = str(caught.value).split("\n")
    assert re.fullmatch(rf"\d+ faults? in {re.escape(str(data))}: fix the files below, or download them again\.", first)
    assert "0x" not in str(caught.value) and "Errno" not in str(caught.value)
    return [line.strip() for line in lines]


# ---- what is read


def test_colour_images_keep_their_channels(rgb):
    tiles, remarks = folder.read(rgb, WHOLE)
    assert tiles.train_images.shape == (8, 48, 48, 3) and tiles.test_images.shape == (3, 48, 48, 3)
    assert tiles.train_masks.shape == (8, 48, 48) and tiles.train_masks.dtype == bool and not remarks
    assert list(tiles.table["id"]) == ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p10", "p8", "p9"]
    with Image.open(rgb / "images/p3.jpg") as image:
        np.testing.assert_array_equal(tiles.train_images[3], np.asarray(image))
    np.testing.assert_array_equal(tiles.train_masks[3], scene(48, 48, 3)[1])
    assert tiles.table["z"].isna().all() and tiles.train_table["coverage"][3] == scene(48, 48, 3)[1].mean()


def test_an_image_in_colour_to_predict_becomes_grey_as_the_labelled_ones(arrays):
    """The weights trained on them can still be used."""
    before = folder.read(arrays, WHOLE)[0]
    some = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    save(arrays / "test/images/x.png", some)
    tiles, remarks = folder.read(arrays, WHOLE)
    np.testing.assert_array_equal(tiles.train_images, before.train_images)
    np.testing.assert_array_equal(tiles.test_images[-1], np.asarray(Image.fromarray(some).convert("L")))
    assert remarks == ["1 images in test/ are in colour and become grey, as the labelled ones are"]


def test_equal_channels_are_grey_and_a_grey_image_among_colours_gets_three(rgb):
    some = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    save(rgb / "images/p0.png", some)
    (rgb / "images/p0.jpg").unlink()
    np.testing.assert_array_equal(folder.read(rgb, WHOLE)[0].train_images[0], some[..., None].repeat(3, 2))
    assert folder.image_of(some[..., None].repeat(3, 2)).shape == (48, 48)
    assert folder.image_of(np.dstack([some] * 3 + [255 - some])).shape == (48, 48), "transparency is no colour"


def test_other_number_types_become_grey_as_segment_has_them():
    ramp = np.linspace(-3.0, 5.0, 100 * 101, dtype=np.float32).reshape(100, 101)
    low, high = -3 + 0.08, 5 - 0.08  # the 1st and the 99th percentile of a ramp of length 8
    grey = ((ramp - low) / (high - low) * 255).clip(0, 255)
    np.testing.assert_allclose(folder.image_of(ramp), grey, atol=0.51)
    np.testing.assert_allclose(folder.image_of((ramp * 1000).astype(np.int16)), grey, atol=0.6)
    np.testing.assert_array_equal(folder.image_of(ramp), from_array("", ramp).rows(0, 100))
    assert not folder.image_of(np.full((5, 5), 7.0)).any() and folder.image_of(ramp > 0).max() == 255
    ramp[:10] = np.nan
    assert not folder.image_of(ramp)[:10].any() and folder.image_of(ramp)[10:].any()


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_compressed_tiff_is_read(rgb, compression, dtype):
    pixels = np.random.default_rng(0).integers(0, 200, (48, 48)).astype(dtype)
    (rgb / "images/p0.jpg").unlink()
    how = {None: "raw", "zlib": "tiff_adobe_deflate", "lzw": "tiff_lzw"}[compression]
    Image.fromarray(pixels).save(rgb / "images/p0.tiff", compression=how)
    np.testing.assert_array_equal(folder.read(rgb, WHOLE)[0].train_images[0, ..., 0], folder.image_of(pixels))


@pytest.mark.parametrize("salt", [0.25, 0.75])
@pytest.mark.parametrize("how", ["tiff of white 0", "tiff of one bit, white 0", "grey palette", "label map"])
def test_what_is_white_is_salt_however_a_file_counts(rgb, how, salt):
    """In a picture, white is salt; in a label map, the numbers count, whatever its colours."""
    mask = np.zeros((48, 48), bool)
    mask[: round(48 * salt)] = True
    (rgb / "masks/p0.png").unlink()
    if how.startswith("tiff"):
        pixels = ~mask if "one bit" in how else np.uint8(255) * ~mask
        tifffile.imwrite(rgb / "masks/p0.tif", pixels, photometric="miniswhite")
        with Image.open(rgb / "masks/p0.tif") as shown:
            np.testing.assert_array_equal(np.asarray(shown.convert("L")) > 0, mask)
    else:
        white_first, red = [255, 255, 255, 0, 0, 0], [0, 0, 0] * 255 + [128, 0, 0]
        image = Image.fromarray(np.uint8(~mask if how == "grey palette" else 255 * mask))
        image.putpalette(white_first if how == "grey palette" else red)
        image.save(rgb / "masks/p0.png")
    np.testing.assert_array_equal(folder.read(rgb, WHOLE)[0].train_masks[0], mask)


def test_a_blank_page_packed_as_a_fax_is_read(tmp_path):
    """Of all valid files, the one with the most pixels per byte."""
    Image.new("1", (20_000, 500)).save(tmp_path / "blank.tif", compression="group4")
    assert folder.read_image(tmp_path / "blank.tif").shape == (500, 20_000)
    assert 10_000 * (tmp_path / "blank.tif").stat().st_size < 500 * 20_000


def test_an_image_larger_than_pillow_opens_for_strangers_is_read(rgb, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 48 // 3)
    assert len(folder.read(rgb, WHOLE)[0].train_images) == 8 and Image.MAX_IMAGE_PIXELS == 48 * 48 // 3


@pytest.mark.parametrize("value, dtype", [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (1.0, np.float32)])
def test_salt_is_the_one_value_that_is_not_0(arrays, value, dtype):
    for i in range(8):
        save(arrays / f"train/masks/{i:03}.npy", (scene(40, 56, i)[1] * value).astype(dtype))
    tiles, _ = folder.read(arrays, WHOLE)
    np.testing.assert_array_equal(tiles.train_masks, [scene(40, 56, i)[1] for i in range(8)])


def test_255_beside_1_is_not_labelled_in_any_mask_and_nan_never_is(arrays):
    labels = scene(40, 56, 0)[1].astype(np.uint8)
    labels[0, 0] = 255
    save(arrays / "train/masks/000.npy", labels)
    save(arrays / "train/masks/001.npy", np.full((40, 56), 255, np.uint8))
    with_nan = scene(40, 56, 2)[1].astype(float)
    with_nan[-1, -1] = np.nan
    save(arrays / "train/masks/002.npy", with_nan)
    tiles, remarks = folder.read(arrays, WHOLE)
    assert list(tiles.train_table["id"]) == ["003", "004", "005", "006", "007"]
    assert list(tiles.test_table["id"]) == ["000", "001", "002", "008", "009"]
    assert remarks == ["3 images are labelled in part: tiles with unlabelled pixels are only predicted"]


def test_a_stray_1_among_masks_of_255_does_not_make_all_salt_unlabelled(arrays):
    for i in range(8):
        mask = (scene(40, 56, i)[1] if i < 6 else np.zeros((40, 56))) * np.uint8(255)
        mask[0, 0] = 1 if i == 3 else mask[0, 0]
        save(arrays / f"train/masks/{i:03}.npy", mask.astype(np.uint8))
    [fault] = faults(arrays)
    assert fault == "train/masks: 003.npy has a few 1s, but other masks have only 0 and 255; change the 1s to 0 or 255"
    for i in range(8):  # of a set whose masks all have an unlabelled border, few of them salt
        labels = scene(40, 56, i)[1] * np.uint8(i < 3)
        labels[:, :10] = 255
        save(arrays / f"train/masks/{i:03}.npy", labels)
    assert folder.read(arrays, CUT)[0].train_masks.any(), "is taken as it is meant"


@pytest.mark.parametrize("alpha, refused", [(255, False), (0, False), ("salt", True)])
def test_a_mask_that_may_lie_in_its_transparency_is_refused(rgb, alpha, refused):
    """Painted on a transparent layer, all of one colour."""
    for i in range(8):
        salt = scene(48, 48, i)[1]
        grey = np.full((48, 48), 255, np.uint8) if alpha == "salt" else salt * np.uint8(255)
        layer = salt * np.uint8(200) if alpha == "salt" else np.full((48, 48), alpha, np.uint8)
        save(rgb / f"masks/p{i}.png", np.stack([grey, grey, grey, layer], axis=-1))
    if refused:
        assert (
            "has one colour, and may show salt by transparency; save it as 0 and one value, without transparency"
            in faults(rgb)[0]
        )
    else:
        np.testing.assert_array_equal(folder.read(rgb, WHOLE)[0].train_masks[0], scene(48, 48, 0)[1])


def test_images_below_a_folder_are_not_left_out_in_silence(arrays):
    (arrays / "test/images/008.npy").rename(arrays / "test/008.npy")
    (arrays / "test/images").rename(arrays / "test/siteA")
    (arrays / "train/images/more").mkdir()
    shutil.copy(arrays / "train/images/000.npy", arrays / "train/images/more/x.npy")
    assert sorted(faults(arrays)) == [
        "test: siteA is a folder of images; move the files in test/siteA up into test",
        "train/images: more is a folder of images; move the files in train/images/more up into train/images",
    ]
    shutil.rmtree(arrays / "train/images/more")
    (arrays / "test").rename(arrays / "Test")
    assert faults(arrays) == ["test: missing; rename Test to test"]


def test_a_name_is_one_however_a_system_writes_its_accents(arrays):
    for kind, form in (("images", "NFD"), ("masks", "NFC")):
        name = unicodedata.normalize(form, "é.npy")
        (arrays / f"train/{kind}/000.npy").rename(arrays / f"train/{kind}/{name}")
    (arrays / "depths.csv").write_text("id,z\n" + unicodedata.normalize("NFD", "é") + ",7\n")
    (arrays / "depths.csv").write_text(
        (arrays / "depths.csv").read_text() + "".join(f"{i:03},{500 + i}\n" for i in range(1, 10))
    )
    table = folder.read(arrays, WHOLE)[0].table.set_index("id")
    assert table.loc["é", "z"] == 7


def test_depths_are_optional(arrays):
    (arrays / "depths.csv").write_text("id,z\n" + "".join(f"{i:03},{500 + i}\n" for i in range(10)))
    assert list(folder.read(arrays, WHOLE)[0].table["z"]) == [500 + i for i in range(10)]
    (arrays / "depths.csv").write_text("id,z\n" + "".join(f"{i:03},{500 + i}\n" for i in range(9)))
    assert faults(arrays) == ["depths.csv: 009 has no row"]


def test_remarks(arrays):
    for i in range(8):
        save(arrays / f"train/masks/{i:03}.npy", np.zeros((40, 56), bool))
    save(arrays / "train/images/000.npy", np.zeros((40, 56)))
    assert folder.read(arrays, WHOLE)[1] == [
        "1 train tiles are all black",
        "all masks are empty: there is no salt to learn",
    ]
    for path in arrays.rglob("*.npy"):
        save(path, np.zeros((40, 600), np.uint8))
    assert any("600 x 40 px" in remark and "--set tiles.side=" in remark for remark in folder.read(arrays, WHOLE)[1])


def test_kaggles_lists_make_it_kaggles(arrays, tmp_path, made_once):
    assert folder.find(arrays) and not folder.find(made_once) and not folder.find(tmp_path / "absent")
    (arrays / "sample_submission.csv").write_text("id,rle_mask\n")
    assert not folder.find(arrays) and competition.find(arrays)


def test_the_command_line_takes_it_and_says_what_is_wrong_with_others(arrays, tmp_path):
    run = TinyRun(tmp_path / "out", arrays).parse()
    assert run.own_data and not TinyRun(tmp_path / "out").parse().own_data
    with pytest.raises(InputError, match="own has them: name that folder"):
        cli.parse("", [f"--data={tmp_path}"])
    (arrays / "train").rename(tmp_path / "train")
    (tmp_path / "train/images").rename(tmp_path / "train/Imgs")
    (tmp_path / "train/masks").rename(tmp_path / "train/labels")
    with pytest.raises(InputError, match="rename Imgs to images; rename labels to masks"):
        cli.parse("", [f"--data={tmp_path / 'train'}"])
    with pytest.raises(InputError, match=r"tiles.side=64: only images of your own are cut"):
        cli.parse("", ["--data=sample", "--set=tiles.side=64"])
    with pytest.raises(InputError, match="tiles.stride=64 with tiles.side=whole"):
        cli.parse("", ["--data=sample", "--set=tiles.stride=64"])


def test_inputs_change_with_each_file_and_only_then(arrays):
    seen = [folder.inputs(arrays)]
    assert folder.inputs(arrays) == seen[0]
    for name in ("train/images/000.npy", "train/masks/003.npy", "test/images/009.npy"):
        os.utime(arrays / name, (10**9, 10**9))
        assert folder.inputs(arrays) not in seen
        seen.append(folder.inputs(arrays))


# ---- what is refused


def test_all_faults_in_one_list_and_what_is_wrong_alike_in_one_line(arrays):
    for i in range(8):
        save(arrays / f"train/masks/{i:03}.npy", np.zeros((40, 55), bool))
    (arrays / "test/images/a.bmp").touch()
    assert sorted(faults(arrays)) == [
        "test/images: a.bmp ends in .bmp; save it as one of .png, .jpg, .jpeg, .tif, .tiff, .npy",
        "train/masks: each of the 8 files is 55 x 40 px, but its image is 56 x 40 px; they must have the same size",
    ]


def test_empty_folders_and_subfolders(tmp_path):
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "masks").mkdir()
    assert faults(tmp_path)[0] == "images: has no files; put .png, .jpg, .jpeg, .tif, .tiff, .npy files there"
    save(tmp_path / "images/deep/a.npy", scene(40, 56, 0)[0])
    assert faults(tmp_path) == [
        "images: deep is a folder of images; move the files in images/deep up into images",
        "masks: has no files; put .png, .jpg, .jpeg, .tif, .tiff, .npy files there",
    ]


def test_an_image_smaller_than_a_tile(arrays):
    lines = faults(arrays, Tiling(side=64))
    assert lines[0].startswith(
        "train/images: each of the 8 files is 56 x 40 px, smaller than tiles.side=64; lower tiles.side"
    )


def test_a_section_without_a_labelled_tile(section):
    with pytest.raises(InputError, match="no tile is wholly labelled"):
        folder.read(section, WHOLE)


# ---- cutting


@pytest.mark.parametrize(
    "height, width, side, stride", [(100, 230, 32, 16), (32, 32, 32, 32), (65, 33, 32, 32), (96, 64, 32, 32)]
)
def test_tiles_cover_an_image_and_the_last_is_flush(height, width, side, stride):
    covered = np.zeros((height, width), int)
    for top, left in (corners := cutting.corners(height, width, side, stride)):
        assert 0 <= top <= height - side and 0 <= left <= width - side
        covered[top : top + side, left : left + side] += 1
    assert covered.min() >= 1 and len(set(corners)) == len(corners) and corners == sorted(corners)
    if stride == side and not (height % side or width % side):
        assert covered.max() == 1


def test_a_section_is_cut_and_only_whole_labels_are_trained_on(section):
    tiles, remarks = folder.read(section, CUT)
    amplitude, salt = folder.image_of(tifffile.imread(section / "images/line7.tif")), scene(100, 230, 0)[1]
    assert len(tiles.table) == len(cutting.corners(100, 230, 32, 16))
    assert tiles.train_table["left"].max() <= 130 - 32 < tiles.test_table["left"].min()
    for part, images in ((tiles.train_table, tiles.train_images), (tiles.test_table, tiles.test_images)):
        for i, (top, left) in enumerate(zip(part["top"], part["left"], strict=True)):
            np.testing.assert_array_equal(images[i], amplitude[top : top + 32, left : left + 32])
    for i, (top, left) in enumerate(zip(tiles.train_table["top"], tiles.train_table["left"], strict=True)):
        np.testing.assert_array_equal(tiles.train_masks[i], salt[top : top + 32, left : left + 32])
    assert tiles.table["id"].is_unique and tiles.train_table["id"].is_monotonic_increasing
    assert remarks[-1] == "1 images are labelled in part: tiles with unlabelled pixels are only predicted"


def several(images: int, side: int, stride: int) -> pd.DataFrame:
    """A table of tiles cut from so many images of 120 x 200 px."""
    rows = [(f"s{i}", *corner) for i in range(images) for corner in cutting.corners(120, 200, side, stride)]
    table = pd.DataFrame(rows, columns=["image", "top", "left"])
    rng = np.random.default_rng(0)
    return table.assign(
        id=[f"{i:04}" for i in range(len(table))], coverage=rng.random(len(table)), z=np.nan, black=False
    )


@pytest.mark.parametrize("scheme", ["kfold", "coverage"])
@pytest.mark.parametrize("images, stride", [(1, 32), (1, 16), (2, 8), (3, 32), (7, 16)])
def test_no_pixel_of_a_validation_tile_is_trained_on(scheme, images, stride):
    table = several(images, 32, stride)
    fold = split(table, scheme, 3, 42)
    assert set(fold) == {0, 1, 2}
    tiles = Tiles(
        np.zeros((len(table), 32, 32), np.uint8),
        np.zeros((len(table), 32, 32), bool),
        None,
        table.assign(split="train"),
    )
    for k in range(3):
        dls = get_data(k, pd.DataFrame({"id": table["id"], "fold": fold}), 32, 4, tiles=tiles, stats=STATS)
        seen = {image: np.zeros((120, 200), bool) for image in table["image"].unique()}
        rows = table.set_index("id")
        for name in dls.train.ids:
            image, top, left = rows.loc[name, ["image", "top", "left"]]
            seen[image][top : top + 32, left : left + 32] = True
        for name in dls.valid.ids:
            image, top, left = rows.loc[name, ["image", "top", "left"]]
            assert not seen[image][top : top + 32, left : left + 32].any()
        assert set(dls.valid.ids) == set(table["id"][fold == k]) and len(dls.train.ids) > 0
        if images >= 3:
            assert len(dls.train.ids) + len(dls.valid.ids) == len(table), "images apart share nothing"
            assert not set(table["image"][fold == k]) & set(table["image"][fold != k])


def test_too_few_columns_for_the_folds():
    with pytest.raises(InputError, match="9 folds of 7 groups .*: lower folds.k, or tiles.stride"):
        split(several(1, 32, 32), "kfold", 9, 42)


def test_whole_images_are_the_mean_of_their_tiles(section):
    tiles, _ = folder.read(section, CUT)
    field = np.linspace(0, 1, 100 * 230, dtype=np.float32).reshape(100, 230)

    def cut(table: pd.DataFrame) -> np.ndarray:
        return np.stack([field[t : t + 32, s : s + 32] for t, s in zip(table["top"], table["left"], strict=True)])

    oof, test = cut(tiles.train_table), cut(tiles.test_table)
    [(name, probs)] = cutting.whole_images(tiles, oof, test)
    assert name == "line7"
    np.testing.assert_allclose(probs, field, atol=1e-6)
    [(_, probs)] = cutting.whole_images(tiles, oof + 0.2, test + 0.2)
    np.testing.assert_allclose(probs, field + 0.2, atol=1e-6)
    [(_, probs)] = cutting.whole_images(tiles, np.full_like(oof, np.nan), test)
    first = tiles.test_table["left"].min()
    assert np.isnan(probs[:, :first]).all() and np.allclose(probs[:, first:], field[:, first:], atol=1e-6)


# ---- colour and sides that differ, on the way to the model


def test_a_colour_tile_arrives_as_pil_resizes_it(rgb):
    tiles, _ = folder.read(rgb, WHOLE)
    folds = pd.DataFrame({"id": tiles.train_table["id"], "fold": np.arange(8) % 2})
    x, y = get_data(0, folds, 32, 8, tiles=tiles, stats=STATS).valid.one_batch()
    assert x.shape == (4, 3, 32, 32) and y.shape == (4, 1, 48, 48)
    for ours, image in zip(x, tiles.train_images[::2], strict=True):
        theirs = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
        assert np.abs((ours.permute(1, 2, 0).numpy() * 0.25 + 0.5) * 255 - theirs).max() <= 2


def test_each_channel_is_augmented_as_if_it_were_alone(rgb):
    images = channels_first(torch.from_numpy(folder.read(rgb, WHOLE)[0].train_images))
    masks, always = images[:, :1] > 128, Augment(zoom_p=1, brightness_p=1, rotate=9, shear=0.1, warp_p=1)
    torch.manual_seed(0)
    together, moved = augment_batch(images, masks, always)
    for channel in range(3):
        torch.manual_seed(0)
        alone, the_same = augment_batch(images[:, channel : channel + 1], masks, always)
        torch.testing.assert_close(together[:, channel : channel + 1], alone)
        assert torch.equal(moved, the_same)


def test_tiles_that_are_not_square_come_back_where_they_were(tmp_path):
    class Red(torch.nn.Module):
        """A model whose logits are the red channel."""

        def __init__(self):
            super().__init__()
            self.encoder = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))

        def forward(self, x):
            return x[:, :1]

    images = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), np.uint8)
    images[:, 5:20, 30:50, 0] = 255
    images[:, 25:35, 30:50, 0] = 0
    settings = InferenceSettings(sizes=(224,), batch=2, flip=True, precision="fp32", devices=(torch.device("cpu"),))
    predict_to_file(tmp_path / "p.npy", images, [(Red(), np.arange(3))], "", settings)
    probs = np.load(tmp_path / "p.npy")
    assert probs.shape == (3, 40, 56)
    assert (probs[:, 8:17, 33:47] > 0.95).all() and (probs[:, 28:32, 33:47] < 0.05).all()


# ---- folds of one's own


def test_own_folds_of_cut_images_go_by_the_image(tmp_path):
    path, table = tmp_path / "mine.csv", several(3, 32, 32)
    path.write_text("id,fold\ns0,1\ns1,0\ns2,1\n")
    assert own_folds.read(path, table, 2).tolist() == table["image"].map({"s0": 1, "s1": 0, "s2": 1}).tolist()


def test_folds_are_out_of_date_when_the_csv_changes(arrays, tmp_path):
    path, run = tmp_path / "mine.csv", TinyRun(tmp_path / "out", arrays)
    extra = (f"--set=folds.file={path}",)
    path.write_text("id,fold\n" + "".join(f"{i:03},{i % 2}\n" for i in range(8)))
    run(prepare, make_folds, extra=extra)
    product = stages.folds(run.parse(*extra))
    assert pd.read_csv(product.path)["fold"].tolist() == [0, 1] * 4 and product.is_fresh()
    path.write_text(path.read_text().replace("007,1", "007,0"))
    assert not product.is_fresh()
    path.unlink()
    with pytest.raises(InputError, match=f"folds.file={path}: there is no such file"):
        run(make_folds, extra=extra)


# ---- from files to masks

TINY = ("--set=train.32.epochs=1", "--set=predict.batch=64", "--set=submit.threshold=0.4")


def finish(data: Path, out: Path, *extra: str) -> tuple[TinyRun, dict[str, np.ndarray], pd.Series, dict]:
    """The run, its mask PNGs, the submission's codes, and scores.json."""
    run = TinyRun(out, data)
    run(prepare, make_folds, train, predict, submit, report, extra=(*TINY, *extra))
    files = run.parse(*TINY, *extra).files
    masks = unpacked(files.result("masks.zip"))
    codes = pd.read_csv(files.result("submission.csv.gz"), dtype=str, keep_default_na=False).set_index("id")["rle_mask"]
    text = files.result("report.html").read_text()
    assert "medals" not in text and "the article" not in text, "they are for Kaggle's tiles"
    assert "fresh" in run(submit, extra=(*TINY, *extra))
    return run, masks, codes, json.loads(files.result("scores.json").read_text())


def unpacked(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()}


@pytest.mark.parametrize("name", ["rgb", "arrays"])
def test_from_images_to_mask_pngs(name, request, tmp_path):
    data = request.getfixturevalue(name)
    run, masks, codes, scores = finish(data, tmp_path / "out")
    files = run.parse(*TINY).files
    probs, tiles = np.load(files.result("test.npy")), cache.read(files)
    assert probs.shape == tiles.test_images.shape[:3] and np.isfinite(probs).all()
    assert [*masks] == [f"{tile}.png" for tile in tiles.test_table["id"]] and list(codes.index) == list(
        tiles.test_table["id"]
    )
    for mask, code, prob in zip(masks.values(), codes, probs, strict=True):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, np.where(prob > 0.4, 255, 0))
        np.testing.assert_array_equal(rle.decode(code, mask.shape), mask > 0)
    assert scores["out_of_fold"]["tiles"] == 8 and scores["test"] is None and scores["data"]["width"] == probs.shape[2]


def test_from_a_section_to_one_mask_png(section, tmp_path):
    tiling = ("--set=tiles.side=32", "--set=tiles.stride=16")
    run, masks, codes, scores = finish(section, tmp_path / "out", *tiling)
    files = run.parse(*TINY, *tiling).files
    assert files.source == "own-32-16" and run.parse("--set=tiles.side=32").files.source == "own-32-32"
    tiles = cache.read(files)
    oof, test = np.load(files.oof), np.load(files.result("test.npy"))
    [(_, probs)] = cutting.whole_images(tiles, oof, test)
    assert [*masks] == ["line7.png"] and list(codes.index) == ["line7"] and probs.shape == (100, 230)
    np.testing.assert_array_equal(masks["line7.png"], np.where(probs > 0.4, 255, 0))
    np.testing.assert_array_equal(rle.decode(codes["line7"], (100, 230)), probs > 0.4)
    assert not scores["settings"]["submit.full_empty"] and scores["out_of_fold"]["tiles"] == len(tiles.train_images)

    # A second run of the same folds, and both together: the weighted mean of whole images.
    for place in ("folds", "submissions"):
        shutil.copytree(run.out / place / "demo", run.out / place / "other")
    flags = (*TINY, *tiling, "--run=other")
    others, rng = [], np.random.default_rng(0)
    for product, shape in zip(stages.predictions(run.parse(*flags)), (oof.shape, test.shape), strict=True):
        others.append(rng.uniform(0.2, 0.7, shape).astype(np.float16))
        with artifacts.publish(product.path, product.origin()) as tmp:
            np.save(tmp, others[-1])
    run(submit, report, extra=flags)
    both = [f"--data={section}", f"--out={run.out}", "--run=demo", "--run=other"]
    for rule in ("submit.full_empty=True", "submit.peak=0.6"):
        with pytest.raises(InputError, match="full_empty and peak are for whole images, not for cut ones"):
            submit.main([*both, f"--set={rule}"])
    submit.main(both)
    joined = run.out / "submissions/demo+other"
    weights = json.loads((joined / "submission.csv.gz.json").read_text())["weights"]
    [(_, other)] = cutting.whole_images(tiles, *others)
    expected = weights["demo"] * probs + weights["other"] * other > 0.4
    masks, table = unpacked(joined / "masks.zip"), submission.read((joined / "submission.csv.gz").read_bytes())
    assert [*masks] == ["line7.png"] and table["id"].tolist() == ["line7"]
    assert (masks["line7.png"] == np.where(expected, 255, 0)).mean() > 0.9999, "but for the rounding of a tie"
    np.testing.assert_array_equal(rle.decode(table["rle_mask"][0], (100, 230)), masks["line7.png"] > 0)
    for weight, alone in (((1.0, 0.0), probs), ((0.0, 1.0), other)):
        _, [mask] = submit.masks_of(tiles, [(oof, test), others], weight, 0.4, Submit())
        np.testing.assert_array_equal(mask, alone > 0.4)


def test_without_anything_to_predict(arrays, tmp_path):
    for path in (arrays / "test/images").iterdir():
        path.unlink()
    _, masks, codes, scores = finish(arrays, tmp_path / "out")
    assert not masks and codes.empty and scores["data"]["test"] == 0 and scores["empty"]["submission"] == 0


def test_a_fold_that_leaves_nothing_to_train_on_is_said(tmp_path):
    """Three strips of one section: tiles of the middle one share pixels with all others."""
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "set/images/line.npy", rng.integers(0, 255, (300, 300)).astype(np.uint8))
    np.save(tmp_path / "set/masks/line.npy", rng.random((300, 300)) > 0.5)
    tiles, _ = folder.read(tmp_path / "set", Tiling(side=128, stride=32))
    fold = split(tiles.train_table, "kfold", 3)
    assert tiles.train_table["image"].nunique() == 1, "what is split is not changed"
    table = tiles.train_table.assign(fold=fold)
    with pytest.raises(InputError, match="leaves no tile to train on.*lower folds.k, or raise tiles.stride"):
        for k in range(3):
            get_data(k, table, 64, 4, tiles=tiles, stats=((0.5,) * 3, (0.5,) * 3))


def test_no_pseudo_labelled_tile_shares_a_pixel_with_a_held_out_one(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    mask = (np.random.default_rng(0).random((64, 320)) > 0.5).astype(np.float32)
    mask[:, 160:] = np.nan  # not labelled
    np.save(tmp_path / "set/images/line.npy", np.random.default_rng(1).integers(0, 255, mask.shape).astype(np.uint8))
    np.save(tmp_path / "set/masks/line.npy", mask)
    tiles, _ = folder.read(tmp_path / "set", Tiling(side=32, stride=16))
    table = tiles.train_table.assign(fold=split(tiles.train_table, "kfold", 2))
    names, corners = tiles.test_table["id"].tolist(), tiles.table.set_index("id")[["top", "left"]]
    extra = tiles.test_images, np.zeros(tiles.test_images.shape, bool), names
    counts = []
    for k in range(2):
        dls = get_data(k, table, 32, 4, tiles=tiles, stats=((0.5,) * 3, (0.5,) * 3), extra=extra)
        held_out = corners.loc[table.loc[table["fold"] == k, "id"]].to_numpy()
        taken = set(dls.train.ids) & set(names)
        counts.append(len(taken))
        for name in names:
            apart = np.abs(held_out - corners.loc[name].to_numpy()).max(axis=1) >= 32
            assert (name in taken) == apart.all()
    assert 0 < min(counts) < len(names), "some share pixels, some do not"
