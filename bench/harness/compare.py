"""Two sides of one claim, timed in turn."""

import contextlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

import torch
from torch.nn import functional as F

WARM_UP = 2
_built: list[Callable[[], object]] = []  # in a process of elsewhere()
BEGIN, END = "<!-- python -m bench writes from here -->", "<!-- to here -->"


class Result(TypedDict):
    name: str
    device: str  # "cpu" | "cuda"
    repeats: int
    ours: float  # s, median
    theirs: float  # s, median
    ratio: float  # theirs / ours
    load: float  # of the machine over the minute before: above 1 others were at work too


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    device: torch.device,
    warm_up: int | None = None,
) -> Result:
    """Run both sides warm_up (WARM_UP) + repeats times, alternating, and print the two medians and their ratio."""
    load = os.getloadavg()[0]
    for _ in range(WARM_UP if warm_up is None else min(warm_up, WARM_UP)):
        _seconds(ours, device), _seconds(theirs, device)
    times = [(_seconds(ours, device), _seconds(theirs, device)) for _ in range(repeats)]
    mine, other = (statistics.median(side) for side in zip(*times, strict=True))
    print(f"{name}: ours {shown(mine)}, theirs {shown(other)}, {other / mine:.1f}x  ({device.type}, load {load:.1f})")
    return Result(
        name=name, device=device.type, repeats=repeats, ours=mine, theirs=other, ratio=other / mine, load=load
    )


@contextlib.contextmanager
def elsewhere(build: Callable[..., Callable[[], object]], *args) -> Iterator[Callable[[], object]]:
    """What build(*args) returns, to be called in a process of its own: how the C library is set up is one side's alone.

    build  a function of a module
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_build, initargs=(build, args)) as pool:
        pool.submit(os.getpid).result()  # it is built now, not within the first call
        yield lambda: pool.submit(_call).result()


def _build(build: Callable[..., Callable[[], object]], args: tuple) -> None:
    _built[:] = [build(*args)]


def _call() -> None:
    _built[0]()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def blobs(n: int, side: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Masks (n, side, side) bool much like Kaggle's: smooth bodies, three in ten pixels, two in five tiles empty."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 1, 2, 2, generator=generator)
    masks = F.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0] > 0
    masks[torch.rand(n, generator=generator) < 0.4] = False
    return masks.to(device)


def machine(device: torch.device) -> str:
    """A name for a file: the GPU, or the CPU and how many of its cores we have."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
        name = f"{os.cpu_count()} cores {models[0] if models else platform.processor() or platform.machine()}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", name).lower()).strip("-")


def write_between(page: Path, text: str) -> None:
    """Replace what stands between BEGIN and END in a page of the documentation, or append it."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after or chr(10)}")


def circumstances() -> dict[str, str]:
    """Date, commit and versions, as they stand beside every number."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in ("numpy", "fastai", "timm")},
    }


def _commit() -> str:
    """Short hash, with a + if code has changed since; outside a clone what SALT_COMMIT says, or "unknown"."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        ).stdout

    if shutil.which("git") is None or not (head := git("rev-parse", "--short", "HEAD").strip()):
        return os.environ.get("SALT_COMMIT", "unknown")
    return head + ("+" if git("status", "--porcelain", "--", "*.py") else "")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
