"""The benches of tiles, steps, predictions and whole runs: both sides do the same work. No test looks at the clock."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bench.__main__ as main
from bench import pack_tiles
from bench.baselines import article, bare_loop
from bench.baselines.bare_loop import Way
from bench.experiments import networks, precision, truth
from bench.harness import memory
from bench.harness.tiles import tiles
from bench.speed import folds_at_once, inference, loader, scaling, smp, switches, train_step, training_memory, whole_run
from pipeline.salt.artifacts import Files
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles import competition
from pipeline.salt.tiles.loaders import IMAGENET, TileLoader

CPU = torch.device("cpu")
TTA = inference.Size(px=64, tiles=6, batch=4, repeats=1, watched=12, encoder="test_resnet", workers=0)
STEPS = train_step.Size(shapes=((32, 4),), steps=2, repeats=1, encoder="test_resnet")
RUN_ALL = Path(__file__).parents[2] / "bench" / "gpu_run.sh"


@pytest.fixture
def few(made_once, monkeypatch):
    """The benches' tiles: 24 generated ones."""
    monkeypatch.setenv("SALT_TILES", str(made_once))
    tiles.cache_clear()
    yield tiles()
    tiles.cache_clear()


@pytest.fixture
def once(monkeypatch):
    """Nothing is repeated for the clock's sake."""
    monkeypatch.setattr("bench.harness.compare.WARM_UP", 0)


@pytest.fixture
def here(monkeypatch):
    """Both sides in this process, not each in one of its own, whose imports take seconds."""
    monkeypatch.setattr(switches, "elsewhere", lambda build, *args: contextlib.nullcontext(build(*args)))


def sound(results: list) -> bool:
    return all(r["ours"] > 0 and r["ratio"] == pytest.approx(r["theirs"] / r["ours"]) for r in results)


def small(seed: int = 0) -> UnetResNext50:
    torch.manual_seed(seed)
    return UnetResNext50("test_resnet", width=8)


def test_tiles_are_the_pngs_and_the_same_decoded(few):
    assert len(few.ids) == len(few.images) == len(few.masks) == 24 and few.ids == sorted(few.ids)
    assert all(path.exists() for path in few.pngs(24)) and len(list((few.folder / "masks").iterdir())) == 24
    assert few.pngs(30)[24:] == few.pngs(6) and np.array_equal(few.arrays(30)[24:], few.images[:6])


def test_tiles_are_generated_where_there_are_no_others(monkeypatch):
    monkeypatch.delenv("SALT_TILES", raising=False)
    monkeypatch.setattr("bench.harness.tiles.GENERATED", 4)
    tiles.cache_clear()
    assert tiles().kind == "generated" and len(tiles().ids) == 4
    tiles.cache_clear()


def test_both_loaders_show_a_network_the_same_tile(few):
    theirs = article.get_data(few.folder, set(few.ids[:8]), 128, 8, CPU, num_workers=0)
    ours = TileLoader(few.images[:8], few.masks[:8], few.ids[:8], 128, 8)
    (x, masks), (y, _) = theirs.valid.one_batch(), ours.one_batch()
    order = [few.ids.index(path.stem) for path in theirs.valid.items]
    # Kaggle's grey in [0, 255], two of which are rounding; the least deviation of a channel is 0.224
    assert (y[order] - torch.Tensor(x)).abs().max() < 2 / 255 / 0.224 + 1e-4
    assert set(masks.unique().tolist()) == {0, 1} and len(theirs.train) == len(
        TileLoader(few.images[8:], few.masks[8:], few.ids[8:], 128, 8, how=loader.Augment())
    )


def test_loader(few, once):
    [result] = loader.run(CPU, batch=8, repeats=1, num_workers=0)
    assert "epoch of batches, 16 real tiles" in result["name"] and sound([result])


def test_all_ways_lead_to_the_same_weights():
    x, masks = train_step.batch(32, 4, CPU)
    models = [small() for _ in range(5)]
    train_step.product_steps(models[0], x, masks, 2, precision="fp32")()
    train_step.article_steps(models[1], x, masks, 2)()
    ways = [Way("fp32"), Way("fp32", channels_last=False), Way("fp32", fused=False)]
    for model, way in zip(models[2:], ways, strict=True):
        bare_loop.steps(model, way, x, masks, 2)()
    before, ours = small().state_dict(), models[0].state_dict()
    moved = max((ours[k] - before[k]).abs().max() for k in ours if "num_batches" not in k and "running" not in k)
    assert moved == pytest.approx(2e-3, rel=0.1), "two steps of Adam at 1e-3"
    for model in models[1:]:
        # Adam divides by the gradient's size: where that is nearly nothing, so is what the last digits decide
        distance = sum((ours[k] - v).abs().sum() for k, v in model.state_dict().items() if "num_batches" not in k)
        walked = sum((ours[k] - before[k]).abs().sum() for k in ours if "num_batches" not in k)
        assert distance < 0.02 * walked


def test_train_step(once):
    results = list(train_step.run(CPU, STEPS))
    assert sound(results)
    assert ["theirs: fp32, channels first, fastai's own" in r["name"] for r in results] == [True]


def test_switches(once, here):
    results = list(switches.run(CPU, STEPS))
    assert sound(results) and all(r["name"].startswith("switch: ") for r in results)
    assert len(results) in (4, 5)  # without bf16, fp32 is no switch
    assert all(r["per_second"] == pytest.approx(STEPS.steps / r["theirs"]) for r in results)
    assert not [*folds_at_once.run(CPU)]


def test_smp(once, capsys):
    results = list(smp.run(CPU, STEPS))
    assert "segmentation_models_pytorch" in capsys.readouterr().out
    if results:
        assert sound(results) and len(results) == 4
        assert all(r["ratio"] == pytest.approx(r["theirs"] / r["ours"]) for r in results)


def test_flops_are_counted_as_in_the_books():
    # 3*3*3*4 multiply-adds a pixel forward, as many again for the weights; the input wants no gradient
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    assert train_step.gflop(layer, 10) == pytest.approx(2 * 2 * 108 * 100 / 1e9)


def test_a_switch_that_fails_is_said_and_left_out(once, here, monkeypatch, capsys):
    monkeypatch.setitem(switches.ONLY, "cpu", ("CUDA graph", "optimizer not fused"))
    [result] = switches.run(CPU, STEPS)
    assert "optimizer not fused" in result["name"]
    assert "CUDA graph: left out, " in capsys.readouterr().out


def test_both_ways_predict_the_same(few, tmp_path):
    model = small().eval()
    model.encoder.mean, model.encoder.std = IMAGENET  # the article normalises with these, whatever the encoder
    with torch.no_grad():
        model.logit[-1].weight.mul_(20)  # probabilities that differ from 0.5
    inference.predict(tmp_path / "ours.npy", few.images, model, replace(TTA, px=128), CPU)
    theirs = inference.predict_as_article(few.folder, few.pngs(24), model, replace(TTA, px=128), CPU)
    ours = np.load(tmp_path / "ours.npy").astype(np.float32)
    assert ours.shape == theirs.shape == (24, 101, 101) and theirs.std() > 0.02
    # bf16 where the CPU has it, rounding of the tiles, and resizing before or after the sigmoid
    assert np.abs(ours - theirs).mean() < 0.01
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99


def test_inference(few, once, monkeypatch):
    monkeypatch.setattr(memory, "peak", lambda work, *args: work(*args) or 100.0)  # watched in the test of memory
    results = list(inference.run(CPU, TTA))
    assert "flip TTA of 6 real tiles" in results[0]["name"] and sound(results) and results[1]["unit"] == "MiB"


def test_whole_run(few, once):
    results = list(
        whole_run.run(CPU, whole_run.Size(train=4, valid=2, test=TTA, batch=4, encoder="test_resnet", workers=0))
    )
    assert sound(results) and [r["name"][:8] for r in results] == ["epoch of", "epoch of", "flip TTA", "profile "]
    assert results[-1]["unit"] == "h" and "EXTRAPOLATED" in results[-1]["name"]


def test_the_hours_of_a_whole_run_by_hand():
    # 36 + 4 tiles are a hundredth of 4,000. Ten folds, 60 epochs of 100 x 3 s and 20 of 100 x 6 s: 300,000 s; ten times
    # 18,000 test tiles, and for ours 4,000 once, at 1 s for 10 tiles: 18,000 s and 18,400 s.
    size = whole_run.Size(train=36, valid=4, test=replace(TTA, tiles=10))
    epochs, tta = [{"ours": 3.0, "theirs": 3.0}, {"ours": 6.0, "theirs": 6.0}], {"ours": 1.0, "theirs": 1.0}
    assert whole_run.hours(epochs, tta, size, "theirs") == pytest.approx((300_000 + 18_000) / 3600)
    assert whole_run.hours(epochs, tta, size, "ours") == pytest.approx((300_000 + 18_400) / 3600)


def test_scaling(few, once, monkeypatch):
    monkeypatch.setattr(memory, "peak", lambda work, *args: work(*args) or 100.0)
    monkeypatch.setattr(scaling, "starts", lambda: [])  # imports: seconds, and nothing to learn here
    results = list(scaling.run(CPU, scaling.Size(px=32, batch=4, tiles=8, test=4, encoder="test_resnet", repeats=1)))
    assert sound(results) and [r["name"].split(";")[0] for r in results] == [
        "epoch of 16 tiles",
        "epoch of 32 tiles",
        "memory of predicting 8 tiles, network aside",
        "memory of predicting 16 tiles, network aside",
    ]


@pytest.mark.skipif(not memory.can_be_watched(), reason="only Linux tells a process's own memory from mapped files")
def test_memory_is_seen_and_files_are_not(tmp_path):
    np.save(tmp_path / "file.npy", np.ones(5_000_000))
    assert 36 < memory.peak(held, 5_000_000) < 60  # 38 MiB of float64
    assert memory.peak(sum_of_file, tmp_path / "file.npy") < 10


def held(n: int) -> None:
    ones = np.ones(n)
    time.sleep(0.5)  # long enough to be seen, also on a machine that is busy
    ones.sum()


def sum_of_file(path: Path) -> float:
    return float(np.load(path, mmap_mode="r").sum())


def test_the_page_says_what_is_no_time(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "RESULTS", tmp_path)
    main.keep("toaster", "one", [memory.compare("a claim", 250.0, 4000.0)])
    assert "| 250 MiB | 4,000 MiB | 16.0x |" in main.table()
    assert len(json.loads((tmp_path / "toaster.json").read_text())["benches"]["one"]["results"]) == 1


def test_packed_tiles_are_the_same_tiles(made_once, tmp_path):
    pack_tiles.main(str(made_once), str(tmp_path / "packed"), "3")
    before, after = competition.read(made_once), competition.read(tmp_path / "packed")
    assert np.array_equal(before.images, after.images) and np.array_equal(before.masks, after.masks)
    assert len(after.test) == 3
    with zipfile.ZipFile(made_once / "train.zip") as old, zipfile.ZipFile(tmp_path / "packed" / "train.zip") as new:
        masks = [name for name in old.namelist() if "masks/" in name]
        assert all(old.read(name) == new.read(name) for name in masks) and sorted(old.namelist()) == new.namelist()


@pytest.fixture
def there(tmp_path, made_once):
    """The GPU machine: its Python notes what it is asked for, and fails while the folder has a file `broken`."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n'
        f'if [ -e {tmp_path}/broken ] && [[ "$*" == *pipeline.train* ]]; then exit 3; fi\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def run(script: Path = RUN_ALL) -> tuple[str, list[str]]:
        given = {"PYTHON": str(python), "SALT_TILES": str(made_once), "EPOCHS": "3"}
        done = subprocess.run(
            [script, tmp_path / "work", tmp_path / "results"],
            env=os.environ | given,
            text=True,
            check=True,
            capture_output=True,
        )
        asked = tmp_path / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return done.stdout, [line for line in lines if "pip install" not in line]

    return tmp_path, run


def test_gpu_run_does_each_chunk_once_and_what_failed_again(there):
    folder, run = there
    (folder / "broken").touch()
    said, asked = run()
    stages = [f"-P -m pipeline.{stage}" for stage in ("prepare", "make_folds", "train", "predict", "submit", "report")]
    assert [line.partition(" --")[0] for line in asked if "-m bench" not in line] == stages
    benches = [name for line in asked if "-m bench " in line for name in line.removeprefix("-m bench ").split()]
    assert sorted(benches) == sorted({*main.BENCHES} - {"cpu_depthwise"})
    assert asked[-1] == "-m bench.experiments.networks"
    training = next(line for line in asked if "pipeline.train" in line)
    assert all(words in training for words in ("--profile blog", "--set train.epochs=3", "--workers 2"))
    assert "train ended with status 3" in said and said.splitlines()[-1].startswith("failed: train")
    (folder / "broken").unlink()
    said, asked = run()
    assert len(asked) == 1 and "pipeline.train" in asked[0] and said.splitlines()[-1] == "all is done"
    assert run()[1] == [] and (folder / "results" / "log").exists()


def test_gpu_run_knows_what_a_machine_that_is_gone_had_done(there):
    folder, run = there
    run()
    copy = folder / "repository"
    shutil.copytree(RUN_ALL.parent, copy / "bench")
    shutil.copytree(folder / "results", copy / ".gpu")
    shutil.rmtree(folder / "work")
    said, asked = run(copy / "bench/gpu_run.sh")
    assert asked and not [line for line in asked if "-m bench" in line] and said.splitlines()[-1] == "all is done"


def test_the_difference_of_two_formats_by_hand():
    # Of three differences the mean is 0.01, their deviation 0.01, the error of the mean that over the root of three.
    assert precision.compared([0.0, 0.01, 0.02]) == {"difference": 0.01, "standard_error": 0.00577}


def test_both_formats_are_trained_from_the_same_seeds(made_once, tmp_path, monkeypatch):
    asked = []

    def ran(command: list[str], **kwargs) -> None:
        asked.append(command)
        out = Path(next(flag for flag in command if flag.startswith("--out=")).removeprefix("--out="))
        for fold, score in [(0, 0.7), (1, 0.8)]:
            history = Files(out, "tiny", "cpu").history(fold, precision.SIZE)
            history.parent.mkdir(parents=True, exist_ok=True)
            history.write_text(f"meanap\n0.1\n{score + ('bf16' in out.name) / 100}\n")

    monkeypatch.setattr(subprocess, "run", ran)
    monkeypatch.setattr(precision, "RESULTS", tmp_path)
    monkeypatch.setattr(precision, "circumstances", dict)  # which asks git
    precision.main(str(made_once), str(tmp_path / "work"))
    [path] = tmp_path.glob("*.precision.json")
    record = json.loads(path.read_text())
    assert record["difference"] == 0.01 and record["standard_error"] == 0 and len(record["rows"]) == 8
    assert record["rows"][0] == {"seed": 100, "bf16": pytest.approx(0.76), "fp32": pytest.approx(0.75)}
    train = [command for command in asked if "pipeline.train" in command]
    assert len(train) == 16 and all(
        f"--set=train.precision={name}" in command for name, command in zip(precision.FORMATS * 8, train, strict=True)
    )


def test_gpu_run_without_arguments_says_how_it_is_used():
    done = subprocess.run([RUN_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "bench/gpu_run.sh pack TILES" in done.stdout


def test_counted_memory_is_what_forward_keeps_and_four_times_the_weights():
    relu = torch.nn.ReLU()
    conv = torch.nn.Conv2d(3, 8, 3, padding=1)
    # The image for the weights' gradient, and the map after the ReLU for its own; weights, gradients, two moments.
    expected = 2 * 3 * 16 * 16 + 2 * 8 * 16 * 16 + 4 * (3 * 8 * 9 + 8)
    assert training_memory.counted(torch.nn.Sequential(conv, relu), (2, 3, 16, 16)) == 4 * expected


def test_training_memory_says_which_reduction_takes_less():
    results = training_memory.run(CPU, "test_resnet", (2, 3, 64, 64))
    assert len(results) == 2 and sound(results) and {r["unit"] for r in results} == {"MiB"}
    ours, bigger = (training_memory.counted(small().train(), (n, 3, 64, 64)) for n in (1, 2))
    assert ours < bigger < 2 * ours, "activations double with the batch, weights do not"


def test_networks_train_for_so_many_seconds_and_are_scored_on_tiles_they_never_saw(few):
    budget = networks.Budget(seconds=1.0, size=32, batch=4)
    row = networks.train("more_dynamic_unet", "test_resnet", {"reduction": "eq_skip"}, budget)
    assert row["weights"] == "random" and row["tiles"] >= 4 and row["seconds"] >= 1 and 0 <= row["score"] <= 1
    record = {
        "budget": vars(budget),
        "tiles": 24,
        "kind": "generated",
        "machine": "toaster",
        "date": "today",
        "load": 0.0,
        "rows": [row],
    }
    assert f"| test_resnet, random | {row['parameters'] / 1e6:.1f} M | {row['tiles']:,} |" in networks.table(record)


def test_both_paths_begin_with_the_same_loss_for_the_same_seed(few):
    plain, fast = (truth.curves(path, few, CPU, seeds=(0, 1), epochs=1) for path in (truth.plain, truth.fast))
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=0.1)  # one step, from the same weights, of other tiles


def test_curves_are_apart_in_deviations_of_the_plain_seeds():
    plain = [[2.0, 1.0], [2.2, 1.2], [2.4, 1.4]]  # a standard deviation of 0.2 in each epoch
    assert truth.apart(plain, plain) == 0
    assert truth.apart([[2.3, 1.1]], plain) == pytest.approx(0.5)
