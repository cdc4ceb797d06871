"""The experiments on scores: they run, and their arithmetic is right."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from bench.experiments import models, precision, truth
from pipeline.salt import cli
from pipeline.salt.config import PROFILES
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
