"""tools.segment: a trained run on pictures larger than its tiles."""

import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline import load_run
from pipeline.salt import artifacts
from pipeline.salt.errors import InputError
from pipeline.salt.sections import writing
from pipeline.salt.sections.reading import Picture, from_array
from pipeline.tools.segment import main
from pipeline.tools.segment import segment as segment_picture


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (230, 310), dtype=np.uint8)


def stub(logits, threshold: float = 0.5) -> SimpleNamespace:
    """A function of windows, with what the tool needs of a TrainedRun."""
    return SimpleNamespace(
        logits=logits,
        with_channels=lambda rows: rows,
        threshold=threshold,
        models={0: None},
        weights={"fold_0/96.safetensors": "0" * 16},
    )


def read(folder):
    files = ("mask.png", "overlay.png", "probability.tif")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*files, *(f"{name}.json" for name in files)])
    mask, overlay = (np.asarray(Image.open(folder / name)) for name in files[:2])
    return mask, overlay, tifffile.imread(folder / files[2])


def test_from_the_command_line_to_the_three_files(tiny, image, tmp_path, capsys):
    Image.fromarray(image).save(tmp_path / "map.png")
    main([*tiny.flags()[:3], str(tmp_path / "map.png")])
    folder = tiny.out / "submissions/demo/segment/map"
    mask, overlay, probs = read(folder)
    assert mask.shape == probs.shape == image.shape and overlay.shape == (*image.shape, 3)
    assert probs.dtype == np.float32 and 0 <= probs.min() < probs.max() <= 1
    assert np.array_equal(mask, (probs > 0.5) * np.uint8(255)) and np.array_equal(np.unique(mask), [0, 255])
    sidecar = artifacts.read_sidecar(folder / "mask.png")
    assert sidecar["settings"]["window"] == [101, 101] and sidecar["settings"]["picture"] == "map"
    assert sidecar["inputs"] == load_run(tiny.out / "folds/demo").weights
    assert f"230 x 310 px, folds 0, 1, {(mask > 0).mean():.1%} salt" in capsys.readouterr().out


def test_results_of_another_picture_of_that_name_are_kept(tiny, image, tmp_path):
    for survey in "ab":
        (tmp_path / survey).mkdir()
        Image.fromarray(image).save(tmp_path / survey / "line.png")
    flags = [*tiny.flags()[:3], f"--to={tmp_path / 'to'}"]
    main([*flags, str(tmp_path / "a/line.png")])
    with pytest.raises(
        InputError, match=r"to/line has the results of .*a/line\.png; name another folder with --to, or delete"
    ):
        main([*flags, str(tmp_path / "b/line.png")])
    (tmp_path / "to/line/mask.png.json").write_text("{")  # damaged: made anew
    main([*flags, str(tmp_path / "b/line.png")])


def test_a_picture_that_is_done_is_not_done_again(tiny, image, tmp_path, capsys):
    Image.fromarray(image).save(tmp_path / "map.png")
    flags = [*tiny.flags()[:3], str(tmp_path / "map.png")]
    main(flags)
    made = read(tiny.out / "submissions/demo/segment/map")
    capsys.readouterr()
    main(flags)
    assert capsys.readouterr().out.startswith("fresh    ")
    main([*flags, "--side=64"])
    assert "segment  " in capsys.readouterr().out
    Image.fromarray(image.T).save(tmp_path / "map.png")  # another picture in the same place
    main(flags)
    assert "segment  " in capsys.readouterr().out
    assert read(tiny.out / "submissions/demo/segment/map")[2].shape == made[2].T.shape
    main([*flags, "--force"])
    assert "segment  " in capsys.readouterr().out


def test_results_of_another_run_are_kept(tiny, image, tmp_path):
    Image.fromarray(image).save(tmp_path / "map.png")
    flags = [*tiny.flags()[:3], str(tmp_path / "map.png"), f"--to={tmp_path / 'to'}"]
    main(flags)
    shutil.copytree(tiny.out / "folds/demo", tiny.out / "folds/other")
    with pytest.raises(InputError, match=r"to/map has the results of run demo; name another folder with --to"):
        main([*flags, "--run=other"])


def test_one_tile_is_predicted_as_the_stage_predicts_it(tiny, tmp_path):
    tiles = np.load(tiny.out / "data/cache/sample/test.npy")
    np.save(tmp_path / "tile.npy", tiles[2])
    main([*tiny.flags()[:3], str(tmp_path / "tile.npy"), f"--to={tmp_path}", "--fold=1"])
    expected = load_run(tiny.out / "folds/demo", folds=[1]).predict(tiles[2])[1]
    assert np.array_equal(read(tmp_path / "tile")[2], expected.astype(np.float32))


def test_a_run_sees_the_same_in_two_places_of_a_picture(tiny, tmp_path):
    """A tile that is repeated two steps further on: windows treat it alike, whatever surrounds it."""
    tile = np.load(tiny.out / "data/cache/sample/test.npy")[2]
    np.save(tmp_path / "wide.npy", np.tile(tile[:, :100], (1, 5)))  # windows at 0, 50, 100 .. of 101 px, nearly
    main([*tiny.flags()[:3], str(tmp_path / "wide.npy"), f"--to={tmp_path}", "--side=100"])
    probs = read(tmp_path / "wide")[2]
    np.testing.assert_allclose(probs[:, 100:200], probs[:, 200:300], atol=2e-3)
    np.testing.assert_allclose(probs[:, 100:200], probs[:, 300:400], atol=2e-3)


@pytest.mark.parametrize("shape", [(300, 520), (256, 256), (20, 30), (257, 3), (520, 300, 3)])
def test_a_model_of_pixels_gives_its_own_arithmetic(tmp_path, shape):
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    grey = picture if picture.ndim == 2 else picture[..., 0]
    trained = stub(lambda w: ((w if w.ndim == 3 else w[..., 0]).astype(np.float32) - 100) / 25, threshold=0.7)
    segment_picture(from_array("p", picture), trained, (64, 48), tmp_path)
    mask, overlay, probs = read(tmp_path)
    expected = 1 / (1 + np.exp(-(grey - 100.0) / 25))
    np.testing.assert_allclose(probs, expected, atol=1e-3)
    assert np.array_equal(mask > 0, probs > np.float16(0.7))
    plain = mask == 0
    assert np.array_equal(overlay[plain], (picture if picture.ndim == 3 else picture[..., None].repeat(3, -1))[plain])


def test_salt_is_tinted_and_outlined(tmp_path):
    picture = np.full((40, 60), 100, np.uint8)
    salt = np.zeros((40, 60), bool)
    salt[10:20, 30:50] = True
    overlay = writing.Overlay((40, 60))
    overlay.write(picture, salt)
    overlay.save(tmp_path / "o.png")
    pixels = np.asarray(Image.open(tmp_path / "o.png"))
    assert pixels[5, 5].tolist() == [100] * 3 and pixels[10, 30].tolist() == pixels[19, 49].tolist() == [255, 120, 0]
    assert pixels[15, 40].tolist() == [154, 107, 65]  # 100 + 0.35 * (colour - 100)


def test_a_large_picture_has_a_smaller_overlay(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PREVIEW", 100)
    picture = np.zeros((301, 390), np.uint8)
    picture[:, 200:] = 80
    trained = stub(lambda w: np.where(w > 40, 5.0, -5.0).astype(np.float32))
    segment_picture(from_array("p", picture), trained, (50, 50), tmp_path)
    mask, overlay, _ = read(tmp_path)
    assert mask.shape == (301, 390) and overlay.shape == (76, 98, 3)  # a quarter, rounded up
    assert not overlay[:, :49].any() and (overlay[:, 51:] == [141, 94, 52]).all()
    assert (overlay[:, 50] == [255, 120, 0]).all(), "the outline; there is none at the picture's edge"


@pytest.mark.parametrize("line", ["--inline=3", "--crossline=4"])
def test_a_line_of_a_volume(tiny, tmp_path, line, capsys):
    segyio = pytest.importorskip("segyio")
    cube = np.random.default_rng(0).normal(size=(4, 5, 120)).astype(np.float32)
    segyio.tools.from_array3D(tmp_path / "cube.sgy", cube)
    main([*tiny.flags()[:3], str(tmp_path / "cube.sgy"), line, f"--to={tmp_path}"])
    name = f"cube_{line.strip('-').replace('=', '_')}"
    assert read(tmp_path / name)[0].shape == (120, 5 if "inline" in line else 4)
    assert f"scale    {name}: values -" in capsys.readouterr().out


# ---- faults


@pytest.mark.parametrize(
    "flags, says",
    [
        (["none.png"], "none.png: there is no such file"),
        (["a/x.png", "b/x.tif"], "the same name"),
        (["x.png", "--side=1"], "--side 1: a window needs 2 px or more"),
        (["x.png", "--run=other"], "folds/other: there is no such folder"),
        (["x.png", "--inline=3"], "--inline and --crossline are only for SEG-Y volumes"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(tiny, tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 9)).save("x.png")
    with pytest.raises(InputError, match=says):
        main([*tiny.flags()[:3], *flags])
    assert not (tiny.out / "submissions/demo/segment").exists()


def test_what_stops_half_way_leaves_nothing(tmp_path, image):
    def broken(windows):
        if not calls.append(1) and len(calls) > 3:
            raise RuntimeError("out of memory")
        return windows.astype(np.float32)

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        segment_picture(from_array("p", image), stub(broken), (50, 50), tmp_path / "p")
    assert not list((tmp_path / "p").iterdir())


def test_memory_does_not_grow_with_rows(tmp_path, monkeypatch):
    """Peak memory of NumPy from reading to the three files, with rows that are generated on demand."""
    monkeypatch.setattr(writing, "PREVIEW", 64)

    def peak(height: int) -> int:
        picture = Picture("p", (height, 6000), lambda top, bottom: np.zeros((bottom - top, 6000), np.uint8))
        tracemalloc.start()
        segment_picture(picture, stub(lambda w: w.astype(np.float32)), (256, 256), tmp_path / str(height))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(300)  # what is imported or kept from the first time on
    low, high = peak(1024), peak(4096)  # the same bands: a window every 128 rows
    mask = (4096 - 1024) * 6000  # bytes of the further rows; what other threads take on a busy machine is far less
    assert high - low < mask / 4, (low, high)
