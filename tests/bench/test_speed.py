"""Every speed bench runs once, at a small size, and its rows name what was compared. No test depends on timing."""

import contextlib
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

import bench.__main__ as main
from bench.harness import memory
from bench.speed import (
    folds_at_once,
    inference,
    loader,
    scaling,
    smp,
    switches,
    train_step,
    training_memory,
    viewer,
    whole_run,
)
from pipeline.salt.models.unet_resnext50 import UnetResNext50

CPU = torch.device("cpu")
TTA = inference.Size(px=64, tiles=6, batch=4, repeats=1, memory_tiles=12, encoder="test_resnet", workers=0)
STEPS = train_step.Size(shapes=((32, 4),), steps=2, repeats=1, encoder="test_resnet")


@pytest.fixture
def one_process(monkeypatch):
    """Runs both sides in this process: separate ones take seconds to import torch."""
    monkeypatch.setattr(switches, "in_own_process", lambda build, *args: contextlib.nullcontext(build(*args)))


@pytest.fixture
def unwatched(monkeypatch):
    """Runs Memory's processes here, with a constant peak."""
    monkeypatch.setattr(memory, "peak", lambda work, *args: work(*args) or 100.0)


def are_consistent(results: list) -> bool:
    return all(r["ours"] > 0 and r["ratio"] == pytest.approx(r["theirs"] / r["ours"]) for r in results)


@pytest.mark.parametrize("name", main.BENCHES)
def test_every_bench_has_a_run_function(name):
    assert callable(import_module(f"bench.speed.{name}").run)


def test_every_file_of_speed_is_a_bench():
    files = {path.stem for path in (main.RESULTS.parent / "speed").glob("*.py")} - {"__init__"}
    assert files == set(main.BENCHES)


def test_loader(few, once):
    [result] = loader.run(CPU, batch=8, repeats=1, num_workers=0)
    assert "epoch of batches, 16 real tiles" in result["name"] and are_consistent([result])


def test_train_step(once):
    results = list(train_step.run(CPU, STEPS))
    assert are_consistent(results)
    assert ["theirs: fp32, channels first, fastai's own" in r["name"] for r in results] == [True]


def test_switches(once, one_process):
    results = list(switches.run(CPU, STEPS))
    assert are_consistent(results) and all(r["name"].startswith("switch: ") for r in results)
    assert len(results) in (4, 5)  # without bf16, fp32 is no switch
    assert all(r["steps_per_second"] == pytest.approx(STEPS.steps / r["theirs"]) for r in results)


def test_a_switch_that_fails_is_printed_and_left_out(once, one_process, monkeypatch, capsys):
    monkeypatch.setitem(switches.ONLY, "cpu", ("CUDA graph", "optimizer not fused"))
    [result] = switches.run(CPU, STEPS)
    assert "optimizer not fused" in result["name"]
    assert "CUDA graph: left out, " in capsys.readouterr().out


def test_folds_at_once_need_a_gpu():
    assert list(folds_at_once.run(CPU, STEPS)) == []


def test_smp(once, capsys):
    results = list(smp.run(CPU, STEPS))
    assert "segmentation_models_pytorch" in capsys.readouterr().out
    if results:
        assert are_consistent(results) and len(results) == 4


def test_flops_are_counted_as_in_the_books():
    # 3*3*3*4 multiply-adds a pixel forward, as many again for the weights; the input wants no gradient
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    assert train_step.gflop(layer, 10) == pytest.approx(2 * 2 * 108 * 100 / 1e9)


def test_inference(few, once, unwatched):
    results = list(inference.run(CPU, TTA))
    assert "flip TTA of 6 real tiles" in results[0]["name"] and are_consistent(results)
    assert results[1]["unit"] == "MiB"


def test_whole_run(few, once):
    results = list(
        whole_run.run(CPU, whole_run.Size(train=4, valid=2, test=TTA, batch=4, encoder="test_resnet", workers=0))
    )
    assert are_consistent(results)
    assert [r["name"][:8] for r in results] == ["epoch of", "epoch of", "flip TTA", "profile "]
    assert results[-1]["unit"] == "h" and "EXTRAPOLATED" in results[-1]["name"]


def test_hours_of_a_whole_run_by_hand():
    # 36 + 4 tiles are a hundredth of 4,000. Ten folds, 60 epochs of 100 x 3 s and 20 of 100 x 6 s: 300,000 s; ten times
    # 18,000 test tiles, and for ours 4,000 once, at 1 s for 10 tiles: 18,000 s and 18,400 s.
    size = whole_run.Size(train=36, valid=4, test=replace(TTA, tiles=10))
    epochs, tta = [{"ours": 3.0, "theirs": 3.0}, {"ours": 6.0, "theirs": 6.0}], {"ours": 1.0, "theirs": 1.0}
    assert whole_run.hours(epochs, tta, size, "theirs") == pytest.approx((300_000 + 18_000) / 3600)
    assert whole_run.hours(epochs, tta, size, "ours") == pytest.approx((300_000 + 18_400) / 3600)


def test_scaling(few, once, unwatched, monkeypatch):
    monkeypatch.setattr(scaling, "start_up", lambda: [])  # has a test of its own
    results = list(
        scaling.run(CPU, scaling.Size(px=32, batch=4, tiles=8, test=4, encoder="test_resnet", repeats=1, picture=300))
    )
    assert are_consistent(results) and [r["name"].split(";")[0] for r in results] == [
        "epoch of 16 tiles",
        "epoch of 32 tiles",
        "memory of predicting 8 tiles, model aside",
        "memory of predicting 16 tiles, model aside",
        "memory of segmenting 300 x 300 px, model aside",
    ]


def test_start_up_runs_commands_that_exist(monkeypatch):
    commands = []

    def run(command: list[str], **kwargs):
        commands.append(command[2:])
        assert kwargs["check"], "a command that fails must not be timed"
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(scaling.subprocess, "run", run)
    results = scaling.start_up()
    assert [r["theirs"] for r in results] == [scaling.START_LIMIT] * 2
    assert commands == 3 * [["-m", "pipeline", "--data", "sample"]] + 3 * [["-c", "import pipeline.salt.training.fold"]]
    for module in ("pipeline.__main__", "pipeline.salt.training.fold"):
        assert import_module(module)


def test_counted_memory_is_what_forward_keeps_and_four_times_the_weights():
    relu = torch.nn.ReLU()
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    # The image for the weights' gradient, and the map after the ReLU for its own; weights, gradients, two moments.
    expected = 2 * 3 * 16 * 16 + 2 * 8 * 16 * 16 + 4 * (3 * 8 * 9 + 8)
    assert training_memory.counted(torch.nn.Sequential(conv, relu), (2, 3, 16, 16)) == 4 * expected


def test_training_memory_grows_with_the_batch_but_for_the_weights():
    results = training_memory.run(CPU, "test_resnet", (2, 3, 64, 64))
    assert len(results) == 2 and are_consistent(results) and {r["unit"] for r in results} == {"MiB"}
    one, two = (training_memory.counted(UnetResNext50("test_resnet", width=8).train(), (n, 3, 64, 64)) for n in (1, 2))
    assert one < two < 2 * one


def test_viewer(few, capsys):
    results = list(viewer.run(CPU, viewer.Size(tiles=90, frames=4, repeats=1)))
    if "left out" in capsys.readouterr().out:
        pytest.skip("no playwright, or no Chromium")
    assert are_consistent(results) and [r["name"].split(": ")[1].split(";")[0] for r in results] == [
        "until the first screen is drawn",
        "95th percentile of a frame while scrolling",
    ]
