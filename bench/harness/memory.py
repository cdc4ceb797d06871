"""How much memory a piece of work needs: a process of its own does it, and is watched."""

import os
import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from bench.harness.compare import Result

STATUS = Path("/proc/self/status")  # Linux tells a process's own memory from the files that it has mapped


class Amount(Result):
    unit: str  # of `ours` and `theirs`, which are not seconds


def can_be_watched() -> bool:
    return STATUS.exists() and "RssAnon:" in STATUS.read_text()


def peak(work: Callable[..., object], *args) -> float:
    """MiB at most, beyond what its process has before it begins, while work(*args) runs; mapped files are not counted.

    work  a function of a module
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_watched, (work, args))


def compare(name: str, ours: float, theirs: float, device: str = "cpu") -> Amount:
    """Two peaks in MiB, printed with their ratio."""
    print(f"{name}: ours {ours:,.0f} MiB, theirs {theirs:,.0f} MiB, {theirs / ours:.1f}x")
    return Amount(
        name=name,
        device=device,
        repeats=1,
        ours=ours,
        theirs=theirs,
        ratio=theirs / ours,
        load=os.getloadavg()[0],
        unit="MiB",
    )


def _watched(work: Callable[..., object], args: tuple) -> float:
    seen, done = [_anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(_anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work(*args)
    finally:
        seen.append(_anonymous())
        done.set()
        watcher.join()
    return max(seen) - seen[0]


def _anonymous() -> float:
    return int(STATUS.read_text().split("RssAnon:")[1].split()[0]) / 1024
