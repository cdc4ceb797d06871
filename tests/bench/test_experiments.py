"""The experiments run, and their statistics are right."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.experiments import ablation, decoders, leak, models, operators, precision, truth
from pipeline.salt import cli
from pipeline.salt.config import PROFILES
from pipeline.salt.models import build_model
from pipeline.salt.overrides import changed
from pipeline.salt.run import Files

CPU = torch.device("cpu")


def test_models_train_for_their_budget_and_are_scored_on_held_out_tiles(few):
    budget = models.Budget(seconds=1.0, size=32, batch=4)
    row = models.train("more_dynamic_unet", "test_resnet", {"reduction": "eq_skip"}, budget)
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
    assert f"| test_resnet, random | {row['parameters'] / 1e6:.1f} M | {row['tiles']:,} |" in models.table(record)


def test_paired_difference_by_hand():
    # Of three differences the mean is 0.01, their deviation 0.01, the error of the mean that over the root of three.
    assert precision.paired_difference([0.0, 0.01, 0.02]) == {"difference": 0.01, "standard_error": 0.00577}


def test_both_formats_are_trained_from_the_same_seeds(made_once, tmp_path, monkeypatch):
    commands, phase = [], changed(PROFILES["cpu"], f"train.size={precision.SIZE}").train.last

    def run(command: list[str], **kwargs) -> None:
        commands.append(command)
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command if flag.startswith("--"))
        for fold, score in [(0, 0.7), (1, 0.8)]:
            history = Files(Path(flags["out"]), "tiny", flags["run"]).history(fold, phase)
            history.parent.mkdir(parents=True, exist_ok=True)
            history.write_text(f"meanap\n0.1\n{score + ('bf16' in flags['run']) / 100}\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(precision, "RESULTS", tmp_path)
    monkeypatch.setattr(precision, "provenance", dict)  # which asks git
    precision.main(str(made_once), str(tmp_path / "work"))
    [path] = tmp_path.glob("*.precision.json")
    record = json.loads(path.read_text())
    assert record["difference"] == 0.01 and record["standard_error"] == 0 and len(record["rows"]) == 8
    assert record["rows"][0] == {"seed": 100, "bf16": pytest.approx(0.76), "fp32": pytest.approx(0.75)}
    trainings = [command for command in commands if "pipeline.train" in command]
    assert len(trainings) == 16 and len({flag for c in trainings for flag in c if flag.startswith("--run=")}) == 16
    for i, command in enumerate(trainings):
        run, _ = cli.parse(None, command[command.index("pipeline.train") + 1 :])
        train = run.profile.train
        assert (train.precision, train.seed) == (precision.FORMATS[i % 2], precision.SEEDS[i // 2])
        assert [(phase.size, phase.epochs) for phase in train.phases] == [(precision.SIZE, precision.EPOCHS)]


def test_both_sides_begin_with_the_same_loss_for_the_same_seed(few):
    plain, fast = (truth.loss_curves(side, few, CPU, seeds=(0, 1), epochs=1) for side in (truth.plain, truth.fast))
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=0.1)  # one step, from the same weights, of other tiles


def test_distance_of_curves_is_in_deviations_of_the_plain_seeds():
    plain = [[2.0, 1.0], [2.2, 1.2], [2.4, 1.4]]  # a standard deviation of 0.2 in each epoch
    assert truth.distance(plain, plain) == 0
    assert truth.distance([[2.3, 1.1]], plain) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_every_variant_is_a_profile_with_a_model(name):
    variant = ablation.VARIANTS[name]
    for scale, phase in ablation.SCALES.items():
        profile = ablation.profile_of(variant, scale, seed=3)
        assert profile.train.seed == 3 and profile.train.average > 0
        assert len(profile.train.phases) == len(variant.phases or [phase])
        base = ablation.profile_of(ablation.VARIANTS["base"], scale, seed=3)
        assert (profile == base) == (name == "base")  # it changes something
    build_model(profile.model.name, "test_resnet", profile.model.options)


def test_a_variant_is_trained_scored_and_then_known(made_once, tmp_path, monkeypatch, capsys):
    tiny = ("model.encoder=test_resnet", *ablation.HEADS)
    phases = (ablation.cycle(32, 1), ablation.cycle(48, 2), ablation.cycle(48, 1, pseudo=True))
    monkeypatch.setattr(ablation, "VARIANTS", {"tiny": ablation.Variant(tiny, phases)})
    monkeypatch.setattr(ablation, "FILE", tmp_path / "ablation.json")
    flags = ["tiny", f"--data={made_once}", f"--out={tmp_path / 'out'}", "--weights=none", "--seed=1"]
    ablation.main(flags)
    [record] = json.loads((tmp_path / "ablation.json").read_text())
    assert record["epochs"] == "1x32+2x48+1xpseudo" and len(record["curve"]) == 4
    for epoch in ("last", "average"):
        scores = [ablation.DIGITS.index(digit) / 10 for digit in record[epoch]["by_tile"]]
        assert record[epoch]["score"] == pytest.approx(np.mean(scores), abs=1e-4)
    ablation.main([*flags, "--table"])
    assert "known    tiny, screen, seed 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "ablation.json").read_text()) == [record]


def test_a_summary_counts_missed_invented_and_shape_by_hand():
    truth, masks = np.zeros((2, 4, 1, 2), bool)
    truth[1:, 0, 0] = masks[2:, 0, 0] = True  # empty and so predicted, missed, and two with salt in both; of which ...
    masks[0, 0, 0] = True  # ... now the first is invented
    result = ablation.summarize(np.array([0.0, 0.0, 1.0, 0.6]), masks, truth)
    assert (result["missed"], result["invented"], result["shape"], result["score"]) == (1, 1, 0.8, 0.4)
    assert result["se"] == pytest.approx(np.std([0, 0, 1, 0.6], ddof=1) / 2, abs=1e-4) and result["by_tile"] == "00X6"


def test_a_difference_is_paired_tile_by_tile():
    mean, error = ablation.difference({"by_tile": "0X58"}, {"by_tile": "0X36"})
    assert mean == pytest.approx(0.1) and error == pytest.approx(np.std([0, 0, 0.2, 0.2], ddof=1) / 2)


def test_the_table_compares_with_the_base_of_the_same_scale_seed_and_folds():
    def result(variant: str, seed: int, by_tile: str, folds: str = "a") -> dict:
        scores = {"score": 0.5, "se": 0.1, "missed": 1, "invented": 2, "shape": 0.75, "by_tile": by_tile}
        about = {"variant": variant, "scale": "screen", "seed": seed, "folds": folds, "epochs": "6x64"}
        return about | {"cpu_seconds": 9, "last": scores, "average": scores}

    others = [result("other", 0, "55"), result("other", 0, "55", folds="b"), result("other", 1, "55")]
    rows = ablation.table([result("base", 0, "00"), *others]).splitlines()[2:]
    assert ["+0.5000 ± 0.0000" in row for row in rows] == [False, True, False, False]


def test_tiles_that_folds_tear_apart_are_found_among_the_labelled():
    section = np.random.default_rng(0).normal(size=(101, 4 * 101)).cumsum(0).cumsum(1)  # four tiles side by side
    section = np.uint8(255 * (section - section.min()) / np.ptp(section))
    alone = np.random.default_rng(1).integers(0, 255, (4, 101, 101), dtype=np.uint8)
    images = np.concatenate([np.split(section, 4, axis=1), alone])
    fold = np.array([0, 0, 1])  # the fourth tile of the section is a test tile
    assert leak.torn_apart(images, fold).tolist() == [False, True, True]
    assert not leak.torn_apart(images, np.zeros(3, int)).any()


def test_a_leak_is_the_difference_of_the_same_tiles_under_two_schemes(made_once, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ablation.VARIANTS, "base", ablation.Variant(("model.encoder=test_resnet",)))
    monkeypatch.setitem(ablation.SCALES, "screen", ablation.cycle(32, 1))
    monkeypatch.setattr(leak, "FILE", tmp_path / "leak.json")
    monkeypatch.setattr(leak, "SCHEMES", ("mosaic", "coverage"))
    flags = [f"--data={made_once}", f"--out={tmp_path / 'out'}", "--weights=none"]
    leak.main(flags)
    records = json.loads((tmp_path / "leak.json").read_text())
    mosaic, coverage = (np.array([ablation.DIGITS.index(d) / 10 for d in record["scores"]]) for record in records)
    assert len(mosaic) == len(coverage) == 24
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"| coverage | all | 24 | {coverage.mean():.4f} | {mosaic.mean():.4f} | ")
    leak.main(flags)
    assert capsys.readouterr().out.splitlines()[:2] == ["known    mosaic, seed 0", "known    coverage, seed 0"]


def test_what_random_folds_flatter_is_split_by_neighbours():
    records = [
        {"scheme": "mosaic", "torn_apart": [], "scores": "5555"},
        {"scheme": "kfold", "torn_apart": [1, 3], "scores": "5756"},
    ]
    rows = [line.split("|")[1:-1] for line in leak.table(records).splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["kfold", "neighbour in another fold", "2", "0.6500", "0.5000", "+0.1500 ± 0.0500"],
        ["kfold", "others", "2", "0.5000", "0.5000", "+0.0000 ± 0.0000"],
        ["kfold", "all", "4", "0.5750", "0.5000", "+0.0750 ± 0.0479"],
    ]


def test_decoders_are_timed_trained_and_replace_their_own_rows(few, tmp_path, monkeypatch):
    small = {name: lambda encoder: build_model("unet_lean", encoder, {"width": 4}) for name in ("one", "other")}
    monkeypatch.setattr(decoders, "MODELS", small)
    monkeypatch.setattr(decoders, "ENCODERS", ("test_resnet",))
    monkeypatch.setattr(decoders, "PX", 32)
    monkeypatch.setattr(decoders, "RESULTS", tmp_path)
    monkeypatch.delenv("SALT_WEIGHTS", raising=False)
    decoders.main([])
    decoders.main(["--model=one", "--seconds=0.5"])
    [path] = tmp_path.glob("*.decoders.json")
    other, one = json.loads(path.read_text())["rows"]
    assert (other["model"], one["model"]) == ("other", "one") and "score" not in other
    assert one["trained"] >= 16 and len(one["by_tile"]) == 5 and min(one["train"], one["predict"]) > 0


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch 2.10
def test_the_operators_of_a_step_have_the_time_of_its_convolutions():
    clock, rows = operators.profile_step(operators.EncoderAlone("test_resnet"), CPU, px=32)
    times = [ms for _, ms, _ in rows]
    assert times == sorted(times, reverse=True)
    calls = {operator: calls for operator, _, calls in rows}
    convolutions = [m for m in operators.EncoderAlone("test_resnet").modules() if isinstance(m, torch.nn.Conv2d)]
    assert calls["aten::convolution_backward"] == len(convolutions)
    assert f"| {rows[0][0]} |" in operators.table("a model", CPU, clock, rows)
