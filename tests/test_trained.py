"""load_run: a run from its folder predicts the same as the stage `predict`."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from pipeline import load_run, submit
from pipeline.salt import artifacts, trained
from pipeline.salt.device import resolve_precision
from pipeline.salt.errors import InputError
from pipeline.salt.inference import mean_logits
from pipeline.salt.run import Weights
from pipeline.salt.tiles.folder import image_of


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return finished[0].out / "folds/demo"


@pytest.fixture(scope="module")
def run(folder):
    return load_run(folder)


@pytest.fixture(scope="module")
def tiles(finished) -> np.ndarray:
    return np.load(finished[0].out / "data/cache/sample/test.npy")


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """Only weights and their sidecars, in a folder of another name, like an attached data set."""
    for path in folder.glob("fold_*/*.safetensors*"):
        (tmp_path / "attached" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "attached" / path.parent.name)
    return tmp_path / "attached"


def change(path: Path, change) -> None:
    """Its sidecar, as another version of the code would have written it."""
    content = json.loads(path.read_text())
    change(content)
    del content["checksum"]
    content["key"] = artifacts.Origin(content["settings"], content["inputs"]).key()
    path.write_text(json.dumps(content | {"checksum": artifacts.hash_of(content)}))


# ---- the same numbers as the stage's


def test_it_predicts_what_the_stage_predicts_bit_for_bit(run, tiles, finished):
    masks, probs = run.predict(tiles)
    expected = np.load(finished[0].out / "submissions/demo/test.npy")
    assert probs.dtype == np.float16 and np.array_equal(probs, expected)
    assert masks.dtype == bool and np.array_equal(masks, expected > 0.5)
    assert probs.std() > 0.01, "a run that says the same of every pixel would pass whatever is predicted"


def test_a_copy_of_the_weights_alone_does_the_same(copy, tiles, finished):
    run = load_run(copy)  # the profile demo predicts with the last epoch of the last phase
    assert [*run.weights] == ["fold_0/48.last.safetensors", "fold_1/48.last.safetensors"] and run.name == "attached"
    assert run.profile.predict.flip and run.profile.train.last.size == 48 and run.tile == (101, 101)
    run.settings = replace(run.settings, batch=5)  # the tiny run's; a profile's own is what a copy knows
    assert np.array_equal(run.predict(tiles)[1], np.load(finished[0].out / "submissions/demo/test.npy"))


def test_one_fold_is_that_folds_model_alone(folder, tiles, run):
    both = run.logits(tiles)
    alone = [load_run(folder, folds=[k]).logits(tiles) for k in (0, 1)]
    assert not np.array_equal(*alone)
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)


def test_it_is_three_lines_as_in_the_docs(folder, tiles, tmp_path):
    Image.fromarray(tiles[0]).save(tmp_path / "tile.png")
    program = """
import sys, time
start = time.perf_counter()
import pipeline
assert not {"torch", "numpy", "pipeline.salt.trained"} & set(sys.modules), "import pipeline is to cost nothing"
from pipeline import load_run
run = load_run(sys.argv[1])
masks, probs = run.predict(sys.argv[2])
print(masks.shape, probs.shape)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(folder), str(tmp_path / "tile.png")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert ended.stdout == "(101, 101) (101, 101)\n", ended.stderr


# ---- images


def test_files_arrays_and_lists(run, tiles, tmp_path):
    _, all_probs = run.predict(tiles[:3])
    Image.fromarray(tiles[1]).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([tiles[2]] * 3, axis=-1)).save(tmp_path / "rgb.png")  # as Kaggle's tiles are
    for image, expected in [
        (tiles[0], all_probs[0]),
        (tmp_path / "grey.png", all_probs[1]),
        (str(tmp_path / "rgb.png"), all_probs[2]),
        ([tiles[0]], all_probs[:1]),
        ([tiles[0], tmp_path / "grey.png", str(tmp_path / "rgb.png")], all_probs),
        (np.repeat(tiles[:3, ..., None], 3, axis=-1), all_probs),
    ]:
        masks, probs = run.predict(image)
        assert masks.shape == probs.shape == expected.shape
        np.testing.assert_allclose(probs, expected, atol=2e-3)  # a batch of another size may round otherwise


def test_images_of_several_sizes_come_back_in_their_order_at_their_sizes(run, tiles):
    images = [tiles[0], tiles[1][:50], tiles[2], np.stack([tiles[3][:50]] * 3, axis=-1), tiles[4].repeat(2, 1)]
    masks, probs = run.predict(images)
    assert [p.shape for p in probs] == [m.shape for m in masks] == [i.shape[:2] for i in images]
    for image, prob in zip(images, probs, strict=True):
        np.testing.assert_allclose(prob, run.predict(image)[1], atol=2e-3)


def test_colours_become_grey_as_pillow_does_it(run):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    assert np.array_equal(run.with_channels(rgb), grey) and run.with_channels(grey) is grey
    assert run.predict(rgb)[0].shape == (20, 30)


def test_a_run_of_colour_tiles_gets_colours(copy, tiles):
    for path in copy.glob("fold_*/*.json"):
        change(path, lambda sidecar: sidecar.update(tile=[101, 101, 3]))
    run = load_run(copy)
    grey = np.zeros((4, 5), np.uint8)
    assert run.with_channels(grey).shape == (4, 5, 3) and run.with_channels(grey[..., None].repeat(3, -1)).ndim == 3


@pytest.mark.parametrize(
    "image, says",
    [
        (np.zeros((9, 9)), "uint8, 0 to 255, but this one is float64"),
        (np.zeros((2, 9, 9), np.uint16), "this one is uint16"),
        (np.zeros((2, 9, 9, 4), np.uint8), r"this one is \(9, 9, 4\)"),
        (np.zeros(9, np.uint8), r"this one is \(\)"),
        (np.array(3, np.uint8), "a single number"),
        (np.zeros((9, 0), np.uint8), r"this one is \(9, 0\)"),
        ([], "no image"),
        ("nowhere.png", "nowhere.png: there is no such file"),
        (__file__, r"test_trained.py is not one of \.png"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(run, image, says):
    with pytest.raises(InputError, match=says):
        run.predict(image)


@pytest.mark.parametrize("name", ["deep.npy", "deep.png", "deep.tif"])
def test_pictures_of_other_numbers_become_grey_as_in_training(run, tmp_path, name):
    deep = np.random.default_rng(0).integers(500, 60000, (40, 50)).astype(np.uint16)
    np.save(tmp_path / name, deep) if name.endswith("npy") else Image.fromarray(deep).save(tmp_path / name)
    grey = image_of(deep)
    for of_file, of_grey in zip(run.predict(tmp_path / name), run.predict(grey), strict=True):
        np.testing.assert_array_equal(of_file, of_grey)


def test_files_that_prepare_takes_are_taken(run, tiles, tmp_path):
    """LZW-compressed TIFF, in which 0 may be white, and arrays with one channel or a transparent one."""
    tile = tiles[0]
    Image.fromarray(tile).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "white.tif", ~tile, photometric="miniswhite")
    np.save(tmp_path / "one.npy", tile[..., None])
    np.save(tmp_path / "four.npy", np.stack([tile, tile, tile, np.full_like(tile, 9)], -1))
    expected = run.predict(tile)[1]
    for name in ("lzw.tif", "white.tif", "one.npy", "four.npy"):
        np.testing.assert_array_equal(run.predict(tmp_path / name)[1], expected, err_msg=name)


def test_a_run_trained_in_fp16_predicts_on_a_cpu_which_has_none(copy, tiles, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for path in copy.glob("fold_*/*.json"):
        change(path, lambda sidecar: sidecar["settings"]["train"].update(precision="fp16"))
    run = load_run(copy)
    assert run.settings.precision == resolve_precision("auto", torch.device("cpu"))
    assert np.isfinite(run.predict(tiles[:1])[1]).all()


def test_a_model_that_gives_no_numbers_is_said_and_not_taken_for_no_salt(copy, tiles):
    run = load_run(copy)
    next(run.models[1].parameters()).data.fill_(torch.inf)
    with pytest.raises(InputError, match="a model gives NaN or inf"):
        run.predict(tiles[:2])


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_batches_become_smaller_where_memory_runs_out(copy, tiles, monkeypatch, capsys, error):
    run, asked = load_run(copy), []
    expected = run.predict(tiles[:4])[1]

    def small_machine(models, images, settings, title):
        asked.append(settings.batch)
        if settings.batch > 1:
            raise error
        return mean_logits(models, images, settings, title)

    monkeypatch.setattr(trained, "mean_logits", small_machine)
    np.testing.assert_allclose(run.predict(tiles[:4])[1], expected, atol=1e-3)
    assert asked == [64, 32, 16, 8, 4, 2, 1] and "batches of 1 images from here on" in capsys.readouterr().out
    monkeypatch.setattr(trained, "mean_logits", mock.Mock(side_effect=error))
    with pytest.raises(InputError, match="too little memory to predict a single image"):
        run.predict(tiles[:4])
    monkeypatch.setattr(trained, "mean_logits", mock.Mock(side_effect=RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        run.predict(tiles[:4])


# ---- threshold


def test_the_threshold_is_the_submissions_or_the_one_that_is_given(tiny, tiles):
    folder = tiny.out / "folds/demo"
    probs = load_run(folder).predict(tiles)[1]
    threshold = float(np.median(probs))
    tiny(submit, extra=(f"--set=submit.threshold={threshold}",))
    run = load_run(folder)
    assert run.threshold == threshold and np.array_equal(run.predict(tiles)[0], probs > threshold)
    assert not run.predict(tiles, threshold=1.0)[0].any()
    # one that was made from other predictions says nothing of these
    change(tiny.out / "folds/demo/oof.npy.json", lambda sidecar: sidecar.update(sha256="0" * 16))
    assert load_run(folder).threshold == 0.5


# ---- which weights


def test_without_predictions_the_last_phase_counts_and_the_best_epoch_where_the_last_has_gone(copy):
    for path in copy.glob("fold_*/48.last.safetensors"):
        path.unlink()
    assert [*load_run(copy).weights] == ["fold_0/48.safetensors", "fold_1/48.safetensors"]
    for path in copy.glob("fold_*/48.*"):
        path.unlink()
    assert [*load_run(copy).weights] == ["fold_0/32.safetensors", "fold_1/32.safetensors"]


def test_what_was_predicted_with_counts_more_than_the_profile(tiny):
    folder = tiny.out / "folds/demo"
    change(
        folder / "oof.npy.json", lambda sidecar: sidecar["settings"]["predict"].update(checkpoint="best", flip=False)
    )
    run = load_run(folder)
    assert [*run.weights] == ["fold_0/48.safetensors", "fold_1/48.safetensors"] and not run.settings.flip


def test_names_of_weights_files_there_and_back():
    for weights in (Weights(0, "96", "last"), Weights(12, "pseudo", "best"), Weights(3, "a_b", "average")):
        assert Weights.parse(str(weights)) == weights
    for name in ("fold_0/96.resume.pt", "fold_x/96.safetensors", "96.safetensors", "fold_0/.tmp-a-1-96.safetensors"):
        assert Weights.parse(name) is None


# ---- faults


def test_a_damaged_file_is_refused(copy):
    path = copy / "fold_1/48.last.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of one weight: it would load
    path.write_bytes(content)
    with pytest.raises(InputError, match="fold_1/48.last.safetensors is damaged.*train fold 1 again"):
        load_run(copy)
    assert [*load_run(copy, folds=[0]).models] == [0]


def test_folders_without_weights(folder, tmp_path):
    with pytest.raises(InputError, match="nothing: there is no such folder; name folds/<run>"):
        load_run(tmp_path / "nothing")
    with pytest.raises(InputError, match="has no trained weights .* train the run first"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="has no trained weights .*folds/demo has some"):
        load_run(folder.parent)


def test_folds_that_are_not_there(folder, copy):
    for folds, says in [([7], "no fold 7; choose from 0, 1"), ([], "no fold in folds=")]:
        with pytest.raises(InputError, match=says):
            load_run(folder, folds=folds)
    (copy / "fold_1/48.last.safetensors").unlink()
    with pytest.raises(InputError, match="fold 1 has no 48.last.safetensors; train it to the end"):
        load_run(copy)


def test_a_fold_whose_sidecar_was_left_behind(copy):
    (copy / "fold_1/48.last.safetensors.json").unlink()
    with pytest.raises(InputError, match="fold 1 has no 48.last.safetensors.json; .*copy that file too"):
        load_run(copy)


def test_weights_without_any_sidecar(copy):
    for path in copy.glob("fold_*/*.json"):
        path.unlink()
    with pytest.raises(InputError, match="no weights have their .json beside them"):
        load_run(copy)


def test_mixed_models_are_refused(copy):
    for path in copy.glob("fold_1/48.last*.json"):
        change(path, lambda sidecar: sidecar["settings"]["train"]["phase"].update(size=64))
    with pytest.raises(InputError, match="mixes models: train.48.size is 48 in fold 0 and 64 in fold 1"):
        load_run(copy)
    assert load_run(copy, folds=[1]).settings.sizes == (64,)


def test_phases_that_have_nothing_to_do_with_each_other(copy):
    for path in copy.glob("fold_*/48*.json"):
        change(path, lambda sidecar: sidecar.update(inputs={}))
    with pytest.raises(InputError, match="phases 32, 48, none of which was trained from the other"):
        load_run(copy)


@pytest.mark.parametrize("section", ["model", "augment", "train"])
def test_settings_of_a_newer_version_are_not_ignored(copy, section):
    for path in copy.glob("fold_*/*.json"):
        change(path, lambda sidecar: sidecar["settings"][section].update(per_tile="std"))
    with pytest.raises(InputError, match="newer version of the code, with the setting per_tile='std'; update"):
        load_run(copy)


def test_settings_that_an_older_version_did_not_have_are_the_defaults(copy, run):
    for path in copy.glob("fold_*/*.json"):
        change(path, lambda sidecar: sidecar["settings"]["augment"].pop("rotate"))
    assert load_run(copy).profile.augment == run.profile.augment
