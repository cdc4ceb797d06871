"""The whole pipeline, small, in a folder of its own: what it leaves, what it redoes, every fault in one sentence."""

import contextlib
import errno
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import __main__ as overview
from pipeline import make_folds, predict, prepare, report, submit, train
from pipeline.salt import artifacts, rle
from pipeline.salt.config import PROFILES, Model
from pipeline.salt.errors import InputError
from pipeline.salt.inference import tile_logits
from pipeline.salt.tiles import synthetic as sample
from pipeline.salt.training import checkpoints
from pipeline.tools import lr_find

ROOT = Path(__file__).parents[1]
LR = PROFILES["demo"].train.stages[-1].lr
STAGES = [prepare, make_folds, train, predict, submit, report]
SMALL = [
    "sample.train=24",
    "sample.test=8",
    "run_folds=2",
    "workers=1",
    "folds.k=2",
    "train.64.size=32",
    "train.96.size=48",
    "train.batch=6",
    "train.32.epochs=2",
    "train.48.epochs=1",
    "model.options.width=8",
    "train.precision=fp32",
    "predict.batch=5",
]


def flags(out: Path, *more: str, data: str | Path = "sample") -> list[str]:
    return [
        "--data",
        str(data),
        "--out",
        str(out),
        "--profile",
        "demo",
        *(f for s in SMALL for f in ("--set", s)),
        *more,
    ]


def run(*stages, out: Path, more: tuple[str, ...] = (), data: str | Path = "sample") -> str:
    """What the stages print."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for stage in stages:
            stage.main(flags(out, *more, data=data))
    return said.getvalue()


def tree(out: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below: time of change and content."""
    return {
        str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(out.rglob("*")) if p.is_file()
    }


def changed(before: dict, after: dict) -> set[str]:
    """Files that were written, whatever their content; without notes."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name) and not name.endswith(".json")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, str]:
    """The demo from nothing to the report, and what it said; not to be changed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run(*STAGES, out=out)


@pytest.fixture
def out(ran, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(ran[0], tmp_path / "out")


def test_everything_is_there(ran):
    out, said = ran
    made = {name for name in tree(out) if not name.endswith(".json")}
    folds = {
        f"folds/demo/fold_{k}/{name}"
        for k in (0, 1)
        for name in ("32.safetensors", "32.csv", "48.safetensors", "48.last.safetensors", "48.csv")
    }
    assert made == folds | {
        "data/sample/train.zip",
        "data/sample/test.zip",
        "data/sample/train.csv",
        "data/sample/depths.csv",
        "data/sample/sample_submission.csv",
        "data/sample/test_truth.csv",
        *(f"data/cache/sample/{name}" for name in ("images.npy", "masks.npy", "test.npy", "truth.npy", "tiles.csv")),
        "folds/demo/folds.csv",
        "folds/demo/oof.npy",
        "submissions/demo/test.npy",
        "submissions/demo/submission.csv.gz",
        "submissions/demo/report.html",
    }
    finished = {f"{name}.json" for name in made if not name.startswith("data/sample")}
    assert finished <= set(tree(out)), "each has its notes"
    assert "submissions/demo/scores.json" in tree(out) and json.loads(
        (out / "submissions/demo/scores.json").read_text()
    )
    assert str(out / "submissions/demo/submission.csv.gz") in said and "report.html" in said


def test_arrays_have_the_shapes_that_are_promised(ran):
    out = ran[0]
    shapes = {
        "data/cache/sample/images.npy": ((24, 101, 101), np.uint8),
        "data/cache/sample/masks.npy": ((24, 101, 101), bool),
        "data/cache/sample/test.npy": ((8, 101, 101), np.uint8),
        "data/cache/sample/truth.npy": ((8, 101, 101), bool),
        "folds/demo/oof.npy": ((24, 101, 101), np.float16),
        "submissions/demo/test.npy": ((8, 101, 101), np.float16),
    }
    for name, (shape, kind) in shapes.items():
        array = np.load(out / name)
        assert (array.shape, array.dtype) == (shape, kind), name
    for name in ("folds/demo/oof.npy", "submissions/demo/test.npy"):
        probs = np.load(out / name)
        assert np.isfinite(probs).all() and probs.min() >= 0 and probs.max() <= 1
    folds = pd.read_csv(out / "folds/demo/folds.csv", dtype={"id": str})
    tiles = pd.read_csv(out / "data/cache/sample/tiles.csv", dtype={"id": str})
    assert (
        list(folds) == ["id", "fold", "coverage", "z"]
        and folds["id"].tolist() == tiles.loc[tiles["split"] == "train", "id"].tolist()
    )
    assert sorted(folds["fold"].value_counts().tolist()) == [12, 12]
    history = pd.read_csv(out / "folds/demo/fold_1/32.csv")
    assert history["epoch"].tolist() == [1, 2] and history["meanap"].between(0, 1).all()


def test_each_tile_is_predicted_by_the_network_that_never_saw_it_and_test_tiles_by_all(ran):
    out = ran[0]
    folds = pd.read_csv(out / "folds/demo/folds.csv")["fold"].to_numpy()
    images, test = (np.load(out / "data/cache/sample" / name) for name in ("images.npy", "test.npy"))
    how = {"size": 48, "batch": 24, "flip": True, "precision": "fp32", "device": torch.device("cpu")}
    networks = [
        checkpoints.load(
            out / f"folds/demo/fold_{k}/48.last.safetensors",
            checkpoints.network(Model(encoder="test_resnet", options={"width": 8})),
        )
        for k in (0, 1)
    ]
    stats = [(n.encoder.mean, n.encoder.std) for n in networks]
    held_out = [
        next(tile_logits(networks[k], images, np.flatnonzero(folds == k), stats=stats[k], **how))[1] for k in (0, 1)
    ]
    oof = np.load(out / "folds/demo/oof.npy")
    for k in (0, 1):
        np.testing.assert_allclose(oof[folds == k], 1 / (1 + np.exp(-held_out[k])), atol=2e-3)
    both = np.mean(
        [next(tile_logits(networks[k], test, np.arange(8), stats=stats[k], **how))[1] for k in (0, 1)], axis=0
    )
    np.testing.assert_allclose(np.load(out / "submissions/demo/test.npy"), 1 / (1 + np.exp(-both)), atol=2e-3)


def test_the_submission_is_what_kaggle_takes(ran):
    out = ran[0]
    lines = gzip.decompress((out / "submissions/demo/submission.csv.gz").read_bytes()).decode().splitlines()
    wanted = (out / "data/sample/sample_submission.csv").read_text().splitlines()
    assert lines[0] == wanted[0] == "id,rle_mask" and [x.split(",")[0] for x in lines] == [
        x.split(",")[0] for x in wanted
    ]
    salt = np.load(out / "submissions/demo/test.npy") > 0.5
    salt[~np.load(out / "data/cache/sample/test.npy").any(axis=(1, 2)) | salt.all(axis=(1, 2))] = False
    np.testing.assert_array_equal(np.stack([rle.decode(line.split(",")[1]) for line in lines[1:]]), salt)


def test_a_second_run_finds_everything_fresh_and_writes_nothing(ran):
    out, before = ran[0], tree(ran[0])
    said = run(prepare, make_folds, train, predict, submit, report, out=out)
    assert said.count("fresh") == 1 + 1 + 4 + 2 + 1 + 1 and tree(out) == before


def test_a_second_run_needs_no_torch(ran):
    program = """
import sys
from pipeline import make_folds, predict, prepare, submit, train
for stage in (prepare, make_folds, train, predict, submit):
    stage.main(sys.argv[1:])
assert not {"torch", "fastai"} & set(sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *flags(ran[0])], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_force_redoes_one_piece_and_the_same_bytes_keep_the_rest_fresh(out):
    before = tree(out)
    run(train, out=out, more=("--size", "32", "--fold", "0", "--force"))
    after = tree(out)
    assert changed(before, after) == {"folds/demo/fold_0/32.safetensors", "folds/demo/fold_0/32.csv"}
    assert {n: after[n][1] for n in after if n.endswith("safetensors")} == {
        n: before[n][1] for n in before if n.endswith("safetensors")
    }
    assert run(train, predict, submit, out=out).count("fresh") == 4 + 2 + 1


def test_a_changed_setting_remakes_what_follows_it_and_no_more(out):
    before = tree(out)
    said = run(*STAGES, out=out, more=("--set", "submit.threshold=0.4"))
    assert changed(before, tree(out)) <= {"submissions/demo/submission.csv.gz", "submissions/demo/report.html"}
    assert said.count("fresh") == 1 + 1 + 4 + 2 and "over 0.4" in said
    before = tree(out)
    said = run(*STAGES, out=out, more=("--set", "train.48.lr=1e-3"))
    assert f"train.stage.lr {LR} -> 0.001" in said and said.count("fresh") == 1 + 1 + 2
    remade = changed(before, tree(out))
    assert "folds/demo/oof.npy" in remade and not any("/32" in name or name.startswith("data") for name in remade)


def test_some_folds_alone(out):
    said = run(predict, submit, report, out=out, more=("--fold", "1"))
    oof = np.load(out / "folds/demo/oof.npy")
    folds = pd.read_csv(out / "folds/demo/folds.csv")["fold"].to_numpy()
    assert np.isnan(oof[folds == 0]).all() and np.isfinite(oof[folds == 1]).all() and "folds 1" in said
    assert np.isfinite(np.load(out / "submissions/demo/test.npy")).all()


def test_the_threshold_can_be_searched(out):
    run(submit, out=out, more=("--set", "submit.threshold=search"))
    notes = json.loads((out / "submissions/demo/submission.csv.gz.json").read_text())
    assert 0.3 <= notes["threshold"] <= 0.7 and 0 <= notes["empty"] <= 1


@pytest.mark.parametrize(
    "lost",
    [
        "data/cache/sample/images.npy",
        "data/cache/sample/masks.npy",
        "folds/demo/folds.csv",
        "folds/demo/fold_0/32.safetensors",
        "folds/demo/fold_1/48.last.safetensors",
        "folds/demo/oof.npy",
        "submissions/demo/test.npy",
        "submissions/demo/submission.csv.gz",
    ],
)
def test_what_was_deleted_is_made_again(out, lost):
    before = (out / lost).read_bytes()
    (out / lost).unlink()
    run(prepare, make_folds, train, predict, submit, out=out)
    assert (out / lost).read_bytes() == before


def test_the_overview_says_how_far_it_is(ran, tmp_path):
    said = run(overview, out=ran[0])
    assert said.count(" done ") == 7 and "python -m pipeline.train --size 32" in said
    said = run(overview, out=tmp_path)
    assert " done " not in said and "to do" in said and list(tmp_path.iterdir()) == []


# ---- refusals


def refused(*stages, out: Path, more: tuple[str, ...] = (), data: str | Path = "sample") -> str:
    """The sentence; nothing below `out` may have changed."""
    before = tree(out) if out.exists() else {}
    with pytest.raises(InputError) as e:
        run(*stages, out=out, more=more, data=data)
    after = tree(out) if out.exists() else {}
    assert changed(before, after) == set()
    return str(e.value)


def test_folds_are_never_dealt_anew_silently(out):
    text = refused(make_folds, out=out, more=("--set", "folds.seed=1"))
    assert "folds.csv was dealt otherwise (folds.seed 42 -> 1)" in text and "--force" in text
    run(make_folds, out=out, more=("--set", "folds.seed=1", "--force"))


@pytest.mark.parametrize(
    "stage, needs", [(make_folds, "prepare"), (train, "make_folds"), (predict, "train"), (submit, "predict")]
)
def test_a_stage_before_its_turn_names_the_one_to_run(tmp_path, stage, needs):
    assert f"python -m pipeline.{needs}" in refused(stage, out=tmp_path / "out")


def test_a_fold_that_was_not_trained(out):
    shutil.rmtree(out / "folds/demo/fold_1")
    text = refused(predict, out=out)
    assert "fold 1 has not been trained at 48 px" in text and "python -m pipeline.train --profile demo --fold 1" in text


def test_a_size_whose_first_step_is_missing(out):
    shutil.rmtree(out / "folds/demo/fold_1")
    assert "32.safetensors" in refused(train, out=out, more=("--size", "48", "--fold", "1"))


def test_folds_trained_with_different_settings(out):
    run(train, out=out, more=("--fold", "1", "--size", "48", "--set", "train.48.lr=1e-3"))
    text = refused(predict, out=out)
    assert (
        f"fold_1/48.last.safetensors was trained with other settings (train.stage.lr 0.001 -> {LR})" in text
        and "mixed" in text
    )


def test_weights_of_another_architecture_in_a_fold(out):
    other = checkpoints.network(Model(encoder="test_resnet", options={"width": 16}))
    path = out / "folds/demo/fold_0/48.last.safetensors"
    notes = artifacts.read_sidecar(path)
    checkpoints.save(
        path,
        artifacts.Origin(notes["settings"], notes["inputs"]),
        {k: v.contiguous() for k, v in other.state_dict().items()},
    )
    text = refused(predict, out=out)
    assert "fold_0/48.last.safetensors holds weights of another architecture" in text and "\n" not in text


@pytest.mark.parametrize(
    "content, words", [(None, "not a whole file"), ({"layer1.weight": torch.zeros(3)}, "another architecture")]
)
def test_imagenet_weights_that_do_not_fit(out, tmp_path, content, words):
    file = tmp_path / "w.pth"
    file.write_bytes(b"half") if content is None else torch.save(content, file)
    text = refused(train, out=out, more=("--set", "model.weights=imagenet", "--weights", str(file)))
    assert "w.pth" in text and words in text and "\n" not in text


@pytest.mark.parametrize(
    "stage, more, words",
    [
        (train, ("--profile", "dmeo"), "did you mean demo"),
        (train, ("--set", "train.epoch=3"), "did you mean epochs"),
        (train, ("--set", "train.loss=lovas_hinge"), "lovas_hinge"),
        (train, ("--fold", "2"), "--fold 2"),
        (train, ("--size", "99"), "no size 99; it has 32, 48"),
        (train, ("--encoder", "test_resnett"), "test_resnett"),
        (train, ("--model", "unet_resnext5"), "unet_resnext5"),
        (train, ("--set", "model.options.widht=8"), "widht"),
        (predict, ("--fold", "-1"), "--fold -1"),
    ],
)
def test_names_that_do_not_exist(out, stage, more, words):
    text = refused(stage, out=out, more=more)
    assert words in text and "\n" not in text


def test_no_kaggle_client(ran, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "pip install kaggle" in refused(submit, out=ran[0], more=("--upload",))


def test_upload_hands_the_submission_to_the_kaggle_client(ran, tmp_path, monkeypatch):
    client = tmp_path / "kaggle"
    client.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    run(submit, out=ran[0], more=("--upload",))
    file = ran[0] / "submissions/demo/submission.csv.gz"
    said = (tmp_path / "said").read_text().strip()
    assert said == f"competitions submit -c tgs-salt-identification-challenge -f {file} -m demo"
    client.write_text("#!/bin/sh\nexit 3\n")
    assert "did not take" in refused(submit, out=ran[0], more=("--upload",))


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # fastai's Learner.load
def test_the_rate_finder_draws_and_leaves_the_rest_alone(out):
    before = tree(out)
    assert "valley" in run(lr_find, out=out, more=("--size", "48", "--fold", "1"))
    assert changed(before, tree(out)) == {"folds/demo/fold_1/48.lr_find.png"}
    with Image.open(out / "folds/demo/fold_1/48.lr_find.png") as picture:
        assert picture.size[0] > 400


# ---- tiles with faults


def png(side: int = 101) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(file, "PNG")
    return file.getvalue()


def unpacked(folder: Path) -> Path:
    for split in ("train", "test"):
        with zipfile.ZipFile(folder / f"{split}.zip") as archive:
            archive.extractall(folder / split)
        (folder / f"{split}.zip").unlink()
    return folder


def some_tile(folder: Path) -> str:
    return (folder / "train.csv").read_text().splitlines()[1].split(",")[0]


def missing_mask(folder: Path) -> str:
    tile = some_tile(unpacked(folder))
    (folder / f"train/masks/{tile}.png").unlink()
    return tile


def truncated_png(folder: Path) -> str:
    tile = some_tile(unpacked(folder))
    path = folder / f"train/images/{tile}.png"
    path.write_bytes(path.read_bytes()[:300])
    return tile


def wrong_size(folder: Path) -> str:
    tile = some_tile(unpacked(folder))
    (folder / f"train/images/{tile}.png").write_bytes(png(100))
    return f"{tile}.png: is 100 x 100 px"


def id_twice(folder: Path) -> str:
    with open(folder / "train.csv", "a") as f:
        f.write(f"{some_tile(folder)},\n")
    return f"{some_tile(folder)} has 2 rows"


def cut_zip(folder: Path) -> str:
    path = folder / "train.zip"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "train.zip"


def no_csv(folder: Path) -> str:
    (folder / "depths.csv").unlink()
    return "depths.csv: missing"


FAULTS = [missing_mask, truncated_png, wrong_size, id_twice, cut_zip, no_csv]


@pytest.mark.parametrize("spoil", FAULTS)
def test_a_fault_of_the_tiles_is_named_and_nothing_is_written(tiny_competition, tmp_path, spoil):
    words = spoil(tiny_competition)
    assert words in refused(prepare, out=tmp_path / "out", data=tiny_competition)
    assert not (tmp_path / "out").exists()


def test_tiles_are_only_read(tiny_competition, tmp_path):
    before = tree(tiny_competition)
    for path in (*tiny_competition.iterdir(), tiny_competition):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        run(prepare, make_folds, out=tmp_path / "out", data=tiny_competition)
    finally:
        tiny_competition.chmod(0o755)
    assert tree(tiny_competition) == before
    assert (tmp_path / "out/data/cache/tiny/tiles.csv").exists() and not (tmp_path / "out/data/sample").exists()


# ---- no space left


@pytest.mark.parametrize("stage", [make_folds, train, predict, submit, report], ids=lambda stage: stage.__name__)
def test_a_full_disk_leaves_what_was_there(out, monkeypatch, stage):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "no space left to write" in refused(stage, out=out, more=("--force",))


@pytest.mark.parametrize("moment", ["sample", "cache"])
def test_a_full_disk_while_the_tiles_are_prepared(tmp_path, monkeypatch, moment):
    def full(*args) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"sample": (sample, "make_sample"), "cache": (os, "fsync")}[moment], full)
    with pytest.raises(InputError, match="no space left to write"):
        run(prepare, out=tmp_path / "out")
    assert not [name for name in tree(tmp_path) if "cache" in name]


# ---- as a person sees it


@pytest.mark.parametrize(
    "more, data, words",
    [
        (["--profile", "dmeo"], "sample", "error: no profile is called 'dmeo'; did you mean demo?"),
        ([], "/nowhere", "error: --data /nowhere: there is no such folder"),
        ([], "cut", "download it again"),
    ],
)
def test_a_fault_is_one_sentence_and_status_1(tiny_competition, tmp_path, more, data, words):
    if data == "cut":
        cut_zip(tiny_competition)
        data = str(tiny_competition)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.prepare", *flags(tmp_path / "out", *more, data=data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1 and words in ended.stderr
    assert ended.stderr.count("error:") == 1 and "Traceback" not in ended.stderr and not (tmp_path / "out").exists()
