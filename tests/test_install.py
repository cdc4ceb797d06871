"""Installed from a wheel, without the clone, `salt` works in any folder and writes there, never into its own code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __main__ as overview
from pipeline.salt.errors import InputError

ROOT = Path(__file__).parents[1]
MADE = ("__pycache__", "*.egg-info", "build")


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The folder used as site-packages; bin/salt is in it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site-packages")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns(*MADE))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "dist"), str(source)]
    ended = subprocess.run(wheel, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (file,) = (source / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--target", str(site), str(file)], check=True)
    return site


def salt(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("KAGGLE_KERNEL_RUN_TYPE", None)
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "salt"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_every_file_of_the_package(installed):
    tracked = subprocess.run(["git", "ls-files", "pipeline"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pipeline/salt/reporting/report.html.jinja" in tracked.stdout
    assert [name for name in tracked.stdout.split() if not (installed / name).exists()] == []


def test_results_go_to_the_current_folder_and_never_into_the_installed_code(installed, empty, tmp_path):
    before = files(installed)
    here = tmp_path / "here"
    here.mkdir()
    flags = [flag for flag in empty.flags() if not flag.startswith("--out=")]
    ended = salt(installed, here, "prepare", *flags)
    assert ended.returncode == 0, ended.stderr
    assert "prepared data/cache/sample" in ended.stdout
    assert {path.split("/")[0] for path in files(here)} == {"data"}
    ended = salt(installed, here, *flags)
    assert f"out      {here}\n" in ended.stdout and "done" in ended.stdout
    assert files(installed) == before


def test_the_installed_copy_finds_a_run_up_to_date_and_makes_its_page(installed, finished, tmp_path):
    """`salt run` goes through every stage; the report needs its template."""
    out = shutil.copytree(finished[0].out, tmp_path / "out")
    (out / "submissions/demo/report.html").unlink()
    flags = [flag for flag in finished[0].flags() if not flag.startswith("--out=")]
    ended = salt(installed, out, "run", *flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("fresh    ") >= 4 and "submissions/demo/report.html" in ended.stdout
    assert (out / "submissions/demo/report.html").stat().st_size > 10_000


def test_an_unknown_command_is_one_sentence(installed, tmp_path):
    ended = salt(installed, tmp_path, "trian")
    assert ended.returncode == 1 and ended.stderr.startswith("error: there is no command 'trian'; did you mean train")
    assert not any(tmp_path.iterdir())


def test_every_stage_and_tool_is_a_command():
    folders = {"pipeline": ROOT / "pipeline", "pipeline.tools": ROOT / "pipeline/tools"}
    there = {
        path.stem: f"{package}.{path.stem}"
        for package, folder in folders.items()
        for path in folder.glob("*.py")
        if not path.stem.startswith("__")
    }
    assert overview.commands() == there and "run" not in there
    words = overview.describe_commands()
    assert all(f"\n  {name} " in words for name in [*there, "run"])


def test_run_is_run_all_sh():
    """Both list the stages; the lists are equal."""
    lines = (ROOT / "run_all.sh").read_text().splitlines()
    in_shell = [line.removeprefix("stage ").partition('"$@"')[0].split() for line in lines if line.startswith("stage ")]
    assert [command.split() for command in overview.ALL] == in_shell


def test_a_wrong_flag_of_run_is_said_before_anything_is_done(tmp_path):
    with pytest.raises(InputError, match="no profile is called 'dmeo'"):
        overview.main(["run", f"--out={tmp_path / 'out'}", "--data=sample", "--profile=dmeo"])
    assert not (tmp_path / "out").exists()
