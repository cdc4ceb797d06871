"""results/README.md defines every key and column that the code writes, and the pages match the results."""

import json
import re
from pathlib import Path

import pytest
import torch
from fastai.data.core import DataLoaders

import bench.__main__ as main
from bench.experiments import ablation, decoders, leak, models, precision, truth
from bench.harness import compare, records
from bench.speed import train_step
from pipeline.salt.config import Phase, Train
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.training.callbacks import EpochLog
from pipeline.salt.training.learner import build_learner

CPU = torch.device("cpu")
README = (records.RESULTS / "README.md").read_text()
FILES = sorted(records.RESULTS.glob("*.json"))


def defined(section: str, table: int = 0) -> set[str]:
    """The names in backticks in the first column of the section's n-th table."""
    text = next(part for part in README.split("\n## ") if part.startswith(section))
    rows = re.findall(r"((?:^\|.*\n)+)", text, flags=re.MULTILINE)[table].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


PROVENANCE = defined("Provenance")


def test_provenance():
    assert records.provenance().keys() == PROVENANCE


def test_speed(results):
    assert compare.Result.__annotations__.keys() == defined("Speed")
    main.save("toaster", "one", [])
    record = json.loads((results / "toaster.json").read_text())
    assert record.keys() == {"machine", "benches"}
    assert record["benches"]["one"].keys() == {*PROVENANCE, "results"}


def test_models(few, tmp_path, monkeypatch):
    page = tmp_path / "models.md"
    page.write_text("")
    row = {name: 0 for name in models.Row.__annotations__} | {"options": {}}

    class Pool:
        """Stands in for a training; trains nothing."""

        __init__ = __exit__ = lambda self, *args: None
        __enter__ = lambda self: self  # noqa: E731
        apply = lambda self, work, args: row  # noqa: E731

    monkeypatch.setattr(models, "get_context", lambda method: type("Context", (), {"Pool": Pool}))
    monkeypatch.setattr(models, "RESULTS", tmp_path)
    monkeypatch.setattr(models, "PAGE", page)
    models.main()
    [path] = tmp_path.glob("*.models.json")
    record = json.loads(path.read_text())
    assert record.keys() == defined("Models") | PROVENANCE and len(record["rows"]) == len(models.MODELS)
    assert record["rows"][0].keys() == defined("Models", 1)


def test_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "score", lambda *args: 0.5)
    monkeypatch.setattr(precision, "RESULTS", tmp_path)
    precision.main("tiles", "work")
    [path] = tmp_path.glob("*.precision.json")
    record = json.loads(path.read_text())
    assert record.keys() == defined("Precision") | PROVENANCE
    assert record["rows"][0].keys() == defined("Precision", 1)


def test_loss_curves(few, tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "generate_tiles", lambda count: few)
    monkeypatch.setattr(truth, "loss_curves", lambda side, tiles, device: [[2.0, 1.0], [2.2, 1.2]])
    monkeypatch.setattr(truth, "RESULTS", tmp_path)
    monkeypatch.setattr(truth, "PICTURE", tmp_path / "truth.svg")
    truth.main()
    [path] = tmp_path.glob("*.truth.json")
    assert json.loads(path.read_text()).keys() == defined("Loss curves") | PROVENANCE
    assert (tmp_path / "truth.svg").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_that_are_there(path):
    record = json.loads(path.read_text())
    kind = path.name.split(".")[1]
    if path.name == "ablation.json":
        for training in record:
            assert training.keys() == defined("Ablation") | PROVENANCE
            assert training["last"].keys() == training["average"].keys() == defined("Ablation", 1)
            assert training["variant"] in ablation.VARIANTS and training["scale"] in ablation.SCALES
        return
    if path.name == "leak.json":
        for training in record:
            assert training.keys() == defined("Leak") | PROVENANCE
            assert training["scheme"] in leak.SCHEMES and len(training["scores"]) == len(record[0]["scores"])
        return
    if kind == "decoders":
        assert record.keys() - {"note"} == (defined("Decoders") - {"note"}) | PROVENANCE
        for row in record["rows"]:
            speeds = {"model", "encoder", "parameters", "train", "predict"}
            assert row.keys() in (speeds, defined("Decoders", 1)) and row["model"] in decoders.MODELS
    elif kind == "json":
        for bench, measured in record["benches"].items():
            assert bench in main.BENCHES and measured.keys() == {*PROVENANCE, "results"}
            for row in measured["results"]:
                assert compare.Result.__required_keys__ <= row.keys() <= defined("Speed")
                assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
    else:
        section = {"models": "Models", "precision": "Precision", "truth": "Loss curves"}[kind]
        assert record.keys() == defined(section) | PROVENANCE
        assert all(row.keys() == defined(section, 1) for row in record.get("rows", []))
    assert record["machine"] == path.name.split(".")[0]


@pytest.mark.parametrize("folder", sorted(p for p in records.RESULTS.iterdir() if p.is_dir()), ids=lambda p: p.name)
def test_whole_runs(folder: Path):
    keys = json.loads((folder / "scores.json").read_text()).keys()
    if folder.name.endswith("2026-11-21"):  # the names of that day
        keys = keys - {"sizes"} | {"phases", "run"}
    if "trained_by" not in keys:  # nor of the next
        keys = keys | {"trained_by", "runtime"}
    assert keys == defined("Whole runs", 1)
    for history in folder.glob("*.csv"):
        assert set(history.read_text().splitlines()[0].split(",")) == defined("Whole runs")


def test_the_scores_that_the_product_writes(finished):
    assert json.loads((finished[0].out / "submissions/demo/scores.json").read_text()).keys() == defined("Whole runs", 1)


def test_the_history_that_the_product_writes():
    batches = train_step.Batches([train_step.batch(32, 4, CPU)])
    phase = Phase(size=32, batch=4, epochs=1, lr=1e-3)
    model, dls, log = (
        UnetResNext50("test_resnet", width=8),
        DataLoaders(batches, batches, device=CPU),
        EpochLog("", CPU),
    )
    train_step.one_epoch(build_learner(model, dls, phase, Train(phases=(phase,)), [log]))()
    assert log.rows[0].keys() == defined("Whole runs")


def test_docs_show_the_results():
    assert generated("speed.md") == main.table()
    of_models = [json.loads(path.read_text()) for path in FILES if path.name.endswith(".models.json")]
    assert generated("models.md") == "\n".join(map(models.table, of_models))


def generated(page: str) -> str:
    """The text between a page's markers, in docs/."""
    text = (records.REPOSITORY / "docs" / page).read_text()
    return text.partition(records.BEGIN + "\n")[2].partition(records.END)[0]
