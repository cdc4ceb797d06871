"""Write the Kaggle notebooks, their metadata, and a data set with the code that they need.

    python -m pipeline.tools.notebook                          into kaggle/
    python -m pipeline.tools.notebook --weights DIR            ... with ImageNet weights from a folder or a file
    python -m pipeline.tools.notebook --profile attention      ... that train with another profile than blog
    python -m pipeline.tools.notebook --push                   ... and push both with the kaggle client,
                                                               which starts the notebook

writes  kaggle/tgs_salt.ipynb, kernel-metadata.json            trains, predicts, submits, reports
        kaggle/inference/, the same two files                  predicts and submits, with folds trained elsewhere
        kaggle/dataset/: code/, weights/, dataset-metadata.json
below the current folder. The notebooks in the repository are those that the first command writes.

The stages are those of run_all.sh. No wheel is needed: Kaggle's image lacks only pretrainedmodels, and timm's copy of
the same encoder is used instead.
"""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from pipeline.salt import artifacts, cli, disk
from pipeline.salt.artifacts import CODE
from pipeline.salt.config import PROFILES
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import competition

ROOT = CODE.parent
NOBODY = "INSERT_USERNAME"
DATASET, NOTEBOOK, INFERENCE = "tgs-salt-code", "tgs-salt", "tgs-salt-inference"
CODE_FILES = ("pipeline", "run_all.sh", "environment.sh", "LICENSE")
WAIT, POLL = 900, 5  # seconds: longest wait for Kaggle to unpack the data set; time between two checks
HOURS = 11  # of the 12 that Kaggle gives a session with a GPU; the last one is left for saving

INTRO = """# Salt segmentation: {what}

**Before you run it** (the second code cell reports what is missing):

- *Add Input*: the competition *TGS Salt Identification Challenge* (accept its rules first), {inputs}.
- *Settings > Accelerator*: **GPU T4 x2**. *Internet* may stay off.
- Then *Run All*, or *Save Version > Save & Run All*, which keeps running after you close the browser.

{more}
"""
GO_ON = (
    f"A session lasts 12 hours at most. After {HOURS} hours, the work stops by itself and everything is saved in this "
    "notebook's output. In the next session, add that output as input and run the notebook again: it resumes where it "
    "stopped."
)
SETUP = """import shutil
import sys
import tempfile
from pathlib import Path

FLAGS = "{flags}"  # for every stage; you can add: --profile blog  --fold 0  --run NAME  --set train.epochs=5

code = next((file.parent for file in sorted(Path("/kaggle/input").glob("**/run_all.sh"))), None)
if code is None:  # the data set is mounted as uploaded, in zips
    for packed in sorted(Path("/kaggle/input").glob("**/code.zip"))[:1]:
        code = Path(tempfile.mkdtemp(), "code")
        for part in packed.parent.glob("*.zip"):
            shutil.unpack_archive(part, code.with_name(part.stem))
assert code, "the code is missing: Add Input > Your Work > Datasets > TGS salt code"
sys.path.insert(0, str(code))"""
BEGIN = """from pipeline.tools.session import Session

session = Session(FLAGS)
session.preflight()"""

PREDICT = """if session.is_done():  # use the trained folds as a library; predict() takes your own files, too
    from pipeline import load_run
    from pipeline.salt.reporting.figures import grid

    images = session.test_images(4)
    masks, probs = load_run(session.run_folder()).predict(images)
    display(grid({"image": images, "probability": probs, "mask": masks}))"""


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("--user", metavar="NAME", help="your name on Kaggle (default: from the kaggle client)")
        parser.add_argument("--push", action="store_true", help="push data set and notebook with the kaggle client")

    run, args = cli.parse(__doc__, argv, add, ("profile", "weights"))
    user = args.user or _kaggle_user() or NOBODY
    folder = Path("kaggle").resolve()
    if not (ROOT / "run_all.sh").exists():
        raise InputError(f"{ROOT} is not a clone of the repository; write the notebooks from a clone")
    profile = f"--profile {args.profile}" if args.profile else ""
    inference = folder / "inference" / "tgs_salt_inference.ipynb"
    _write_notebook(folder / "tgs_salt.ipynb", training_cells(profile), user, NOTEBOOK, [])
    _write_notebook(inference, inference_cells(profile), user, INFERENCE, [f"{user}/{NOTEBOOK}"])
    chosen = [run.profile] if args.profile else [p for p in PROFILES.values() if p.needs_gpu]
    _write_dataset(folder / "dataset", weights_at_hand([p.model.encoder for p in chosen], run.weights), user)
    commands = [
        ["kaggle", "datasets", "create", "--dir-mode", "zip", "-p", display_path(folder / "dataset")],
        ["kaggle", "kernels", "push", "-p", display_path(folder)],
    ]
    if user == NOBODY:
        print(f"note     {NOBODY} stands for your name on Kaggle: log in with the kaggle client, or give --user NAME")
    if args.push:
        _push(commands, user)
    else:
        create, push = (" ".join(command) for command in commands)
        unpacked = f"once kaggle datasets status {user}/{DATASET} says ready; the notebook then runs at once"
        print(f"next     {create}\n         {push}    # {unpacked}")


def stages() -> list[tuple[str, list[str], str]]:
    """(stage, its own flags, what it makes) for each line of run_all.sh."""
    lines = re.findall(r'^stage (\w+) +([^"]*)"\$@" +# (.*)$', (ROOT / "run_all.sh").read_text(), re.MULTILINE)
    return [(name, flags.split(), re.sub(r" {2,}", "  ", about)) for name, flags, about in lines]


def training_cells(flags: str) -> list[str]:
    """The cells of the notebook that runs all stages; those that begin with # are text."""
    inputs = "and the data set *TGS salt code*; to resume, also this notebook's own output"
    return [
        INTRO.format(what="training", inputs=inputs, more=GO_ON),
        SETUP.format(flags=f"--max-hours {HOURS} {flags}".strip()),
        BEGIN,
        "# From tiles to a submission\n\nThe stages of `run_all.sh`, each with what it reads and writes.",
        *(_call(*stage) for stage in stages()),
        "session.show_report()",
        "session.keep()  # copy what is linked to an earlier session's output, for the next session",
        "session.finish()",
    ]


def inference_cells(flags: str) -> list[str]:
    """The cells of the notebook that predicts with folds trained earlier."""
    inputs = (
        "the data set *TGS salt code*, and the trained folds: the training notebook's output, or a data set made of it"
    )
    more = (
        "Nothing is trained here. Set `FLAGS` to those of the training (`--run`, `--profile`, `--set` ...); if some "
        "folds are missing, add `--fold K` for each one to use."
    )
    named = ("prepare", "predict", "submit")
    return [
        INTRO.format(what="inference", inputs=inputs, more=more),
        SETUP.format(flags=flags),
        BEGIN,
        *(_call(*stage) for stage in stages() if stage[0] in named),
        "session.finish()",
        PREDICT,
    ]


def _call(name: str, flags: list[str], about: str) -> str:
    return f"session.stage({', '.join(json.dumps(word) for word in [name, *flags])})  # {about}"


def _write_notebook(path: Path, cells: list[str], user: str, slug: str, kernels: list[str]) -> None:
    """Write the notebook, and beside it the kernel-metadata.json that `kaggle kernels push` needs."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [_cell(i, text) for i, text in enumerate(cells)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    metadata = {
        "id": f"{user}/{slug}",
        "title": slug.replace("-", " "),  # Kaggle derives the slug from it
        "code_file": path.name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",  # two of them; the default is a P100, which Kaggle's torch does not support
        "dataset_sources": [f"{user}/{DATASET}"],
        "competition_sources": [competition.SLUG],
        "kernel_sources": kernels,
    }
    for file, content in ((path, notebook), (path.parent / "kernel-metadata.json", metadata)):
        _write_json(file, content)
    print(f"notebook {display_path(path)}: {len(cells)} cells")


def _cell(i: int, text: str) -> dict:
    of_code: dict = {} if text.startswith("#") else {"execution_count": None, "outputs": []}
    return {
        "cell_type": "code" if of_code else "markdown",
        "id": f"cell-{i}",
        "metadata": {},
        **of_code,
        "source": text.strip().splitlines(keepends=True),
    }


def _write_dataset(folder: Path, weights: list[Path], user: str) -> None:
    shutil.rmtree(folder / "code", ignore_errors=True)
    for old in (folder / "weights").glob("*"):
        if old.is_file() and not any(file.samefile(old) for file in weights):
            old.unlink()
    for name in ["code", *["weights"] * bool(weights)]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in CODE_FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / "code")
    for file in weights:
        if not (copy := folder / "weights" / file.name).exists() or not file.samefile(copy):
            shutil.copyfile(file, copy)
    metadata = {"title": "TGS salt code", "id": f"{user}/{DATASET}", "licenses": [{"name": "other"}]}
    _write_json(folder / "dataset-metadata.json", metadata)
    print(
        f"dataset  {display_path(folder)}: the code, " + (", ".join(f.name for f in weights) or "no ImageNet weights")
    )
    if not weights:
        print("note     no ImageNet weights found: give --weights FILE, or turn on Internet in the notebook")


def weights_at_hand(encoders: list[str], source: Path | None) -> list[Path]:
    """The files with ImageNet weights for these encoders that a training on this machine would find offline."""
    from pipeline.salt.models.encoders.weights import find_weights

    return sorted({file for encoder in encoders if (file := find_weights(encoder, source))})


def _write_json(path: Path, content: dict) -> None:
    with disk.replacing(path) as tmp:
        tmp.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _kaggle_user() -> str | None:
    """The user name that the kaggle client is logged in with; None if it is not installed or not logged in."""
    if shutil.which("kaggle") is None:
        return None
    answer = subprocess.run(["kaggle", "config", "view"], check=False, capture_output=True, text=True)
    found = re.search(r"username: (\S+)", answer.stdout)
    return found[1] if found and found[1] != "None" else None


def _push(commands: list[list[str]], user: str) -> None:
    """Create the data set, or a new version of it, then push the notebook. InputError if a command fails.

    In between, wait until Kaggle has unpacked the data set: otherwise it would start the notebook without it.
    """
    typed = " && ".join(" ".join(command) for command in commands)
    if user == NOBODY or shutil.which("kaggle") is None:
        raise InputError(f"--push needs the kaggle client (pip install kaggle), logged in; or push by hand: {typed}")
    create, push = commands
    status = ["kaggle", "datasets", "status", f"{user}/{DATASET}"]
    if subprocess.run(status, check=False, capture_output=True).returncode == 0:
        create = ["kaggle", "datasets", "version", "-m", artifacts.code_version(), *create[3:]]
    _call_client(create)
    start = time.monotonic()
    while "ready" not in subprocess.run(status, check=False, capture_output=True, text=True).stdout:
        if time.monotonic() - start > WAIT:
            typed = f"when `{' '.join(status)}` says ready, run `{' '.join(push)}`"
            raise InputError(f"Kaggle has not unpacked the data set after {WAIT // 60} minutes; {typed}")
        time.sleep(POLL)
    _call_client(push)
    print(f"running  https://www.kaggle.com/code/{user}/{NOTEBOOK}")


def _call_client(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"`{' '.join(command)}` failed; see the kaggle client's message above")


if __name__ == "__main__":
    cli.start(main)
