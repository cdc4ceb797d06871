"""gpu_run.sh and the tiles it packs: each step runs once, and failed steps run again."""

import os
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bench.__main__ as main
from bench import pack_tiles
from pipeline.salt.tiles import competition

GPU_RUN = Path(pack_tiles.__file__).with_name("gpu_run.sh")


@pytest.fixture
def gpu_machine(tmp_path, made_once):
    """Its folder, and a function that runs the script there.

    Python is replaced by a script that only records its arguments, and that fails for a training while the folder has a
    file `broken`.
    """
    python, log = tmp_path / "python", tmp_path / "commands"
    python.write_text(
        f'#!/bin/bash\necho "$@" >> {log}\n'
        f'if [ -e {tmp_path}/broken ] && [[ "$*" == *pipeline.train* ]]; then exit 3; fi\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def run(script: Path = GPU_RUN) -> tuple[str, list[str]]:
        settings = {"PYTHON": str(python), "SALT_TILES": str(made_once), "EPOCHS": "3"}
        done = subprocess.run(
            [script, tmp_path / "work", tmp_path / "results"],
            env=os.environ | settings,
            text=True,
            check=True,
            capture_output=True,
        )
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return done.stdout, [line for line in lines if "pip install" not in line]

    return tmp_path, run


def test_each_chunk_runs_once_and_what_failed_again(gpu_machine):
    folder, run = gpu_machine
    (folder / "broken").touch()
    output, commands = run()
    stages = [f"-P -m pipeline.{stage}" for stage in ("prepare", "make_folds", "train", "predict", "submit", "report")]
    others = [line.partition(" --")[0] for line in commands if "-m bench" not in line]
    assert others == [*stages, "-m pytest tests/training/test_on_gpu.py"]
    benches = [name for line in commands if "-m bench " in line for name in line.removeprefix("-m bench ").split()]
    assert sorted(benches) == sorted({*main.BENCHES} - {"cpu_depthwise", "viewer"})
    experiments = [line for line in commands if "-m bench.experiments" in line]
    assert experiments == ["-m bench.experiments.operators", "-m bench.experiments.models"]
    training = next(line for line in commands if "pipeline.train" in line)
    assert all(words in training for words in ("--profile night", "--set train.epochs=3", "--workers 5"))
    assert "run_folds" not in training and "--weights none" in training
    assert "train ended with status 3" in output and output.splitlines()[-1].startswith("failed: train")
    (folder / "broken").unlink()
    output, commands = run()
    assert len(commands) == 1 and "pipeline.train" in commands[0] and output.splitlines()[-1] == "all is done"
    assert run()[1] == [] and (folder / "results" / "log").exists()


def test_weights_of_any_kind_are_trained_from(gpu_machine):
    folder, run = gpu_machine
    copy = folder / "repository"
    shutil.copytree(GPU_RUN.parent, copy / "bench")
    (copy / ".weights").mkdir()
    (copy / ".weights/.gitignore").write_text("*")
    assert "random weights" in run(copy / "bench/gpu_run.sh")[0]
    shutil.rmtree(folder / "work")
    (copy / ".weights/se_resnext50_32x4d-a260b3a4.pth").touch()
    output, commands = run(copy / "bench/gpu_run.sh")
    assert "random weights" not in output
    assert [line for line in commands if "pipeline.train" in line and "--weights .weights" in line]


def test_benches_are_not_repeated_on_a_machine_that_has_lost_its_files(gpu_machine):
    folder, run = gpu_machine
    run()
    copy = folder / "repository"
    shutil.copytree(GPU_RUN.parent, copy / "bench")
    shutil.copytree(folder / "results", copy / ".gpu")
    shutil.rmtree(folder / "work")
    output, commands = run(copy / "bench/gpu_run.sh")
    assert commands and not [line for line in commands if "-m bench" in line]
    assert output.splitlines()[-1] == "all is done"


def test_its_flags_are_those_of_the_stages():
    from pipeline.salt import cli

    [flags] = [line for line in GPU_RUN.read_text().split("\n    chunk") if '"pipeline.$stage"' in line]
    words = flags.partition('"pipeline.$stage"')[2].partition("\ndone")[0].replace("\\\n", " ")
    for variable, value in {
        "$SALT_TILES": "sample",
        "$work/out": "out",
        "$profile": "night",
        "$weights": "none",
        "$workers": "5",
        "${settings[@]}": "--set train.epochs=3 --set run_folds=4",
    }.items():
        words = words.replace(f'"{variable}"', value)
    run, _ = cli.parse(None, words.split())
    assert {phase.epochs for phase in run.profile.train.phases} == {3} and run.folds == (0, 1, 2, 3)


def test_without_arguments_it_says_how_it_is_used():
    done = subprocess.run([GPU_RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "bench/gpu_run.sh pack TILES" in done.stdout
    assert "SALT_COMMIT" in done.stdout and "set -euo" not in done.stdout


def test_packed_tiles_are_the_same_tiles(made_once, tmp_path):
    pack_tiles.main(str(made_once), str(tmp_path / "packed"), "3")
    (before, _), (after, _) = competition.read(made_once), competition.read(tmp_path / "packed")
    assert np.array_equal(before.train_images, after.train_images)
    assert np.array_equal(before.train_masks, after.train_masks)
    assert len(after.test_images) == 3
    with zipfile.ZipFile(made_once / "train.zip") as old, zipfile.ZipFile(tmp_path / "packed" / "train.zip") as new:
        masks = [name for name in old.namelist() if "masks/" in name]
        assert all(old.read(name) == new.read(name) for name in masks) and sorted(old.namelist()) == new.namelist()
