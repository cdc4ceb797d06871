"""The command line: from flags to a Run, and exit status and message of a stage."""

import argparse
import math
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from pipeline.salt import cli, disk, kaggle
from pipeline.salt.config import PROFILES, Phase
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.run import Run
from pipeline.salt.stopping import Terminated


@pytest.fixture
def parse(tmp_path):
    """parse(*flags), with an --out of its own."""

    def parse(*flags: str) -> Run:
        return cli.parse("doc", ["--out", str(tmp_path / "out"), *flags])[0]

    return parse


def test_the_built_in_sample_is_the_demo(parse, tmp_path):
    run = parse("--data", "sample")
    assert run.data is None and run.profile == PROFILES["demo"] and not run.force and run.weights is None
    assert (run.files.out, run.files.source, run.files.run) == (tmp_path / "out", "sample", "demo")
    assert run.folds == (0, 1, 2) and run.engine == "local" and run.workers is None
    assert run.files.sample == tmp_path / "out" / "data" / "sample" and "--data" in run.reason


@pytest.mark.parametrize("gpu, name", [(True, "blog"), (False, "cpu")])
def test_real_tiles_choose_the_profile_by_the_machine(parse, made_once, monkeypatch, gpu, name):
    monkeypatch.setattr(cli, "visible_gpus", lambda: ["0"] * gpu)
    run = parse("--data", str(made_once))
    assert run.profile == PROFILES[name] and run.data == made_once and run.files.source == "tiny"
    assert "GPU" in run.reason
    assert parse("--data", str(made_once), "--profile", "demo").profile == PROFILES["demo"]


def test_kaggles_zip_of_zips_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    """As Kaggle's client downloads it. Without a message, the demo would be trained instead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data/tgs-salt-identification-challenge.zip", "w") as archive:
        for name in ("train.zip", "train.csv", "test.zip"):
            archive.writestr(name, "")
    for flags in ([], ["--profile=cpu"], ["--data=data"], [f"--out={tmp_path}"]):
        with pytest.raises(InputError, match=r"unpack tgs-salt-identification-challenge\.zip there"):
            cli.parse("doc", flags)
    assert cli.parse("doc", ["--data=sample"])[0].data is None


def without_truth(competition: Path) -> Path:
    """The tiles without the test masks, as Kaggle has them."""
    (competition / "test_truth.csv").unlink()
    return competition


def test_a_data_folder_is_found_below_out(parse, tiny_competition, tmp_path):
    (tmp_path / "out").mkdir()
    without_truth(tiny_competition).rename(tmp_path / "out" / "data")
    run = parse("--profile", "demo")
    assert run.data == tmp_path / "out" / "data" and run.files.source == "data"
    assert parse("--profile", "demo", "--data", "sample").data is None


def test_on_kaggle_the_mount_is_found_and_the_results_go_where_they_may(tiny_competition, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "input")
    mount = tmp_path / "input" / "competitions" / "tgs-salt-identification-challenge"
    mount.parent.mkdir(parents=True)
    without_truth(tiny_competition).rename(mount)
    run, _ = cli.parse("doc", ["--profile", "demo"])
    assert run.data == mount and run.files.out == Path("/kaggle/working")


def test_the_generated_tiles_of_an_earlier_run_are_not_taken_for_kaggles(tiny_competition, tmp_path, monkeypatch):
    """They are mounted with that run's output; --data can still name them."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "input")
    mount = tmp_path / "input" / "notebooks" / "somebody" / "data" / "sample"
    mount.parent.mkdir(parents=True)
    tiny_competition.rename(mount)
    run, _ = cli.parse("doc", [])
    assert run.data is None and run.profile.name == "demo"
    assert cli.parse("doc", ["--data", str(mount)])[0].data == mount


def test_without_out_the_current_folder_is_written_to_wherever_the_code_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.parse("doc", ["--data", "sample"])[0].files.out == tmp_path


def test_a_data_folder_is_found_here_when_out_is_elsewhere(parse, tiny_competition, monkeypatch):
    without_truth(tiny_competition).rename(tiny_competition.parent / "data")
    monkeypatch.chdir(tiny_competition.parent)
    assert parse("--profile", "demo").data == tiny_competition.parent / "data"


def test_flags_change_the_profile(parse):
    settings = ["--set", "train.epochs=2", "--set", "run_folds=1"]
    model = ["--model", "unet_resnext50", "--encoder", "resnet18", "--weights", "none"]
    run = parse("--data", "sample", *settings, *model, "--force")
    assert {phase.epochs for phase in run.profile.train.phases} == {2} and run.folds == (0,) and run.force
    changed = run.profile.model
    assert (changed.name, changed.encoder, changed.weights) == ("unet_resnext50", "resnet18", "none")
    assert PROFILES["demo"].model.encoder == "test_resnet"


def test_another_model_does_not_inherit_the_options_of_the_profiles_own(parse):
    model = parse("--data", "sample", "--set", "model.options.n_out=2", "--model", "dynamic_unet").profile.model
    assert PROFILES["demo"].model.options and (model.name, model.options) == ("dynamic_unet", {"n_out": 2})
    assert parse("--data", "sample", "--model", "unet_lean").profile.model == PROFILES["demo"].model


def test_folds_are_named_one_by_one_in_any_order_and_count_once(parse):
    assert parse("--data", "sample", "--fold", "2").folds == (2,)
    assert parse("--data", "sample", "--fold", "2", "--fold", "0", "--fold", "2").folds == (0, 2)
    beyond = parse("--data", "sample", "--profile", "cpu", "--fold", "4")
    assert beyond.folds == (4,), "beyond run_folds, within folds.k"


def test_a_run_has_a_name_and_its_own_folders_but_shares_the_tiles(parse):
    first, second = parse("--data", "sample"), parse("--data", "sample", "--run", "wide_2.b-c")
    assert second.files.run == "wide_2.b-c" and second.profile == first.profile
    assert first.files.cache("tiles.csv") == second.files.cache("tiles.csv")
    phase = first.profile.train.last
    for path in (
        lambda files: files.folds,
        lambda files: files.weights(0, phase),
        lambda files: files.oof,
        lambda files: files.result("scores.json"),
    ):
        assert path(first.files) != path(second.files)


def test_no_two_artifacts_share_a_path(parse, tmp_path):
    run = parse("--data", "sample", "--add-phase", "pseudo=true", "--add-phase", "size=128")
    files = run.files
    paths = [files.cache(n) for n in ("images.npy", "masks.npy", "test.npy", "tiles.csv", "truth.npy")]
    paths += [files.folds, files.oof, files.resume_of(files.oof), files.resume_of(files.result("test.npy"))]
    paths += [
        files.result(n) for n in ("test.npy", "disagreement.csv", "submission.csv.gz", "report.html", "scores.json")
    ]
    for fold in range(2):
        paths += [files.pseudo(fold, name) for name in ("tiles.csv", "masks.npy")]
        for phase in run.profile.train.phases:
            paths += [files.weights(fold, phase), files.weights(fold, phase, "last"), files.history(fold, phase)]
            paths += [files.resume(fold, phase), files.lr_find(fold, phase)]
    with_sidecars = [*paths, *(p.with_name(p.name + ".json") for p in paths)]
    assert len(set(with_sidecars)) == len(with_sidecars) == 2 * (14 + 2 * (2 + 4 * 5))
    assert all(p.is_relative_to(tmp_path / "out") for p in paths)


def test_phases_are_added_in_order_each_as_the_one_before_it(parse):
    run = parse("--data", "sample", "--add-phase", "size=256,epochs=10", "--add-phase", "pseudo=true, epochs=2,lr=5e-4")
    *_, last, fine, pseudo = run.profile.train.phases
    assert last == PROFILES["demo"].train.last
    assert fine == Phase(name="256", size=256, batch=last.batch, epochs=10, lr=last.lr)
    assert pseudo == Phase(name="pseudo", size=256, batch=last.batch, epochs=2, lr=5e-4, pseudo=True)


def test_weights_are_a_path(parse, tmp_path):
    (tmp_path / "w").mkdir()
    assert parse("--data", "sample", "--weights", str(tmp_path / "w")).weights == tmp_path / "w"


def test_a_file_of_weights_is_used_where_the_profile_trains_from_scratch(parse, tmp_path):
    """For example in profile demo: a file is named on purpose. A folder may be a setting for all runs of a machine."""
    (tmp_path / "w.safetensors").write_text("")
    for place, wanted in [(tmp_path / "w.safetensors", "imagenet"), (tmp_path, "none")]:
        assert parse("--data", "sample", "--weights", str(place)).profile.model.weights == wanted
    scratch = ("--weights", str(tmp_path / "w.safetensors"), "--set", "model.weights=none")
    assert parse("--data", "sample", *scratch).profile.model.weights == "none"


def test_a_stage_adds_flags_of_its_own(tmp_path):
    _, args = cli.parse(
        "doc", ["--out", str(tmp_path), "--data", "sample", "--to", "x"], lambda p: p.add_argument("--to")
    )
    assert args.to == "x"


@pytest.mark.parametrize("flags", [["--phase", "64"], ["--size", "64"], ["--size=64"]])
def test_a_phase_is_named_or_by_its_size(tmp_path, flags):
    _, args = cli.parse("doc", ["--out", str(tmp_path), "--data", "sample", *flags], cli.add_phase_flags)
    assert args.phase == "64"


def test_another_process_gets_the_same_run(tmp_path, monkeypatch):
    """Run.flags are complete, in any folder and on any machine; a process only adds its folds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a w").mkdir()

    def add(parser: argparse.ArgumentParser) -> None:
        cli.add_phase_flags(parser)
        parser.add_argument("--upload", action="store_true")

    flags = [
        "--data=sample",
        "--out=out",
        "--run=b",
        "--track=tensorboard",
        "--add-phase=size=128,epochs=3",
        "--add-phase=pseudo=true",
    ]
    flags += [
        "--set=train.lr=1e-3",
        "--set=model.options.classifier=true",
        "--encoder=resnet18",
        "--weights=a w",
        "--force",
    ]
    run, args = cli.parse("doc", [*flags, "--size=64", "--upload", "--engine=ray", "--workers=3", "--fold=2"], add)
    monkeypatch.chdir("/")
    again, args_again = cli.parse("doc", [*run.flags, "--fold=2"], add)
    assert (run.engine, run.workers, again.engine, again.workers) == ("ray", 3, "local", None)
    for name in ("profile", "files", "data", "folds", "force", "weights", "track", "flags"):
        assert getattr(again, name) == getattr(run, name), name
    assert (args.phase, args.upload) == (args_again.phase, args_again.upload) == ("64", True)
    assert not any("fold=" in flag or "workers" in flag or "engine" in flag for flag in run.flags)
    plain, _ = cli.parse("doc", ["--data=sample", "--weights=none"])
    assert cli.parse("doc", [*plain.flags])[0].profile == plain.profile
    assert "--force" not in plain.flags and plain.profile.model.weights == "none"


def test_hours_count_from_the_command_or_from_the_first_of_several(parse, monkeypatch):
    assert parse("--data=sample").deadline == math.inf
    now = [0.0]
    monkeypatch.setattr("time.time", lambda: 5000.0 + now[0])
    monkeypatch.setattr("time.monotonic", lambda: 70.0 + now[0])  # since the machine was switched on
    run = parse("--data=sample", "--max-hours=0.5")
    assert run.deadline == 70 + 1800
    now[0] = 1000.0  # a worker, begun later
    assert cli.parse("doc", [*run.flags])[0].deadline == run.deadline
    assert parse("--data=sample", "--max-hours=1", "--started=4000").deadline == 70 - 1000 + 3600
    assert parse("--data=sample", "--started=4000").deadline == math.inf
    monkeypatch.setattr("time.time", lambda: 10.0**9)  # the clock is put right: no hour has passed
    assert not run.is_late()
    now[0] = 1801.0
    assert run.is_late()


def test_set_help_prints_every_setting_as_these_flags_have_it(parse, capsys):
    with pytest.raises(SystemExit) as e:
        parse("--data", "sample", "--set", "help", "--set", "train.wd=0.25", "--add-phase", "size=128")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert not e.value.code
    assert lines["train.wd"] == ["0.25", "float 0..10"] and lines["train.128.size"] == ["128", "int 32..4096"]
    assert lines["folds.scheme"] == ["'coverage'", "kfold, coverage, mosaic"]
    assert lines["predict.flip"] == ["True", "bool"]
    assert lines["submit.threshold"] == ["0.5", "float or search 0..1"] and "train.phases" not in lines


def test_a_folder_without_tiles_says_where_to_get_them(parse, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="none of Kaggle's files are in it.*kaggle competitions download"):
        parse("--data", str(tmp_path / "empty"))


def test_a_folder_called_sample_has_a_cache_of_its_own(parse, tiny_competition):
    other = tiny_competition.rename(tiny_competition.with_name("sample"))
    assert parse("--data", str(other)).files.source == "sample-folder" and parse().files.source == "sample"


def test_a_tool_shows_and_takes_only_the_flags_that_it_uses(capsys):
    with pytest.raises(SystemExit):
        cli.parse("doc", ["--help"], flags=cli.MODEL_FLAGS)
    words = capsys.readouterr().out
    assert "--encoder" in words and not [
        flag for flag in ("--engine", "--workers", "--force", "--out") if flag in words
    ]
    with pytest.raises(SystemExit):
        cli.parse("doc", ["--engine", "ray"], flags=cli.MODEL_FLAGS)


def test_a_folder_a_level_too_deep_is_named(parse, tiny_competition, tmp_path):
    (tmp_path / "download").mkdir()
    tiny_competition.rename(tmp_path / "download" / "tgs")
    with pytest.raises(InputError, match="none of Kaggle's files are in it.*download/tgs has them: name that folder"):
        parse("--data", str(tmp_path / "download"))


@pytest.mark.parametrize(
    "raised, status, words",
    [
        (InputError("x.npy is missing; run prepare"), "error: x.npy is missing; run prepare", ""),
        (KeyboardInterrupt(), 130, "stopped; what is finished or saved is kept, and the same command does the rest"),
        (Terminated(), 143, "stopped; what is finished or saved is kept, and the same command does the rest"),
        (Stopped("epoch 3 is saved", 143), 143, "stopped  epoch 3 is saved"),
        (Stopped("no more hours"), 75, "stopped  no more hours"),
        (
            PermissionError(13, "no", "/d/train.zip"),
            "error: /d/train.zip: permission denied; change its permissions, or name another",
            "",
        ),
    ],
)
def test_what_a_person_can_mend_ends_in_a_sentence(raised, status, words, capsys):
    def stage(_) -> None:
        raise raised

    with warnings.catch_warnings(), pytest.raises(SystemExit) as e:
        cli.start(stage)
    assert e.value.code == status, "a text makes Python print it to stderr and exit with 1"
    assert "".join(capsys.readouterr()).strip() == words


def test_sigterm_lets_a_stage_clear_away_what_it_has_half_written(tmp_path):
    def stage(_) -> None:
        with disk.replacing(tmp_path / "x.npy") as tmp:
            tmp.write_text("half")
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as e:
        cli.start(stage)
    assert e.value.code == 143 and not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) == before


def test_work_whose_output_nobody_reads_any_more_has_not_been_done(tmp_path):
    """As with `... | head -1`: later stages must not start, and the exit status is that of SIGPIPE."""
    code = "from pipeline.salt import cli\ncli.start(lambda _: [print('x' * 1000, flush=True) for _ in range(1000)])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (128 + signal.SIGPIPE, b"")


def test_a_fault_of_the_program_keeps_its_traceback():
    def stage(_) -> None:
        raise ZeroDivisionError

    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        cli.start(stage)
