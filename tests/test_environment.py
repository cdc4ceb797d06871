"""The packages are named once, in pyproject.toml; what installs them elsewhere defers to it."""

import re
import tomllib
from pathlib import Path

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


def _name(requirement: str) -> str:
    """As PyPI compares names: lower case, - for _ and ."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()
