"""The whole pipeline at a small scale: what it writes, what it makes again, and every fault as one sentence."""

import errno
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import __main__ as overview
from pipeline import make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import artifacts, published, rle, submission
from pipeline.salt.config import PROFILES, Model
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.inference import InferenceSettings, mean_logits, tile_logits
from pipeline.salt.logit_sums import probabilities
from pipeline.salt.metrics import tile_scores
from pipeline.salt.tiles import cache, synthetic
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.training import checkpoints
from pipeline.salt.training.callbacks import EpochLog
from pipeline.salt.training.fold import set_up_fold
from pipeline.tools import lr_find, picture

ROOT = Path(__file__).parents[1]
LR = PROFILES["demo"].train.last.lr
STAGES = [prepare, make_folds, train, predict, submit, report]


def tree(out: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below, with its modification time and content."""
    return {
        str(p.relative_to(out)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(out.rglob("*")) if p.is_file()
    }


def changed(before: dict, after: dict) -> set[str]:
    """Files that were written, even with the same content; without sidecars."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name) and not name.endswith(".json")}


def test_everything_is_there(finished):
    run, printed = finished
    out = run.out
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
        "submissions/demo/disagreement.csv",
        "submissions/demo/submission.csv.gz",
        "submissions/demo/report.html",
    }
    sidecars = {f"{name}.json" for name in made if not name.startswith("data/sample")}
    assert sidecars <= set(tree(out)), "each has its sidecar"
    assert "submissions/demo/scores.json" in tree(out) and json.loads(
        (out / "submissions/demo/scores.json").read_text()
    )
    assert str(out / "submissions/demo/submission.csv.gz") in printed and "report.html" in printed


def test_arrays_have_the_shapes_that_are_promised(finished):
    out = finished[0].out
    shapes = {
        "data/cache/sample/images.npy": ((25, 101, 101), np.uint8),
        "data/cache/sample/masks.npy": ((25, 101, 101), bool),
        "data/cache/sample/test.npy": ((8, 101, 101), np.uint8),
        "data/cache/sample/truth.npy": ((8, 101, 101), bool),
        "folds/demo/oof.npy": ((25, 101, 101), np.float16),
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
    assert sorted(folds["fold"].value_counts().tolist()) == [12, 13]
    history = pd.read_csv(out / "folds/demo/fold_1/32.csv")
    assert history["epoch"].tolist() == [*range(1, 9)] and history["meanap"].between(0, 1).all()


def test_each_tile_is_predicted_by_the_model_that_never_saw_it_and_test_tiles_by_all(finished):
    out = finished[0].out
    folds = pd.read_csv(out / "folds/demo/folds.csv")["fold"].to_numpy()
    images, test = (np.load(out / "data/cache/sample" / name) for name in ("images.npy", "test.npy"))
    settings = InferenceSettings(sizes=(48,), batch=24, flip=True, precision="fp32", devices=(torch.device("cpu"),))
    models = [
        checkpoints.load(
            out / f"folds/demo/fold_{k}/48.last.safetensors",
            checkpoints.build(Model(name="unet_lean", encoder="test_resnet", options={"width": 8})),
        )
        for k in (0, 1)
    ]
    held_out = [next(tile_logits(models[k], images, np.flatnonzero(folds == k), settings))[1] for k in (0, 1)]
    oof = np.load(out / "folds/demo/oof.npy")
    for k in (0, 1):
        np.testing.assert_allclose(oof[folds == k], 1 / (1 + np.exp(-held_out[k])), atol=2e-3)
    both = np.mean([next(tile_logits(models[k], test, np.arange(8), settings))[1] for k in (0, 1)], axis=0)
    np.testing.assert_allclose(np.load(out / "submissions/demo/test.npy"), 1 / (1 + np.exp(-both)), atol=2e-3)


def test_the_submission_is_what_kaggle_takes(tiny):
    out = tiny.out
    probs = np.load(out / "submissions/demo/test.npy")
    peaks = probs.max(axis=(1, 2))
    *_, second, surest = peaks.argsort()
    peak = float(peaks[second])
    threshold = float(np.nextafter(peaks[second], np.float16(0)))  # by the threshold alone, both have salt
    tiny(submit, extra=(f"--set=submit.threshold={threshold}", f"--set=submit.peak={peak}"))
    lines = gzip.decompress((out / "submissions/demo/submission.csv.gz").read_bytes()).decode().splitlines()
    wanted = (out / "data/sample/sample_submission.csv").read_text().splitlines()
    assert lines[0] == wanted[0] == "id,rle_mask" and [x.split(",")[0] for x in lines] == [
        x.split(",")[0] for x in wanted
    ]
    salt = probs > threshold
    salt[~np.load(out / "data/cache/sample/test.npy").any(axis=(1, 2)) | salt.all(axis=(1, 2))] = False
    assert salt[second].any(), "the rule has something to do"
    salt[peaks <= peak] = False
    assert 0 < salt[surest].mean() < 1
    np.testing.assert_array_equal(np.stack([rle.decode(line.split(",")[1], (101, 101)) for line in lines[1:]]), salt)


def test_a_second_run_finds_everything_fresh_and_writes_nothing(finished):
    run, before = finished[0], tree(finished[0].out)
    printed = run(*STAGES)
    assert printed.count("fresh") == 1 + 1 + 4 + 1 + 1 + 1 and tree(run.out) == before
    assert all(f"fold_{k}/{size}.safetensors\n" in printed for k in (0, 1) for size in (32, 48))


def test_a_second_run_needs_no_torch(finished):
    program = """
import sys
from pipeline import __main__, make_folds, predict, prepare, pseudo_label, submit, train
for stage in (prepare, make_folds, train, pseudo_label, predict, submit, __main__):
    stage.main(sys.argv[1:])
assert not {"torch", "fastai"} & set(sys.modules)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *finished[0].flags()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_force_redoes_one_piece_and_the_same_bytes_keep_the_rest_fresh(tiny):
    before = tree(tiny.out)
    tiny(train, extra=("--phase", "32", "--fold", "0", "--force"))
    after = tree(tiny.out)
    assert changed(before, after) == {"folds/demo/fold_0/32.safetensors", "folds/demo/fold_0/32.csv"}
    assert before["folds/demo/fold_0/32.safetensors"][1] == after["folds/demo/fold_0/32.safetensors"][1]
    assert tiny(train, predict, submit).count("fresh") == 4 + 1 + 1


def test_phases_trained_from_replaced_weights_are_removed_in_that_fold_alone(tiny):
    before, other = tree(tiny.out), "--set=train.32.lr=1e-2"
    tiny(train, extra=(other, "--phase", "32", "--fold", "0", "--force"))
    gone = {f"folds/demo/fold_0/{name}" for name in ("48.safetensors", "48.last.safetensors", "48.csv")}
    assert before.keys() - tree(tiny.out).keys() == gone | {f"{name}.json" for name in gone}
    text = refused(train, run=tiny, extra=(other,))
    assert "fold_1/32.safetensors was made with other settings (train.phase.lr 0.03 -> 0.01); --run NAME" in text
    assert tiny(train, extra=(other, "--fold=0")).count("\ntrained") == 1, "the second phase, from the new weights"


def test_finished_phases_survive_new_first_weights_without_force(tiny):
    for file in tiny.out.glob("folds/demo/fold_0/32.*"):  # someone made room on the disk
        file.unlink()
    before, other = tree(tiny.out), ("--fold=0", "--set=train.32.lr=1e-2")
    assert "32.safetensors has not been made yet" in refused(train, run=tiny, extra=(*other, "--phase=48"))
    tiny(train, extra=(*other, "--phase=32"))
    assert before.items() <= tree(tiny.out).items()
    text = refused(train, run=tiny, extra=other)
    assert "made with other settings (fold_0/32.safetensors changed); --run NAME" in text


def test_finished_weights_are_kept_from_other_first_weights(tiny, tmp_path):
    """The file of ImageNet weights is not a setting, so another one could go unnoticed."""
    (other := tmp_path / "other.pth").touch()
    flags, before = ("--weights", str(other)), tree(tiny.out)
    text = refused(train, run=tiny, extra=flags)
    assert "fold_0/32.safetensors was trained from random weights, and --weights names other.pth; --run NAME" in text
    assert tree(tiny.out) == before
    scratch = (*flags, "--set=model.weights=none")
    assert "fresh" in tiny(train, predict, extra=scratch), "which has no use for the file"


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_without_a_phase_that_wants_them_pseudo_labels_are_skipped(tiny, force):
    before = tree(tiny.out)
    assert tiny(train, extra=("--pseudo", *force)).startswith("skipped  train --pseudo")
    assert tiny(pseudo_label, extra=force).startswith("skipped  pseudo_label")
    assert tree(tiny.out) == before


def test_a_changed_setting_remakes_what_follows_it_and_no_more(tiny):
    before = tree(tiny.out)
    printed = tiny(*STAGES, extra=("--set", "submit.threshold=0.4"))
    assert changed(before, tree(tiny.out)) <= {"submissions/demo/submission.csv.gz", "submissions/demo/report.html"}
    assert printed.count("fresh") == 1 + 1 + 4 + 1 and "over 0.4" in printed
    before = tree(tiny.out)
    other = "--set=train.48.lr=1e-3"
    assert f"train.phase.lr {LR} -> 0.001" in refused(*STAGES, run=tiny, extra=(other,))
    tiny(train, extra=(other, "--phase=48", "--force"))
    printed = tiny(*STAGES, extra=(other,))
    assert printed.count("fresh") == 1 + 1 + 4
    remade = changed(before, tree(tiny.out))
    assert "folds/demo/oof.npy" in remade and not any("/32" in name or name.startswith("data") for name in remade)


def test_two_runs_stand_side_by_side(tiny):
    before = tree(tiny.out)
    extra = ("--run=hot", "--set=train.48.lr=1e-3")
    printed = tiny(*STAGES, extra=extra)
    after = tree(tiny.out)
    assert not changed(before, {name: content for name, content in after.items() if name in before})
    new = {name for name in after.keys() - before.keys() if not name.endswith(".json")}
    theirs = {name for name in before if "/demo/" in name and not name.endswith(".json")}
    assert {name.replace("/hot/", "/demo/") for name in new} == theirs
    assert (
        printed.count("fresh") == 1 and tiny(*STAGES).count("fresh") == tiny(*STAGES, extra=extra).count("fresh") == 9
    )
    listed = {line.split()[0]: line.split() for line in tiny(overview).split("\nrun ")[1].split("\n\n")[0].splitlines()}
    for run in ("demo", "hot"):
        results = json.loads((tiny.out / f"submissions/{run}/scores.json").read_text())
        scores = [f"{results[part]['score']:.4f}" for part in ("out_of_fold", "test")]
        assert listed[run] == [run, "demo", "4", *scores, results["made"]]
    artifacts.discard(tiny.out / "folds/hot/fold_1/48.csv")
    artifacts.discard(tiny.out / "submissions/hot/scores.json")
    assert "hot demo 3" in [" ".join(line.split()) for line in tiny(overview).splitlines()]


def test_a_phase_can_be_appended(tiny):
    printed = tiny(*STAGES, extra=("--add-phase", "size=56,epochs=1"))
    assert printed.count("fresh") == 1 + 1 + 4 and printed.count("trained") == 2
    assert {path.name for path in tiny.out.glob("folds/demo/fold_1/56*.safetensors")} == {
        "56.safetensors",
        "56.last.safetensors",
    }
    assert list(json.loads((tiny.out / "submissions/demo/scores.json").read_text())["phases"]) == ["32", "48", "56"]


def test_a_phase_that_others_were_trained_from_is_not_trained_anew_because_a_flag_was_forgotten(tiny):
    """The phase before an added one keeps only its best epoch."""
    tiny(train, extra=("--add-phase", "size=56,epochs=1"))
    for file in tiny.out.glob("folds/demo/fold_*/48.last.*"):
        file.unlink()
    before = tree(tiny.out)
    text = refused(train, run=tiny)
    assert "56.safetensors was trained from 48.safetensors in a phase that this command does not have" in text
    assert tree(tiny.out) == before and tiny(train, extra=("--add-phase", "size=56,epochs=1")).count("fresh") == 6


def test_a_forced_training_is_not_begun_anew_in_each_session(untrained, monkeypatch):
    before = tree(untrained.out)
    assert "leave one of them out" in refused(train, run=untrained, extra=("--force", "--max-hours=8"))
    assert tree(untrained.out) == before
    monkeypatch.setattr(train, "fit_and_publish", mock.Mock(side_effect=Stopped("fold 0 is trained", 143)))
    with pytest.raises(Stopped, match=r"^fold 0 is trained$"):
        untrained(train, extra=("--force",))
    (untrained.out / "folds/demo/fold_0").mkdir(exist_ok=True)
    (untrained.out / "folds/demo/fold_0/32.resume.pt").touch()
    with pytest.raises(Stopped, match=r"with only this fold and phase: --force --fold 0 --phase 32$") as stopped:
        untrained(train, extra=("--force",))
    assert stopped.value.status == 143


def test_weights_of_a_version_without_a_setting_are_those_of_its_default(tiny):
    for path in tiny.out.glob("folds/demo/fold_*/*.json"):
        sidecar = json.loads(path.read_text())
        assert sidecar["settings"]["train"].pop("compile") == "no"
        del sidecar["checksum"]
        sidecar["key"] = artifacts.Origin(sidecar["settings"], sidecar["inputs"]).key()
        path.write_text(json.dumps(sidecar | {"checksum": artifacts.hash_of(sidecar)}))
    assert tiny(train, predict).count("fresh") == 5
    text = refused(train, run=tiny, extra=("--set=train.compile=default",))
    assert "made with other settings (train.compile no -> default)" in text


def test_averaged_weights_can_predict(tiny):
    tiny(train, predict, extra=("--set=train.average=1", "--set=predict.checkpoint=average", "--force"))
    folder = tiny.out / "folds/demo/fold_0"
    average, last = (load_file(folder / f"48.{epoch}.safetensors") for epoch in ("average", "last"))
    assert any(not torch.equal(average[k], last[k]) for k in last) and not (folder / "32.average.safetensors").exists()
    made_from = json.loads((tiny.out / "folds/demo/oof.npy.json").read_text())["inputs"]
    assert {name for name in made_from if name.startswith("fold_")} == {
        f"fold_{k}/48.average.safetensors" for k in (0, 1)
    }
    run, models = tiny.parse(), []
    for k in (0, 1):
        model = checkpoints.build(run.profile.model)
        models.append(checkpoints.load(tiny.out / f"folds/demo/fold_{k}/48.average.safetensors", model))
    settings = InferenceSettings(sizes=(48,), batch=5, flip=True, precision="fp32", devices=(torch.device("cpu"),))
    expected = probabilities(mean_logits(models, np.load(run.files.cache("test.npy")), settings))
    np.testing.assert_array_equal(np.load(tiny.out / "submissions/demo/test.npy"), expected)


def test_the_best_weights_are_those_of_the_epoch_that_scored_best(tiny):
    run = tiny.parse()
    phase = run.profile.train.phases[0]
    scores = published.read_history(run, 0, phase)["meanap"]
    assert scores.max() > scores.iloc[-1] + 0.05, "which is not the last one"
    start = set_up_fold(run, 0, phase)
    model = checkpoints.load(run.files.weights(0, phase), start.model).eval()
    with torch.no_grad():
        pairs = [(to_tile(model(images), masks.shape[-2:]) > 0, masks > 0.5) for images, masks in start.dls.valid]
    pred, truth = (torch.cat(masks)[:, 0] for masks in zip(*pairs, strict=True))
    assert tile_scores(pred, truth).mean().item() == pytest.approx(scores.max(), abs=1e-5)


def test_some_folds_alone(tiny):
    printed = tiny(predict, submit, report, extra=("--fold", "1"))
    oof = np.load(tiny.out / "folds/demo/oof.npy")
    folds = pd.read_csv(tiny.out / "folds/demo/folds.csv")["fold"].to_numpy()
    assert np.isnan(oof[folds == 0]).all() and np.isfinite(oof[folds == 1]).all() and "folds 1" in printed
    assert np.isfinite(np.load(tiny.out / "submissions/demo/test.npy")).all()


def test_the_threshold_can_be_searched(tiny):
    tiny(submit, extra=("--set", "submit.threshold=search"))
    sidecar = json.loads((tiny.out / "submissions/demo/submission.csv.gz.json").read_text())
    run = tiny.parse()
    tiles = cache.read(run.files)
    oof, _ = published.read_predictions(run, tiles)
    scores = submission.score_thresholds(tiles.train_table, oof, tiles.train_masks, run.profile.submit)
    assert scores[sidecar["threshold"]] == max(scores.values()) > min(scores.values()) and 0 <= sidecar["empty"] <= 1


@pytest.mark.parametrize("phase, epochs", [("32", 8), ("48", 3)])
def test_a_stage_that_was_stopped_goes_on_bit_for_bit(untrained, tmp_path, monkeypatch, phase, epochs):
    """Also in the second phase, which starts from the weights of the first."""
    clock, after_batch = time.perf_counter, EpochLog.after_batch
    monkeypatch.setattr(time, "perf_counter", lambda: 10**6 * clock())  # a state is saved after every epoch
    extra = ("--fold=1", "--set=train.48.epochs=3")
    straight = replace(untrained, out=shutil.copytree(untrained.out, tmp_path / "straight"))
    straight(train, extra=extra)

    def stop(self):
        after_batch(self)
        if self.training and self.title.startswith(f"fold 1  {phase} px") and self.epoch + 1 == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EpochLog, "after_batch", stop)
        untrained(train, extra=extra)
    assert (untrained.out / f"folds/demo/fold_1/{phase}.resume.pt").exists()
    assert "1 under way" in untrained(overview, extra=("--set=train.48.epochs=3",)) or phase == "32"
    printed = untrained(train, extra=extra)
    assert printed.count(f"{phase} px  epoch") == 1, "what was done is not done again"
    ours, theirs = (
        {name: content for name, (_, content) in tree(run.out / "folds").items() if name.endswith(".safetensors")}
        for run in (untrained, straight)
    )
    assert ours == theirs and len(ours) == 3 and not list(untrained.out.rglob("*.resume.pt"))


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_prediction_without_time_left_goes_on_with_the_same_command(tiny, force):
    """One batch in each session: 3 + 3 training tiles, and 2 test tiles for each of two models."""
    names = ("folds/demo/oof.npy", "submissions/demo/test.npy", "submissions/demo/disagreement.csv")
    before = [(tiny.out / name).read_bytes() for name in names]
    for name in [] if force else names:
        (tiny.out / name).unlink()
    stopped = []
    for _ in range(11):
        try:
            tiny(predict, extra=("--max-hours=0", *force))
            break
        except Stopped as e:
            stopped.append(str(e).split(":")[0])
            assert e.status == 75 and ("under way" in tiny(overview) or force)
    assert stopped[::3] == ["out of fold, model 1, 5 tiles", "out of fold, model 2, 5 tiles"] + [
        "test tiles, model 1, 5 tiles",
        "test tiles, model 2, 8 tiles",
    ]
    assert len(stopped) == 10 and [(tiny.out / name).read_bytes() for name in names] == before
    assert not [*tiny.out.rglob("*.resume*")]


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
        "submissions/demo/disagreement.csv",
        "submissions/demo/submission.csv.gz",
    ],
)
def test_what_was_deleted_is_made_again(tiny, lost):
    before = (tiny.out / lost).read_bytes()
    (tiny.out / lost).unlink()
    tiny(*STAGES)
    assert (tiny.out / lost).read_bytes() == before and tiny(*STAGES).count("fresh") == 9


def test_the_overview_says_how_far_it_is(finished, empty):
    printed = finished[0](overview)
    assert printed.count(" done ") == 7 and "python -m pipeline.train --phase 32" in printed
    printed = empty(overview)
    assert " done " not in printed and "to do" in printed and not empty.out.exists()


# ---- refusals


def refused(*stages, run, extra: tuple[str, ...] = ()) -> str:
    """The command's sentence; checks that nothing below `out` has changed."""
    before = tree(run.out) if run.out.exists() else {}
    with pytest.raises(InputError) as e:
        run(*stages, extra=extra)
    after = tree(run.out) if run.out.exists() else {}
    assert before == after
    return str(e.value)


def test_folds_are_never_split_anew_silently(tiny):
    text = refused(make_folds, run=tiny, extra=("--set", "folds.seed=1"))
    assert "folds.csv was made with other settings (folds.seed 42 -> 1)" in text
    assert "--force" in text and "--run NAME" in text
    tiny(make_folds, extra=("--set", "folds.seed=1", "--force"))
    text = refused(train, run=tiny, extra=("--set", "folds.seed=1"))
    assert "32.safetensors was made with other settings (folds.csv changed); --run NAME keeps it" in text


def test_one_more_image_to_predict_changes_no_fold(empty, tmp_path):
    """It changes the table from which folds.csv is made, but not the folds, so the weights stay valid."""
    own = replace(empty, data=tmp_path / "own")
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "test"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    for i in range(4):
        np.save(tmp_path / f"own/images/{i}.npy", rng.integers(0, 256, (32, 32), dtype=np.uint8))
        np.save(tmp_path / f"own/masks/{i}.npy", rng.random((32, 32)) > 0.2 * i)
    np.save(tmp_path / "own/test/t.npy", np.ones((32, 32), np.uint8))
    own(prepare, make_folds)
    folds = own.out / "folds/demo/folds.csv"
    before, made_from = folds.read_bytes(), artifacts.read_sidecar(folds)["inputs"]
    np.save(tmp_path / "own/test/more.npy", np.zeros((32, 32), np.uint8))
    own(prepare, make_folds)
    assert folds.read_bytes() == before and artifacts.read_sidecar(folds)["inputs"] != made_from
    assert "fresh" in own(make_folds)
    np.save(tmp_path / "own/masks/0.npy", np.zeros((32, 32), bool))
    own(prepare)
    assert "folds.csv was made with other settings (cache/tiles.csv changed)" in refused(make_folds, run=own)


def test_predictions_that_are_replaced_are_named(tiny):
    printed = tiny(predict, extra=("--fold", "0"))
    assert "note     " in printed and "oof.npy is made anew: folds [0, 1] -> [0]" in printed.replace("\n", " ")
    assert re.search(r"oof\.npy: 1[23] tiles, folds 0,", printed) and "test.npy: 8 tiles, folds 0," in printed


def test_a_fold_that_another_process_has_finished_meanwhile_is_left_alone(tiny, monkeypatch):
    """It finishes between this process's check and its lock."""
    monkeypatch.setattr(train, "up_to_date", lambda products, force: False)
    before = tree(tiny.out)
    run = tiny.parse()
    train.train_fold(run, 0, run.profile.train.phases[0])
    assert tree(tiny.out) == before


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    "stage, needs",
    [(make_folds, "prepare"), (train, "make_folds"), (pseudo_label, "train"), (predict, "train"), (submit, "predict")],
)
def test_a_stage_before_its_turn_names_the_one_to_run(empty, untrained, stage, needs, force):
    run = untrained if stage in (pseudo_label, predict) else replace(empty, out=empty.out / "nothing")
    if stage is submit:
        shutil.copytree(untrained.out, run.out)
    extra = ("--add-phase=pseudo=true",) * (stage is pseudo_label)
    text = refused(stage, run=run, extra=(*extra, *force))
    assert f"run python -m pipeline.{needs}" in text and "has not been made yet" in text


def test_a_fold_that_was_not_trained(tiny):
    shutil.rmtree(tiny.out / "folds/demo/fold_1")
    text = refused(predict, run=tiny)
    assert "fold_1/32.safetensors has not been made yet" in text or "fold_1/48.last.safetensors has not" in text
    assert "python -m pipeline.train --fold 1 --phase" in text


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_phase_whose_first_weights_are_missing(tiny, force):
    shutil.rmtree(tiny.out / "folds/demo/fold_1")
    text = refused(train, run=tiny, extra=("--size", "48", "--fold", "1", *force))
    assert "32.safetensors has not been made yet; run python -m pipeline.train --fold 1 --phase 32 first" in text


def test_folds_trained_with_different_settings(tiny):
    tiny(train, extra=("--fold", "1", "--phase", "48", "--set", "train.48.lr=1e-3", "--force"))
    text = refused(predict, run=tiny)
    assert f"fold_1/48.last.safetensors was made with other settings (train.phase.lr 0.001 -> {LR})" in text
    assert "run python -m pipeline.train --fold 1 --phase 48 first, or give the same flags as then" in text


def test_weights_of_another_architecture_in_a_fold(tiny):
    other = checkpoints.build(Model(name="unet_lean", encoder="test_resnet", options={"width": 16}))
    path = tiny.out / "folds/demo/fold_0/48.last.safetensors"
    sidecar = artifacts.read_sidecar(path)
    with artifacts.publish(path, artifacts.Origin(sidecar["settings"], sidecar["inputs"])) as tmp:
        save_file({k: v.contiguous() for k, v in other.state_dict().items()}, tmp)
    text = refused(predict, run=tiny)
    assert "fold_0/48.last.safetensors holds weights of another architecture" in text and "\n" not in text


@pytest.mark.parametrize(
    "content, words", [(None, "not a complete file"), ({"layer1.weight": torch.zeros(3)}, "another architecture")]
)
def test_imagenet_weights_that_do_not_fit(untrained, tmp_path, content, words):
    file = tmp_path / "w.pth"
    file.write_bytes(b"half") if content is None else torch.save(content, file)
    text = refused(train, run=untrained, extra=("--set", "model.weights=imagenet", "--weights", str(file)))
    assert "w.pth" in text and words in text and "\n" not in text


@pytest.mark.parametrize(
    "stage, extra, words",
    [
        (train, ("--profile", "dmeo"), "did you mean demo"),
        (train, ("--set", "train.epoch=3"), "did you mean epochs"),
        (train, ("--set", "train.loss=lovas_hinge"), "lovas_hinge"),
        (train, ("--fold", "2"), "--fold 2"),
        (train, ("--phase", "99"), "there is no phase 99; the profile has 32, 48"),
        (train, ("--size", "99"), "there is no phase 99; the profile has 32, 48"),
        (train, ("--encoder", "test_resnett"), "test_resnett"),
        (train, ("--model", "unet_resnext5"), "unet_resnext5"),
        (train, ("--set", "model.options.widht=8"), "widht"),
        (predict, ("--fold", "-1"), "--fold -1"),
    ],
)
def test_names_that_do_not_exist(untrained, stage, extra, words):
    text = refused(stage, run=untrained, extra=extra)
    assert words in text and "\n" not in text


def test_generated_tiles_are_not_uploaded(finished):
    assert "--upload: these are the built-in sample's tiles" in refused(submit, run=finished[0], extra=("--upload",))


def test_no_kaggle_client(finished, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="pip install kaggle"):
        submit.upload(finished[0].out / "submissions/demo/submission.csv.gz")


def test_upload_hands_the_submission_to_the_kaggle_client(finished, tmp_path, monkeypatch):
    client = tmp_path / "kaggle"
    client.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    file = finished[0].out / "submissions/demo/submission.csv.gz"
    submit.upload(file)
    arguments = (tmp_path / "said").read_text().strip()
    assert arguments == f"competitions submit -c tgs-salt-identification-challenge -f {file} -m demo"
    client.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(InputError, match="did not accept"):
        submit.upload(file)


def test_the_rate_finder_names_the_stage_that_it_needs_first(tiny):
    (tiny.out / "folds/demo/fold_1/32.safetensors").unlink()
    text = refused(lr_find, run=tiny, extra=("--size", "48", "--fold", "1"))
    assert "run python -m pipeline.train --fold 1 --phase 32 first" in text


def test_a_tool_for_one_fold_takes_no_two(tiny):
    assert "--fold is given 2 times" in refused(lr_find, run=tiny, extra=("--fold", "1", "--fold", "0"))


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # fastai's Learner.load
def test_the_rate_finder_draws_and_leaves_the_rest_alone(tiny):
    out, before = tiny.out, tree(tiny.out)
    assert "valley" in tiny(lr_find, extra=("--size", "48", "--fold", "1"))
    assert changed(before, tree(out)) == {"folds/demo/fold_1/48.lr_find.png"}
    with Image.open(out / "folds/demo/fold_1/48.lr_find.png") as picture:
        assert picture.size[0] > 400


# ---- tiles


def test_a_picture_of_tiles_is_a_png_whatever_its_name_ends_in(tiny, monkeypatch):
    monkeypatch.chdir(tiny.out)
    tiny(picture, extra=("--tiles=2", "--to=tiles"))
    with Image.open(tiny.out / "tiles") as drawn:
        assert drawn.format == "PNG"


def test_tiles_are_only_read(tiny_competition, empty):
    before = tree(tiny_competition)
    for path in (*tiny_competition.iterdir(), tiny_competition):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        replace(empty, data=tiny_competition)(prepare, make_folds)
    finally:
        tiny_competition.chmod(0o755)
    assert tree(tiny_competition) == before
    assert (empty.out / "data/cache/tiny/tiles.csv").exists() and not (empty.out / "data/sample").exists()


# ---- no space left


def test_a_full_disk_while_the_sample_is_made(empty, monkeypatch):
    def full(*args) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(synthetic, "_add", full)
    with pytest.raises(InputError, match="no space left to write"):
        empty(prepare)
    assert not [name for name in tree(empty.out) if "cache" in name]


# ---- as a person sees it


@pytest.mark.parametrize(
    "extra, data, words",
    [
        (["--profile", "dmeo"], "sample", "error: no profile is called 'dmeo'; did you mean demo?"),
        ([], "/nowhere", "error: --data /nowhere: there is no such folder"),
        ([], "cut", "download it again"),
    ],
)
def test_a_fault_is_one_sentence_and_status_1(tiny_competition, empty, extra, data, words):
    if data == "cut":
        path = tiny_competition / "train.zip"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        data = str(tiny_competition)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.prepare", *replace(empty, data=data).flags(*extra)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1 and words in ended.stderr
    assert ended.stderr.count("error:") == 1 and "Traceback" not in ended.stderr and not empty.out.exists()
