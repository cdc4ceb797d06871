"""Every command in the README, the docs and the docstrings of stages and tools: it is run here, small, or excused.

A block of commands, or a docstring, is one test: its lines run one after the other in a copy of the finished tiny run.
Sizes, epochs, folds and folders become those of that run; what takes hours, a GPU or an account is parsed and no more.
A line that is neither ours nor in EXCUSED fails.
"""

import ast
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from pipeline import __main__ as overview
from pipeline.salt import cli
from pipeline.salt.config import PROFILES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = re.compile(r"\s*(python -m pipeline|salt |salt$|\./run_all\.sh|accelerate launch)")
FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)

EXCUSED = {  # first words of a line, and why it is not run
    "cd": "the tests have folders of their own",
    "conda": "makes an environment; tests/test_environment.py compares the lists",
    "docker": "needs docker; tests/test_docker.py runs what the Dockerfile says",
    "git clone": "needs an address",
    "kaggle": "needs an account",
    "mkdocs": "tests/test_docs.py builds the site",
    ".venv/bin/pip": "gigabytes; tests/test_install.py installs the wheel",
    "pip": "gigabytes; tests/test_install.py installs the wheel",
    "python3 -m venv": "tests/test_install.py has a folder of its own",
    "python -m bench": "takes minutes to hours; tests/bench runs the benches small",
    "bench/gpu_run.sh": "tests/bench/test_gpu_run.py",
    "rclone": "needs a bucket",
    "source": "the environment is that of the tests",
    "ssh": "needs another machine",
    "tensorboard": "serves until it is stopped",
    "unzip": "a download",
    "wandb login": "needs an account",
    "./run_tests.sh": "runs this",
    ".venv/bin/ruff": "./run_tests.sh runs it",
}
PARSED = {  # flags and commands that are ours and are parsed, and why the command is not carried out
    "--upload": "needs an account; test_pipeline.py has it with a client of its own",
    "--engine": "tests/launch starts a cluster",
    "--track": "tests/training/test_tracking.py",
    "A": "the name of any run",
    "notebook": "writes into the repository; tests/test_notebook.py",
    "view": "serves until it is stopped; tests/viewer",
}
INLINE = "within the text"  # these are parsed, and no more: they stand there without what comes before them
FOLDS, PHASES = 2, {"64": "32", "96": "48", "128": "32", "224": "48"}  # of the tiny run


def blocks() -> Iterator[tuple[str, list[str]]]:
    """(page:line, its commands) of every block in the pages and every docstring with commands."""
    for page in PAGES:
        text, name = page.read_text(), str(page.relative_to(ROOT))
        python = ""
        for match in FENCED.finditer(text):
            line, language, block = text[: match.start()].count("\n") + 1, match[1], textwrap.dedent(match[2])
            if language in ("bash", "sh", "shell", "console"):
                yield f"{name}:{line}", whole_lines(block)
            elif language == "python":
                python += block
            else:
                hidden = [row for row in block.splitlines() if OURS.match(row)]
                assert language == "text" or not hidden, f"{name}:{line}: commands stand in a block of bash: {hidden}"
        if python:
            yield f"{name}: Python", [shlex.join(["python", "-c", python])]
        inline = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
        if inline := [command for command in inline if OURS.match(command) and "..." not in command]:
            yield f"{name}: {INLINE}", inline
    for path in sorted([*ROOT.glob("pipeline/*.py"), *ROOT.glob("pipeline/tools/*.py")]):
        lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
        commands = [re.split(r" {3,}", line.strip())[0] for line in lines if OURS.match(line)]
        if commands:
            yield str(path.relative_to(ROOT)), commands


def whole_lines(block: str) -> list[str]:
    """The lines of a block; those that a backslash or a quotation mark leaves open are joined."""
    lines, open_line = [], ""
    for line in block.replace("\\\n", " ").splitlines():
        open_line += line
        try:
            shlex.split(open_line, comments=True)
        except ValueError:  # No closing quotation
            open_line += "\n"
            continue
        lines.append(open_line)
        open_line = ""
    assert not open_line, f"a quotation mark is not closed: {open_line}"
    return lines


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, which && ; or | part; without comments and assignments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&;|"):
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words:
                yield words
            words = []
        else:
            words.append(word)


def ours(words: list[str]) -> list[str] | None:
    """Words of a command of the package as `salt` takes them, None for anything else."""
    if words[0] == "sbatch":  # what it is to run is one word
        return ours(shlex.split(words[words.index("--wrap") + 1]))
    if words[:2] == ["accelerate", "launch"]:
        return ours(["python", *words[words.index("-m") :]])
    if words[0] == "salt":
        return words[1:]
    if words[0] == "./run_all.sh":
        return ["run", *words[1:]]
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] == "pipeline":
        module = words[2].removeprefix("pipeline").removeprefix(".tools").removeprefix(".")
        return [*filter(None, [module]), *words[3:]]
    return None


def excuse(words: list[str]) -> str | None:
    return next((why for start, why in EXCUSED.items() if f"{shlex.join(words)} ".startswith(f"{start} ")), None)


def small(words: list[str]) -> list[str]:
    """The flags with folds, phases, sizes and epochs of the tiny run, and its folders."""
    line = " ".join(f"{word}\0" for word in words)
    for old, new in PHASES.items():
        line = re.sub(rf"(--phase[ =\0]+|train\.){old}\b", rf"\g<1>{new}", line)
        if words and words[0] not in ("draw", "summary"):  # where it is not a phase
            line = re.sub(rf"(--size[ =\0]+){old}\b", rf"\g<1>{new}", line)
    line = re.sub(r"\bsize=\d+", "size=80", line)
    line = re.sub(r"\bepochs=\d+", "epochs=1", line)
    line = re.sub(
        r"(--fold[ =\0]+)(\d+|\$\w+)", lambda m: m[1] + str(int(m[2]) % FOLDS if m[2].isdecimal() else 0), line
    )
    line = re.sub(rf"(--run[ =\0]+)({'|'.join(PROFILES)})\0", r"\1demo\0", line)  # a run of that profile
    if words and words[0] in {*overview.ALL, "run", "export"}:  # they train, or need what was trained
        line = re.sub(r"(--encoder[ =\0]+)\w+", r"\1test_resnet", line)
    return [word.strip() for word in line.split("\0") if word.strip()]


def pair(words: list[str], flag: str) -> list[str]:
    """A flag and its value, if it is there."""
    return words[words.index(flag) :][:2] if flag in words else []


class OnlyParsed(Exception):
    """The flags are right; the command is not carried out."""


def carry_out(words: list[str], run, only_parse: bool) -> None:
    """Give one of our commands in the folder of the tiny run. InputError or SystemExit where it is wrong."""
    if "--encoder" in words:  # a small one is trained in its place
        cli.parse("", ["--data=sample", *pair(words, "--model"), *pair(words, "--encoder")])
    words = small(words)
    for flag, value in {"--data": run.data, "--out": ".", "--weights": "."}.items():
        if flag in words and re.fullmatch(r"[A-Z]+|/.*", words[words.index(flag) + 1]):  # DIR, /mnt/salt
            words[words.index(flag) + 1] = value
    profile = words[words.index("--profile") + 1] if "--profile" in words else "demo"
    only_parse = only_parse or profile != "demo" or any(word.split("=")[0] in PARSED for word in words)
    settings = [setting for setting in run.settings if not ("--model" in words and "model.options" in setting)]
    if words.count("--run") == 1:  # it is trained anew
        settings.append("train.epochs=1")
    base = [f"--data={run.data}", "--profile=demo", *(f"--set={setting}" for setting in settings)]
    parse = cli.parse

    def parse_small(doc, argv, add=lambda p: None, flags=tuple(cli.FLAGS), **how):
        ours = [flag for flag in base if flag[2:].split("=")[0] in flags]
        parsed = parse(doc, [*argv] if only_parse else [*ours, *argv], add, flags, **how)
        if only_parse:
            raise OnlyParsed
        return parsed

    with (
        mock.patch.object(cli, "parse", parse_small),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(OnlyParsed),
    ):
        try:
            overview.main(words)
        except SystemExit as e:  # --help, --set help
            assert not e.code, f"exit status {e.code}"


BLOCKS = dict(blocks())


def test_the_commands_are_found_where_they_are_looked_for():
    readme = [line for where, lines in BLOCKS.items() if where.startswith("README.md") for line in lines]
    assert any(line.startswith("./run_all.sh") for line in readme)
    assert "pipeline/train.py" in BLOCKS and any(where.startswith("docs/scaling.md") for where in BLOCKS)
    words = [*simple_commands("A=1 python -m pipeline.train --fold 3 && ls 'a b'; true   # && never")]
    assert words == [["python", "-m", "pipeline.train", "--fold", "3"], ["ls", "a b"], ["true"]]
    assert ours(words[0]) == ["train", "--fold", "3"] and ours(words[1]) is None and excuse(words[1]) is None
    assert whole_lines("a 'b\nc' \\\n d\ne  # it's") == ["a 'b\nc'   d", "e  # it's"]
    assert small(["train", "--fold", "3", "--size", "224", "--add-phase", "size=256,epochs=10"]) == [
        *("train", "--fold", "1", "--size", "48", "--add-phase", "size=80,epochs=1")
    ]


@pytest.mark.parametrize("where", BLOCKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # onnx's and matplotlib's; their own tests look at them
def test_every_command_runs(where, tiny, monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.chdir(tiny.out)
    make_inputs()
    for line in BLOCKS[where]:
        for words in simple_commands(line):
            if (flags := ours(words)) is not None:
                carry_out(flags, tiny, only_parse=where.endswith(INLINE))
            elif words[:2] == ["python", "-c"]:
                exec(words[2], {})
            elif words[:2] == ["python", "-m"] and not excuse(words):
                monkeypatch.setattr(sys, "argv", words[2:])
                runpy.run_module(words[2], run_name="__main__")
            else:
                assert excuse(words), f"{where}: {line.strip()}: run it here, or say in EXCUSED why not"
                if words[2:3] and words[2].split(".")[0] == "bench":
                    assert importlib.util.find_spec(words[2])
                if words[0].startswith(("./", "bench/")):
                    assert (ROOT / words[0]).exists()


def make_inputs() -> None:
    """What the pages take as given: a data set of one's own, pictures, a volume of SEG-Y."""
    for part, folder in {"train": "my-tiles", "test": "my-tiles/test"}.items():
        with zipfile.ZipFile(f"data/sample/{part}.zip") as archive:
            archive.extractall(folder)
    tile = np.load("data/cache/sample/test.npy", mmap_mode="r")[0]
    for name in ("tile.png", "section.png", "section.tif"):
        Image.fromarray(np.tile(tile, (1, 2))).save(name)
    np.save("map.npy", tile)
    if importlib.util.find_spec("segyio"):
        import segyio

        cube = np.random.default_rng(0).normal(size=(121, 3, 64)).astype(np.float32)
        segyio.tools.from_array3D("volume.sgy", cube)  # inlines 1 to 121
