"""Flags that every stage takes, what they come down to, and how a stage ends."""

import warnings
from pathlib import Path

import pytest

from pipeline.salt import cli as command
from pipeline.salt.artifacts import CODE
from pipeline.salt.config import PROFILES
from pipeline.salt.errors import InputError


@pytest.fixture
def parse(tmp_path):
    """parse(*flags) with an --out of its own."""

    def parse(*flags: str) -> command.Run:
        return command.parse("doc", ["--out", str(tmp_path / "out"), *flags])[0]

    return parse


def test_the_built_in_sample_is_the_demo(parse, tmp_path):
    run = parse("--data", "sample")
    assert run.data is None and run.profile == PROFILES["demo"] and not run.force and run.weights is None
    assert run.files.out == tmp_path / "out" and run.files.source == "sample" and run.folds == (0, 1, 2)
    assert run.files.sample == tmp_path / "out" / "data" / "sample" and "--data" in run.why


@pytest.mark.parametrize("gpu, name", [(True, "blog"), (False, "cpu")])
def test_real_tiles_choose_the_profile_by_the_machine(parse, made_once, monkeypatch, gpu, name):
    monkeypatch.setattr(command, "visible_gpus", lambda: ["0"] * gpu)
    run = parse("--data", str(made_once))
    assert run.profile == PROFILES[name] and run.data == made_once and run.files.source == "tiny" and "GPU" in run.why
    assert parse("--data", str(made_once), "--profile", "demo").profile == PROFILES["demo"]


def test_a_data_folder_is_found_below_out(parse, tiny_competition, tmp_path):
    (tmp_path / "out").mkdir()
    tiny_competition.rename(tmp_path / "out" / "data")
    run = parse("--profile", "demo")
    assert run.data == tmp_path / "out" / "data" and run.files.source == "data"
    assert parse("--profile", "demo", "--data", "sample").data is None


def test_on_kaggle_the_mount_is_found_and_the_results_go_where_they_may(tiny_competition, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(command, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.setattr(command, "CODE", tmp_path / "input" / "clone" / "pipeline")
    mount = tmp_path / "input" / "competitions" / "tgs-salt-identification-challenge"
    mount.parent.mkdir(parents=True)
    tiny_competition.rename(mount)
    run, _ = command.parse("doc", ["--profile", "demo"])
    assert run.data == mount and run.files.out == Path("/kaggle/working")


def test_without_out_the_repository_is_written_to(monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert command.parse("doc", ["--data", "sample"])[0].files.out == CODE.parent


def test_flags_change_the_profile(parse):
    run = parse(
        "--data",
        "sample",
        "--set",
        "train.epochs=2",
        "--set",
        "run_folds=1",
        "--model",
        "unet_resnext50",
        "--encoder",
        "resnet18",
        "--weights",
        "none",
        "--force",
    )
    assert {s.epochs for s in run.profile.train.stages} == {2} and run.folds == (0,) and run.force
    assert (run.profile.model.name, run.profile.model.encoder, run.profile.model.weights) == (
        "unet_resnext50",
        "resnet18",
        "none",
    )
    assert PROFILES["demo"].model.encoder == "test_resnet"


def test_another_model_does_not_inherit_the_options_of_the_profiles_own(parse):
    model = parse("--data", "sample", "--set", "model.options.n_out=2", "--model", "dynamic_unet").profile.model
    assert PROFILES["demo"].model.options and (model.name, model.options) == ("dynamic_unet", {"n_out": 2})
    assert parse("--data", "sample", "--model", "unet_resnext50").profile.model == PROFILES["demo"].model


def test_folds_are_named_one_by_one_in_any_order_and_count_once(parse):
    assert parse("--data", "sample", "--fold", "2").folds == (2,)
    assert parse("--data", "sample", "--fold", "2", "--fold", "0", "--fold", "2").folds == (0, 2)
    assert parse("--data", "sample", "--profile", "cpu", "--fold", "4").folds == (4,), (
        "beyond run_folds, within folds.k"
    )


def test_weights_are_a_path(parse, tmp_path):
    (tmp_path / "w").mkdir()
    assert parse("--data", "sample", "--weights", str(tmp_path / "w")).weights == tmp_path / "w"


def test_a_stage_adds_flags_of_its_own(tmp_path):
    _, args = command.parse(
        "doc",
        ["--out", str(tmp_path), "--data", "sample", "--size", "64"],
        lambda p: p.add_argument("--size", type=int),
    )
    assert args.size == 64


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--data", "sample", "--profile", "dmeo"], "no profile is called 'dmeo'; did you mean demo"),
        (["--data", "sample", "--fold", "3"], "--fold 3: profile demo has folds 0 to 2"),
        (["--data", "sample", "--fold", "-1"], "--fold -1: profile demo has folds 0 to 2"),
        (["--data", "sample", "--set", "train.epoch=3"], "did you mean epochs"),
        (["--data", "sample", "--weights", "/nowhere/w.pth"], "--weights /nowhere/w.pth: there is no such file"),
        (["--data", "/nowhere"], "--data /nowhere: there is no such folder"),
        (["--data", "sample", "--workers", "0"], "--workers 0: it is how many folds are worked on at once, 1 or more"),
    ],
)
def test_flags_that_cannot_be(parse, flags, words):
    with pytest.raises(InputError) as e:
        parse(*flags)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_a_folder_without_tiles_says_where_to_get_them(parse, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="none of Kaggle's files are in it.*kaggle competitions download"):
        parse("--data", str(tmp_path / "empty"))


def test_an_out_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--out .*file: that is a file"):
        command.parse("doc", ["--out", str(tmp_path / "file"), "--data", "sample"])


@pytest.mark.parametrize(
    "raised, status",
    [
        (InputError("x.npy is missing; run prepare"), "error: x.npy is missing; run prepare"),
        (KeyboardInterrupt(), "stopped; run the same command again to go on"),
    ],
)
def test_what_a_person_can_mend_ends_in_a_sentence(raised, status):
    def stage(_) -> None:
        raise raised

    with warnings.catch_warnings(), pytest.raises(SystemExit) as e:
        command.start(stage)
    assert e.value.code == status, "a text makes Python print it to stderr and exit with 1"


def test_a_fault_of_the_program_keeps_its_traceback():
    def stage(_) -> None:
        raise ZeroDivisionError

    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        command.start(stage)
