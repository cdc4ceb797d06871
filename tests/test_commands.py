"""Every command in the README, the docs, and the docstrings of stages and tools is run here, small, or excused.

Each page is one test: its commands and its Python are run in order in a copy of the finished tiny run, with that run's
sizes, epochs, folds and folders. What takes hours, a GPU or an account is only parsed. Any line that is neither ours
nor in EXCUSED fails.
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
from typing import Literal, NamedTuple
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from pipeline import __main__ as overview
from pipeline.salt import cli
from pipeline.salt.config import PROFILES
from pipeline.salt.models.encoders.table import ENCODERS
from pipeline.salt.models.encoders.weights import addresses

ROOT = Path(__file__).parents[1]
DOCSTRINGS = sorted([*ROOT.glob("pipeline/*.py"), *ROOT.glob("pipeline/tools/*.py")])
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "EXPERIMENTS")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *DOCSTRINGS,
]
OURS = re.compile(r"\s*(python -m pipeline|salt |salt$|\./run_all\.sh|accelerate launch)")
FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)

EXCUSED = {  # first words of a line, and why it is not run
    "cd": "the tests have folders of their own",
    "conda": "makes an environment; tests/test_environment.py compares the lists",
    "curl": "a download, of an address that is an encoder's: see below",
    "docker": "needs docker; tests/test_docker.py reads the Dockerfile",
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
    "--port": "may be taken on this machine; tests/viewer asks for free ones",
    "--push": "needs an account; tests/test_notebooks.py has it with a client of its own",
}
FOLDS, PHASES = 2, {"64": "32", "96": "48", "128": "32", "224": "48"}  # of the tiny run
TWO_FOLDS = ("demo", "quick")  # runs that pages compare and join need the same folds; of the others one is enough


class Text(NamedTuple):
    """A piece of a page: a line of commands, or Python."""

    line: int
    kind: Literal["run", "parse", "python"]  # parse: it stands within the text, or beside others it is one way of many
    text: str


def texts(page: Path) -> Iterator[Text]:
    """All commands of a page, in order; those in docstrings and within sentences are only parsed."""
    text = page.read_text()
    if page.suffix == ".py":
        for line in (ast.get_docstring(ast.parse(text)) or "").splitlines():
            if OURS.match(line):
                yield Text(text[: text.index(line)].count("\n") + 1, "parse", re.split(r" {2,}", line.strip())[0])
        return
    for match in FENCED.finditer(text):
        first, block = text[: match.start()].count("\n") + 2, textwrap.dedent(match[2])
        if match[1] in ("bash", "sh", "shell", "console"):
            yield from (Text(first, "run", command) for command in whole_lines(block))
        elif match[1] == "python":
            yield Text(first, "python", block)
        elif match[1] != "text":
            hidden = [row for row in block.splitlines() if OURS.match(row)]
            assert not hidden, f"{page}:{first}: commands stand in a block of bash: {hidden}"
    for match in re.finditer(r"`([^`\n]+)`", FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)):
        if OURS.match(match[1]) and "..." not in match[1]:
            yield Text(text[: match.start()].count("\n") + 1, "parse", match[1])


def whole_lines(block: str) -> list[str]:
    """The lines of a block, joined where a backslash or an open quotation mark continues them."""
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
    """The words of each command of a line, split at && ; and |, without comments and assignments."""
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
    """Words of a command of this package, as for `salt`; None for any other command."""
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
    """The flags, with the tiny run's folds, phases, sizes, epochs and folders."""
    line = " ".join(f"{word}\0" for word in words)
    for old, new in PHASES.items():
        line = re.sub(rf"(--phase[ =\0]+|train\.){old}\b", rf"\g<1>{new}", line)
        if words and words[0] not in ("draw", "summary"):  # where it is not a phase
            line = re.sub(rf"(--size[ =\0]+){old}\b", rf"\g<1>{new}", line)
    line = re.sub(r"\bsize=\d+", "size=80", line)
    line = re.sub(r"\bepochs=\d+", "epochs=1", line)
    line = re.sub(r"(--fold[ =\0]+)(\d+)", lambda m: m[1] + str(int(m[2]) % FOLDS), line)
    line = re.sub(rf"(--run[ =\0]+)({'|'.join(PROFILES)})\0", r"\1demo\0", line)  # a run of that profile
    if words and words[0] in {*overview.ALL, "run", "export"}:  # they train, or need what was trained
        line = re.sub(r"(--encoder[ =\0]+)\w+", r"\1test_resnet", line)
    return [word.strip() for word in line.split("\0") if word.strip()]


def pair(words: list[str], flag: str) -> list[str]:
    """A flag and its value, if present."""
    return words[words.index(flag) :][:2] if flag in words else []


class OnlyParsed(Exception):
    """Raised once the flags are parsed, instead of running the command."""


def carry_out(words: list[str], run, only_parse: bool) -> None:
    """Run one of our commands in the tiny run's folder. InputError or SystemExit if it is wrong."""
    profile = [*pair(words, "--profile"), "demo", "demo"][1]
    only_parse = only_parse or profile != "demo" or any(word.split("=")[0] in PARSED for word in words)
    if "--encoder" in words:  # a small one is trained in its place
        cli.parse("", ["--data=sample", *pair(words, "--model"), *pair(words, "--encoder")])
    words = [re.sub(r"^\$\w+$", "0", word) for word in words]  # $SLURM_ARRAY_TASK_ID
    words = words if only_parse else small(words)
    for flag, value in {"--data": "my-tiles" if only_parse else run.data, "--out": ".", "--weights": "."}.items():
        if flag in words and re.fullmatch(r"[A-Z]+|[/~].*|.*\.pth", words[words.index(flag) + 1]):  # DIR, /mnt/salt
            words[words.index(flag) + 1] = value
    settings = [setting for setting in run.settings if not ("--model" in words and "model.options" in setting)]
    if any(word.startswith("folds.file=") for word in words):  # of three folds, as the demo has
        settings.append("folds.k=3")
    if words.count("--run") == 1:  # it is trained anew
        settings += ["train.epochs=1", *["run_folds=1"] * (pair(words, "--run")[1] not in TWO_FOLDS)]
    base = [f"--data={run.data}", "--profile=demo", *(f"--set={setting}" for setting in settings)]
    base = ["--profile=blog", "--set=run_folds=2"] if only_parse else base[:1] if words.count("--run") > 1 else base
    parse = cli.parse

    def parse_small(doc, argv, add=lambda p: None, flags=tuple(cli.FLAGS), **how):
        parsed = parse(doc, [*(flag for flag in base if flag[2:].split("=")[0] in flags), *argv], add, flags, **how)
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


def test_the_commands_are_found_where_they_are_looked_for():
    readme = [*texts(ROOT / "README.md")]
    assert any(kind == "run" and text.startswith("./run_all.sh") for _, kind, text in readme)
    assert {kind for _, kind, _ in readme} == {"run", "parse", "python"}
    assert [*texts(ROOT / "pipeline/train.py")][1].text == "python -m pipeline.train --phase 128 --fold 2"
    words = [*simple_commands("A=1 python -m pipeline.train --fold 3 && ls 'a b'; true   # && never")]
    assert words == [["python", "-m", "pipeline.train", "--fold", "3"], ["ls", "a b"], ["true"]]
    assert ours(words[0]) == ["train", "--fold", "3"] and ours(words[1]) is None and excuse(words[1]) is None
    assert whole_lines("a 'b\nc' \\\n d\ne  # it's") == ["a 'b\nc'   d", "e  # it's"]
    assert small(["train", "--fold", "3", "--size", "224", "--add-phase", "size=256,epochs=10"]) == [
        *("train", "--fold", "1", "--size", "48", "--add-phase", "size=80,epochs=1")
    ]


def test_the_weights_to_fetch_are_those_that_are_looked_for():
    commands = [
        words for page in PAGES for text in texts(page) if text.kind == "run" for words in simple_commands(text.text)
    ]
    fetched = [words[-1] for words in commands if words[0] == "curl"]
    known = [url for encoder in ENCODERS for url in addresses(encoder)]
    assert len(fetched) > 1 and not {*fetched} - {*known}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if [*texts(page)]], ids=lambda page: str(page.relative_to(ROOT))
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # onnx's and matplotlib's; their own tests look at them
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a page's lines may leave a file open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_command_runs(page, tiny, monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # the viewer's ends with Ctrl-C
    monkeypatch.chdir(tiny.out)
    make_inputs()
    names: dict = {}  # of the page's Python
    for line, kind, text in texts(page):
        print(f"{page.name}:{line}: {text}")  # pytest shows the last one where it fails
        if kind == "python":
            exec(text, names)
            continue
        for words in simple_commands(text):
            if (flags := ours(words)) is not None:
                carry_out(flags, tiny, only_parse=kind == "parse")
            elif words[:2] == ["python", "-c"]:
                exec(words[2], {})
            elif words[:2] == ["python", "-m"] and not excuse(words):
                monkeypatch.setattr(sys, "argv", words[2:])
                runpy.run_module(words[2], run_name="__main__")
            else:
                assert excuse(words), f"{page.name}:{line}: {text}: run it here, or say in EXCUSED why not"
                if words[2:3] and words[2].split(".")[0] == "bench":
                    assert importlib.util.find_spec(words[2])
                if words[0].startswith(("./", "bench/")):
                    assert (ROOT / words[0]).exists()


def make_inputs() -> None:
    """What the pages take for granted: a data set of one's own, pictures, a SEG-Y volume."""
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
        segyio.tools.from_array2D("line.sgy", cube[:, 0])
