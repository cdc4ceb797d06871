"""The Dockerfile uses files that are there, pins its packages, and does not run as root. No test needs docker."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = [
    line.split(maxsplit=1)
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def step(name: str) -> list[str]:
    return [text for step, text in STEPS if step == name]


def test_what_it_copies_is_there_and_docker_is_let_see_it():
    copied = [source for text in step("COPY") for source in text.split()[:-1]]
    assert copied and all((ROOT / source).exists() for source in copied)
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignore[0] == "*" and {line[1:] for line in ignore if line.startswith("!")} == {*copied}


def test_the_build_needs_nothing_that_it_does_not_copy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = {source for text in step("COPY") for source in text.split()[:-1]}
    assert {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt", "pipeline"} <= copied


def test_every_version_is_pinned():
    installs = [text for text in step("RUN") if "pip install" in text]
    assert "--constraint constraints.txt" in installs[0], "the packages"
    assert all("--no-deps" in text for text in installs[1:]), "after them the code alone"
    (image,) = step("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)[1]
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert [*map(int, version.split("."))] >= [*map(int, lowest.split("."))]


def test_it_runs_as_a_user_in_the_mounted_folder():
    assert step("USER") == ["1000"] and "useradd --uid 1000 salt" in step("RUN")[-1]
    assert [text for name, text in STEPS if name == "WORKDIR"][-1] == "/work"
    names = [name for name, _ in STEPS]
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN"), "what is installed is root's"


def test_its_command_is_the_console_script():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    (command,) = step("CMD")
    assert re.match(r'\["(\w+)"', command)[1] in scripts
    usage = (ROOT / "Dockerfile").read_text().splitlines()[0]
    assert shlex.split(usage.removeprefix("# "))[-3:] == ["salt", "salt", "run"]
