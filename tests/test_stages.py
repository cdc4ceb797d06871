"""Which change remakes what: nothing too little, nothing too much."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.artifacts import Origin
from pipeline.salt.errors import InputError

FLAGS = ["--profile", "demo", "--set", "folds.k=3", "--set", "run_folds=2"]


@pytest.fixture
def flags(tmp_path) -> list[str]:
    return ["--out", str(tmp_path), "--data", "sample", *FLAGS]


def run_of(flags: list[str]) -> command.Run:
    return command.parse("doc", flags)[0]


def make(path: Path, origin: Origin, content: str = "") -> None:
    artifacts.publish(path, origin, lambda tmp: tmp.write_text(content or path.name))


def made(run: command.Run) -> None:
    """Every artifact of a run, as small text files."""
    for name in ("images.npy", "masks.npy", "test.npy", "tiles.csv"):
        make(run.files.cache(name), lineage.cache(run))
    make(run.files.folds, lineage.folds(run))
    for stage in run.profile.train.stages:
        for fold in run.folds:
            origin = lineage.checkpoint(run, fold, stage.size)
            weights = [run.files.checkpoint(fold, stage.size, which) for which in run.profile.kept(stage.size)]
            for path in (*weights, run.files.history(fold, stage.size)):
                make(path, origin, f"{path.name} {fold}")
    predicted = lineage.predictions(run)
    make(run.files.oof(), predicted)
    make(run.files.result("test.npy"), predicted)
    make(run.files.result("submission.csv.gz"), lineage.submission(run))
    make(run.files.result("report.html"), lineage.report(run))


def stale(flags: list[str]) -> set[str]:
    """Stages that would not find their product fresh, or that would refuse."""
    names = set()
    for stage, _, products in lineage.stages(run_of(flags)):
        for product in products:
            try:
                fresh = artifacts.is_fresh(product.path, product.origin())
            except InputError:
                fresh = False
            if not fresh:
                names.add(stage)
    return names


ALL = ["prepare", "make_folds", "train --size 64", "train --size 96", "predict", "submit", "report"]


def test_stages_come_in_the_order_of_the_flow(flags):
    assert [stage for stage, _, _ in lineage.stages(run_of(flags))] == ALL


def test_after_a_run_everything_is_fresh(flags):
    made(run_of(flags))
    assert stale(flags) == set()
    assert stale([*flags, "--force", "--weights", flags[1]]) == set(), "flags that are no settings"


@pytest.mark.parametrize(
    "setting, first",
    [
        ("sample.train=30", "prepare"),
        ("sample.seed=8", "prepare"),
        ("folds.scheme=kfold", "make_folds"),
        ("folds.seed=1", "make_folds"),
        ("model.options.width=8", "train --size 64"),
        ("augment.zoom=1.3", "train --size 64"),
        ("train.wd=0.5", "train --size 64"),
        ("train.loss=bce", "train --size 64"),
        ("train.seed=1", "train --size 64"),
        ("train.64.epochs=1", "train --size 64"),
        ("train.96.epochs=1", "train --size 96"),
        ("train.96.lr=0.5", "train --size 96"),
        ("predict.flip=False", "predict"),
        ("predict.batch=3", "predict"),
        ("submit.threshold=0.4", "submit"),
        ("submit.black_empty=False", "submit"),
    ],
)
def test_a_setting_makes_its_own_stage_stale_and_none_before(flags, setting, first):
    made(run_of(flags))
    found = stale([*flags, "--set", setting])
    assert first in found and not set(ALL[: ALL.index(first)]) & found


@pytest.mark.parametrize(
    "remade, after",
    [
        ("images.npy", ["train --size 64", "predict"]),
        ("masks.npy", ["train --size 64"]),
        ("tiles.csv", ["make_folds", "submit"]),
        ("test.npy", ["predict"]),
    ],
)
def test_other_tiles_make_stale_what_reads_them(flags, remade, after):
    run = run_of(flags)
    made(run)
    make(run.files.cache(remade), lineage.cache(run), "other tiles")
    assert set(after) <= stale(flags) and "prepare" not in stale(flags)


def test_one_fold_trained_anew_leaves_the_other_alone(flags):
    run = run_of(flags)
    made(run)
    make(run.files.checkpoint(0, 64), lineage.checkpoint(run, 0, 64), "other weights")
    assert stale([*flags, "--fold", "1"]) == {"predict", "report"}, "other folds are asked for"
    assert "train --size 96" in stale([*flags, "--fold", "0"]) and "train --size 64" not in stale(flags)


def test_the_checkpoint_that_is_not_used_does_not_matter(flags):
    run = run_of(flags)
    made(run)
    assert run.profile.predict.checkpoint == "last"
    make(run.files.checkpoint(1, 96), lineage.checkpoint(run, 1, 96), "other weights")
    assert stale(flags) == set()
    assert "predict" in stale([*flags, "--set", "predict.checkpoint=best"])


def test_a_longer_last_stage_alone_needs_no_earlier_one(flags):
    run = run_of(flags)
    made(run)
    first, last = lineage.checkpoint(run, 0, 64), lineage.checkpoint(run, 0, 96)
    assert "fold_0/64.safetensors" in last.inputs and not any("safetensors" in name for name in first.inputs)
    assert "stages" not in first.settings["train"], "the other sizes do not matter"


def test_a_fold_that_was_not_trained_names_the_command(flags):
    run = run_of(flags)
    made(run)
    wanted = run_of([*flags, "--fold", "0", "--fold", "2"])
    with pytest.raises(InputError) as e:
        lineage.predictions(wanted)
    assert "fold 2 has not been trained at 96 px" in str(e.value) and "trained: [0, 1]" in str(e.value)
    assert "python -m pipeline.train --profile demo --fold 2" in str(e.value)


def test_folds_must_not_be_mixed(flags):
    run = run_of(flags)
    made(run)
    other = run_of([*flags, "--set", "train.96.lr=0.5"])
    make(run.files.checkpoint(1, 96, "last"), lineage.checkpoint(other, 1, 96), "other")
    for asked in (run, other):
        with pytest.raises(
            InputError,
            match=r"fold_[01]/96\.last\.safetensors was trained with other settings \(train\.stage\.lr .*mixed",
        ):
            lineage.predictions(asked)


@pytest.mark.parametrize(
    "origin, needs",
    [
        (lineage.folds, "tiles.csv.*pipeline.prepare"),
        (lambda run: lineage.checkpoint(run, 0, 64), "folds.csv.*pipeline.make_folds"),
        (lineage.predictions, "fold 0 has not been trained.*pipeline.train"),
        (lineage.submission, "test.npy.*pipeline.predict"),
    ],
)
def test_what_is_missing_is_named_with_the_stage_that_makes_it(flags, origin, needs):
    with pytest.raises(InputError, match=needs):
        origin(run_of(flags))


def test_the_sample_follows_from_its_numbers_and_real_tiles_from_their_files(flags, tiny_competition):
    run = run_of(flags)
    real = replace(run, data=tiny_competition)
    before = lineage.cache(real)
    assert lineage.cache(real) == before != lineage.cache(run)
    (tiny_competition / "train.csv").write_text((tiny_competition / "train.csv").read_text() + "\n")
    assert lineage.cache(real) != before
