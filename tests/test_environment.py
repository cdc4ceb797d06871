"""pyproject.toml alone names the packages, and results record the versions they were made with."""

import platform
import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from pipeline import predict, submit
from pipeline.salt import artifacts, environment

ROOT = Path(__file__).parents[1]


def test_conda_installs_the_same_list():
    text = (ROOT / "environment.yml").read_text()
    listed = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip().startswith("- ")]
    python, pip, pip_list, *deferred = [entry for entry in listed if entry != "conda-forge"]
    assert (pip, pip_list, deferred) == ("pip", "pip:", ["--constraint constraints.txt", "--editable ."])
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert python.startswith(f"python{required}")


def test_what_is_needed_has_a_tested_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(need for extra in extras for need in extra)]
    assert {_name(need) for need in wanted} - {project["name"]} <= pinned


def test_the_tested_versions_can_be_installed_with_the_oldest_python():
    """Debian 12 has Python 3.11.2, for which pip would not find a version that requires 3.11.5, and gives up."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = required.removeprefix(">=") + ".0"
    checked = 0
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        try:
            package = metadata(name)
        except PackageNotFoundError:
            continue
        if package["Version"] == version:
            assert SpecifierSet(package.get("Requires-Python") or "").contains(oldest), line
            checked += 1
    if not checked:
        pytest.skip("none of the tested versions is installed")


# ---- what results were made with


@pytest.mark.parametrize(
    "then, names, expected",
    [
        ({"torch": "2.11.0", "numpy": "2.4.1"}, (), ""),
        ({"torch": "2.11.1", "numpy": "2.4.1"}, (), "torch 2.11.1 (here 2.11.0)"),
        ({"torch": "2.11.1+cu128"}, ("torch",), ""),  # another build of another mending of the same release
        ({"torch": "2.10.0"}, ("torch",), "torch 2.10.0 (here 2.11.0)"),
        ({"torch": "2.1"}, ("torch",), "torch 2.1 (here 2.11.0)"),
        ({"torch": "2.11"}, ("torch",), ""),
        ({"numpy": "1.26.0"}, ("torch",), ""),  # arrays are plain
        ({"torch": "1.0", "timm": "1.0.20"}, (), "torch 1.0 (here 2.11.0), timm 1.0.20 (here none)"),
    ],
)
def test_what_differs_is_named_and_what_cannot_matter_is_not(then, names, expected):
    assert environment.differences(then, {"torch": "2.11.0", "numpy": "2.4.1"}, names) == expected


def test_every_artifact_says_what_it_was_made_with(finished):
    out = finished[0].out
    made = {path: sidecar for path in out.rglob("*.*") if (sidecar := artifacts.read_sidecar(path))}
    assert len(made) > 20
    for path, sidecar in made.items():
        assert {"python", "torch", "fastai", "timm", "numpy"} <= sidecar["versions"].keys(), path
        assert sidecar["machine"] == f"{platform.system()} {platform.machine()}", path
        assert "device" in sidecar or not re.search(r"fold_\d/\d+\.(csv|safetensors|last)", str(path)), path


def test_weights_of_another_release_are_used_and_said_once(tiny, monkeypatch):
    versions = environment.versions()
    environment.say.cache_clear()
    assert "note" not in tiny(predict, extra=("--force",))
    other = versions | {"torch": "99.1.0", "python": "2.7", "numpy": "1.0"}
    monkeypatch.setattr(environment, "versions", lambda: other)
    said = tiny(predict, submit, extra=("--force",))
    assert [line for line in said.splitlines() if line.startswith("note")] == [
        f"note     weights were made with torch {versions['torch']} (here 99.1.0): results may differ slightly"
    ], "once for two folds, and nothing of arrays and tables"


def _name(requirement: str) -> str:
    """A name as PyPI compares it: lower case, - instead of _ and ."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()
