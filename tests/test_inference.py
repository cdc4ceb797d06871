"""Predictions: flips undone before averaging, models averaged as logits, NaN without a model, bounded memory."""

import errno
from itertools import combinations
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.salt import artifacts, disk, inference, logit_sums
from pipeline.salt.config import PROFILES
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.inference import InferenceSettings, flip_tta, predict_to_file, tile_logits
from pipeline.salt.logit_sums import disagreement, probabilities
from pipeline.salt.overrides import changed
from pipeline.salt.tiles.geometry import to_model_input, to_square, to_tile

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


class Model(nn.Module):
    """Any function of (B, 3, S, S) as a model that counts its calls."""

    def __init__(self, function, mean=MEAN, std=STD):
        super().__init__()
        self.function, self.encoder, self.shapes = function, SimpleNamespace(mean=mean, std=std), []

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not self.training
        self.shapes.append(tuple(x.shape))
        return self.function(x)


def pointwise(a: float = 2.0, b: float = 0.1):
    """Equivariant under every flip."""
    return lambda x: a * x[:, :1] - x[:, 1:2] * x[:, 2:] + b


def leaning(x: Tensor) -> Tensor:
    """Depends on a pixel and its left neighbour: not equivariant."""
    return 3 * x[:, :1] - 2 * x[:, 1:2].roll(1, dims=-1) + torch.linspace(-1, 1, x.shape[-1])


def tiles(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 101, 101), dtype=np.uint8)


def predict(
    path: Path, images: np.ndarray, jobs, *, size: int = 101, batch: int = 4, flip: bool = False, devices: int = 1
) -> np.ndarray:
    inference_settings = InferenceSettings(
        sizes=(size,), batch=batch, flip=flip, precision="fp32", devices=(CPU,) * devices
    )
    predict_to_file(path, images, jobs, "test", inference_settings)
    return np.load(path)


def by_hand(images: np.ndarray, function) -> np.ndarray:
    """Logits (N, 101, 101) float64 of a pointwise function at 101 px, computed with NumPy."""
    grey = images[:, None].astype(float) / 255
    x = (grey - np.array(MEAN).reshape(1, 3, 1, 1)) / np.array(STD).reshape(1, 3, 1, 1)
    return function(x)[:, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_flips_do_not_change_an_equivariant_model(n, side, seed):
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(flip_tta(pointwise(), images), pointwise()(images))
    symmetric = nn.Conv2d(3, 1, 3, padding=1)
    with torch.no_grad():
        symmetric.weight.copy_((symmetric.weight + symmetric.weight.flip(-1)) / 2)
        torch.testing.assert_close(flip_tta(symmetric, images), symmetric(images), atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 12), st.integers(0, 99))
def test_flips_give_the_mean_of_both_views_otherwise(n, side, seed):
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    flipped_back = torch.flip(leaning(torch.flip(images, (3,))), (3,))
    torch.testing.assert_close(flip_tta(leaning, images), (leaning(images) + flipped_back) / 2)
    # so that the result is equivariant, whatever the model
    torch.testing.assert_close(flip_tta(leaning, images.flip(-1)), flip_tta(leaning, images).flip(-1))


def test_both_views_go_in_one_batch_and_never_upside_down():
    calls = []

    def spy(x: Tensor) -> Tensor:
        calls.append(x)
        return x[:, :1]

    images = torch.randn(3, 3, 8, 8)
    flip_tta(spy, images)
    assert len(calls) == 1 and torch.equal(calls[0], torch.cat([images, images.flip(-1)]))


@pytest.mark.parametrize("flip", [False, True])
def test_one_model_at_its_own_size_equals_numpys_arithmetic(tmp_path, flip):
    images = tiles(7)
    probs = predict(tmp_path / "p.npy", images, [(Model(pointwise()), np.arange(7))], flip=flip)
    assert probs.dtype == np.float16 and probs.shape == (7, 101, 101)
    np.testing.assert_allclose(
        probs, 1 / (1 + np.exp(-by_hand(images, pointwise()))), atol=6e-4
    )  # float16 near 1: 5e-4


@pytest.mark.parametrize("size", [32, 128])
def test_at_another_size_tiles_are_resized_and_logits_resized_back(tmp_path, size):
    images = tiles(3)
    probs = predict(tmp_path / "p.npy", images, [(Model(leaning), np.arange(3))], size=size, flip=True)
    square = to_model_input(to_square(torch.from_numpy(images)[:, None], size), torch.tensor(MEAN), torch.tensor(STD))
    expected = to_tile((leaning(square) + leaning(square.flip(-1)).flip(-1)) / 2, images.shape[1:])[:, 0].sigmoid()
    np.testing.assert_allclose(probs, expected.numpy(), atol=6e-4)


def test_models_are_averaged_as_logits_each_over_its_own_tiles(tmp_path):
    images = tiles(6)
    functions = [pointwise(2.0, 0.5), pointwise(-4.0, 0.1), pointwise(1.0, -3.0)]
    rows = [np.array([0, 1, 2, 3]), np.array([3, 1]), np.array([1, 4])]
    probs = predict(tmp_path / "p.npy", images, [(Model(f), r) for f, r in zip(functions, rows, strict=True)])
    for tile, of in {0: [0], 1: [0, 1, 2], 2: [0], 3: [0, 1], 4: [2]}.items():
        logit = np.mean([by_hand(images[[tile]], functions[k])[0] for k in of], axis=0)
        np.testing.assert_allclose(probs[tile], 1 / (1 + np.exp(-logit)), atol=6e-4)
    assert np.isnan(probs[5]).all(), "a tile that nobody predicted"


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99))
def test_disagreement_is_the_mean_over_all_pairs_of_models(models, seed):
    masks = np.random.default_rng(seed).random((models, 3, 4, 5)) < 0.4  # (models, tiles, H, W)
    expected = np.mean([(a != b).mean(axis=(1, 2)) for a, b in combinations(masks, 2)], axis=0)
    votes = masks.sum(axis=0).astype(np.uint16)
    np.testing.assert_allclose(disagreement(votes, np.full(3, models, np.float32)), expected, rtol=1e-6)


def test_disagreement_of_the_models_that_predicted_a_tile(tmp_path, monkeypatch):
    images = tiles(4)
    functions = [lambda x: x[:, :1] * 0 + 5, lambda x: x[:, :1] * 0 - 1, lambda x: x[:, :1] * 0 - 9]  # salt, rock, rock
    rows = [np.array([0, 1]), np.array([0, 1, 2]), np.array([0])]
    jobs = [(Model(f), r) for f, r in zip(functions, rows, strict=True)]
    inference_settings = InferenceSettings(sizes=(32,), batch=3, flip=True, precision="fp32", devices=(CPU,))
    found = predict_to_file(tmp_path / "p.npy", images, jobs, "test", inference_settings, count_votes=True)
    # of three pairs two differ; of one pair one; one model has nobody to differ from, and no model neither
    np.testing.assert_allclose(found, [2 / 3, 1, np.nan, np.nan])

    scratch, on_disk = [], disk.zeros
    monkeypatch.setattr(disk, "zeros", lambda *args: scratch.append(args[0]) or on_disk(*args))
    uncounted = predict_to_file(tmp_path / "q.npy", images, jobs, "test", inference_settings)
    assert scratch == [(4, 101, 101), (0,)] and np.isnan(uncounted).all(), "no file of GBs"
    assert (tmp_path / "p.npy").read_bytes() == (tmp_path / "q.npy").read_bytes()


def test_each_model_has_its_own_normalisation(tmp_path):
    images = tiles(2)
    half = Model(pointwise(), mean=(0.5,) * 3, std=(0.5,) * 3)
    probs = predict(tmp_path / "p.npy", images, [(half, np.arange(2))])
    x = images[:, None].repeat(3, 1) / 127.5 - 1
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-pointwise()(x)[:, 0])), atol=6e-4)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 20))
def test_the_size_of_a_batch_does_not_matter(tmp_path_factory, batch):
    folder, images = tmp_path_factory.mktemp("batch"), tiles(7)
    order = np.array([6, 0, 3, 1, 2, 5, 4])
    model = Model(leaning)
    probs = predict(folder / "a.npy", images, [(model, order)], batch=batch, flip=True)
    assert np.array_equal(
        probs, predict(folder / "b.npy", images, [(Model(leaning), np.arange(7))], batch=7, flip=True)
    )
    assert sum(shape[0] for shape in model.shapes) == 14 and max(shape[0] for shape in model.shapes) <= 2 * batch


def test_models_are_asked_for_one_at_a_time(tmp_path):
    alive, most = [], []

    def jobs():
        for _ in range(3):
            model = Model(pointwise())
            alive.append(model)
            most.append(sum(bool(n.shapes) for n in alive))
            yield model, np.arange(4)

    predict(tmp_path / "p.npy", tiles(4), jobs())
    assert most == [0, 1, 2], "each is used up before the next is loaded"


def test_devices_share_the_batches_and_work_at_once(tmp_path):
    images, rows = tiles(11), np.array([10, 3, 5, 0, 7, 2, 1, 9, 4])
    both = Barrier(2, timeout=60)  # breaks, and the test fails, if one device waits for the other

    def patient(x: Tensor) -> Tensor:
        both.wait()
        return leaning(x)

    jobs = [(Model(patient), rows[:8]), (Model(patient), rows[5:])]  # batches of 2: 4 and 2 of them
    shared = predict(tmp_path / "shared.npy", images, jobs, batch=2, flip=True, devices=2)
    alone = predict(
        tmp_path / "alone.npy", images, [(Model(leaning), rows[:8]), (Model(leaning), rows[5:])], batch=2, flip=True
    )
    assert np.array_equal(shared, alone, equal_nan=True) and np.isnan(shared[[6, 8]]).all()
    assert [len(model.shapes) for model, _ in jobs] == [2, 1], "the other half went to a copy"


def jobs_of_three_models() -> list:
    rows = [np.arange(9), np.array([10, 3, 5, 0, 7]), np.arange(1, 11)]
    return [(Model(f), r) for f, r in zip([leaning, pointwise(), pointwise(-4.0, 0.1)], rows, strict=True)]


def predict_stopped(folder: Path, jobs, after: int, devices: int = 1, origin=artifacts.Origin({"a": 1}, {})):
    """Predict tiles(11), stopped after so many batches: its bytes and disagreement, or None; and what is done."""
    said = []

    def stop(done: str) -> None:
        said.append(done)
        if len(said) == after:
            raise Stopped(done)

    try:
        found = predict_to_file(
            folder / "p.npy",
            tiles(11),
            jobs,
            "test",
            InferenceSettings(sizes=(32,), batch=2, flip=True, precision="fp32", devices=(CPU,) * devices),
            count_votes=True,
            resume=folder / "p.resume",
            origin=origin,
            stop=stop,
        )
    except Stopped:
        return None, said
    return ((folder / "p.npy").read_bytes(), found.tobytes()), said


@pytest.mark.parametrize(("after", "devices"), [(1, 1), (4, 1), (5, 1), (3, 2)])
def test_a_stopped_prediction_goes_on_to_the_same_bytes_and_does_nothing_twice(tmp_path, after, devices):
    (tmp_path / "straight").mkdir()
    straight, batches = predict_stopped(tmp_path / "straight", jobs_of_three_models(), after=0)
    assert len(batches) == 5 + 3 + 5 and batches[5:8] == [f"test, model 2, {n} tiles" for n in (2, 4, 5)]
    said, sessions, jobs = [], 0, jobs_of_three_models()
    while (result := predict_stopped(tmp_path, jobs, after, devices))[0] is None:
        said, sessions = said + result[1], sessions + 1
        assert not list(tmp_path.glob(".tmp*")) and sessions < 20
    assert result[0] == straight and sessions == 13 // after
    assert devices > 1 or said + result[1] == batches
    # Two devices: what the other one was at when the time was over is done again.
    assert devices > 1 or [sum(shape[0] for shape in model.shapes) for model, _ in jobs] == [18, 10, 20]


@pytest.mark.parametrize("spoil", ["bytes", "sidecar", "origin"])
def test_a_state_that_is_damaged_or_of_another_prediction_is_not_used(tmp_path, capsys, spoil):
    state, origin = tmp_path / "p.resume", artifacts.Origin({"a": 1 + (spoil == "origin")}, {})
    predict_stopped(tmp_path, jobs_of_three_models(), after=7)
    if spoil == "bytes":
        state.write_bytes(state.read_bytes()[:-1] + b"\1")
    if spoil == "sidecar":
        artifacts.sidecar_of(state).write_text("{")
    _, said = predict_stopped(tmp_path, jobs_of_three_models(), after=0, origin=origin)
    assert len(said) == 13
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("restart  ")]
    assert ("was made with other settings" in line) == (spoil == "origin")


def test_more_devices_than_batches(tmp_path):
    probs = predict(tmp_path / "p.npy", tiles(3), [(Model(leaning), np.arange(3))], batch=2, devices=4)
    assert np.array_equal(probs, predict(tmp_path / "q.npy", tiles(3), [(Model(leaning), np.arange(3))], batch=2))


def test_a_device_that_fails_is_not_passed_over(tmp_path):
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        predict(tmp_path / "p.npy", tiles(9), [(Model(broken), np.arange(9))], batch=1, devices=2)


def test_a_model_can_take_other_weights_after_it_has_predicted(tmp_path):
    """After its weights were moved to the device, or laid out channels last, for prediction."""
    model = Model(leaning)
    model.register_buffer("moved", torch.ones(1, 2, 3, 3))
    before = model.moved.data_ptr()
    predict(tmp_path / "p.npy", tiles(2), [(model, np.arange(2))])
    assert model.moved.data_ptr() != before
    model.load_state_dict({"moved": torch.zeros(1, 2, 3, 3)})
    assert not model.moved.any()


def test_a_logit_of_zero_is_a_half_and_the_order_of_pixels_is_kept():
    logits = np.array([-100, -1e-3, 0, 1e-3, 20, 100], np.float32)
    probs = probabilities(logits)
    assert probs.dtype == np.float16 and probs[2] == 0.5 and probs[0] == 0 and probs[-1] == 1
    assert (np.diff(probs) >= 0).all()


def test_what_is_yielded_is_rows_and_float32_logits():
    inference_settings = InferenceSettings(sizes=(32,), batch=2, flip=False, precision="bf16", devices=(CPU,))
    chunks = list(tile_logits(Model(pointwise()), tiles(5), np.array([4, 2, 0]), inference_settings))
    assert [c[0].tolist() for c in chunks] == [[4, 2], [0]]
    assert all(c[1].dtype == np.float32 and c[1].shape[1:] == (101, 101) for c in chunks)


def test_two_sizes_are_the_mean_of_their_logits_at_the_tiles_size():
    def logits(*sizes: int) -> np.ndarray:
        with_sizes = InferenceSettings(sizes=sizes, batch=4, flip=True, precision="fp32", devices=(CPU,))
        return np.concatenate([batch for _, batch in tile_logits(Model(leaning), tiles(5), np.arange(5), with_sizes)])

    np.testing.assert_allclose(logits(64, 80), (logits(64) + logits(80)) / 2, atol=1e-6)
    assert np.abs(logits(64) - logits(80)).max() > 0.1


def test_the_second_size_is_a_multiple_of_that_of_the_phase():
    at = {scale: changed(PROFILES["demo"], f"predict.scale={scale}") for scale in (1, 1.25, 1.26)}
    sizes = {scale: inference.inference_settings(profile, profile.train.last).sizes for scale, profile in at.items()}
    assert sizes == {1: (96,), 1.25: (96, 120), 1.26: (96, 121)}


def test_no_tiles_at_all(tmp_path):
    assert predict(tmp_path / "p.npy", tiles(0), [(Model(pointwise()), np.arange(0))]).shape == (0, 101, 101)


def test_nothing_but_the_result_is_left(tmp_path):
    predict(tmp_path / "p.npy", tiles(3), [(Model(pointwise()), np.arange(3))])
    assert [p.name for p in tmp_path.iterdir()] == ["p.npy"]


def test_a_full_disk_is_said_before_the_first_model_is_asked(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = Model(pointwise())
    monkeypatch.setattr(disk, "reserve", full)
    with (
        pytest.raises(InputError, match="no space left to write .*oof.npy"),
        artifacts.publish(tmp_path / "oof.npy", artifacts.Origin({}, {})) as tmp,
    ):
        predict(tmp, tiles(3), [(model, np.arange(3))])
    assert list(tmp_path.iterdir()) == [] and model.shapes == []


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux separates a process's own memory from mapped files"
)
def test_memory_does_not_grow_with_the_number_of_tiles(tmp_path, monkeypatch):
    seen = []

    def watched(function):
        def watch(x):
            status = Path("/proc/self/status").read_text()
            seen.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)  # MiB that lie in no file
            return function(x)

        return watch

    monkeypatch.setattr(logit_sums, "probabilities", watched(probabilities))
    images = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (3500, 101, 101))
    predict(tmp_path / "p.npy", images, [(Model(watched(pointwise())), np.arange(3500))], size=32, batch=128)
    # Held in memory, the logits of 3,500 tiles would be 136 MiB, their float16 probabilities 68 more.
    assert len(seen) > 30 and max(seen) - seen[0] < 60
