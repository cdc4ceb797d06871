"""Measured numbers on disk: where they are kept, what is recorded with each, and the pages that show them."""

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "bench" / "results"  # its README defines every file and column
BEGIN, END = "<!-- python -m bench writes from here -->", "<!-- to here -->"


def machine_name(device: torch.device) -> str:
    """The machine's name, for file names: its GPU, or the number of its cores and its CPU's model."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
        name = f"{os.cpu_count()} cores {models[0] if models else platform.processor() or platform.machine()}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", name).lower()).strip("-")


def provenance() -> dict[str, str]:
    """Date, commit and versions of a measurement."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("numpy", "fastai", "timm")},
    }


def write_record(path: Path, record: dict) -> None:
    """Write a record as JSON, making its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_generated(page: Path, text: str) -> None:
    """Replace the text between BEGIN and END in a page of the documentation, or append it."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after or chr(10)}")


def _commit() -> str:
    """Short hash, with a + if code has changed since; outside a clone, SALT_COMMIT's value or "unknown"."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY).stdout

    if shutil.which("git") is None or not (head := git("rev-parse", "--short", "HEAD").strip()):
        return os.environ.get("SALT_COMMIT", "unknown")
    return head + ("+" if git("status", "--porcelain", "--", "*.py") else "")
