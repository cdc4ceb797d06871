"""Peak memory of a piece of work, run in a process of its own that a thread watches."""

import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from bench.harness.compare import Result, make_result

STATUS = Path("/proc/self/status")  # Linux tells a process's own memory from the files it has mapped


def is_supported() -> bool:
    """Whether this system reports how much memory is a process's own."""
    return STATUS.exists() and "RssAnon:" in STATUS.read_text()


def peak(work: Callable[..., object], *args) -> float:
    """Peak MiB while work(*args) runs, beyond what its process had before; mapped files are not counted.

    work  a module-level function
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_watch, (work, args))


def compare_peaks(name: str, ours: float, theirs: float, device: str = "cpu") -> Result:
    """Print two peaks in MiB with their ratio, and return them as a result."""
    print(f"{name}: ours {ours:,.0f} MiB, theirs {theirs:,.0f} MiB, {theirs / ours:.1f}x")
    return make_result(name, device, 1, ours, theirs, unit="MiB")


def _watch(work: Callable[..., object], args: tuple) -> float:
    samples, done = [_own_mib()], threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            samples.append(_own_mib())

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        work(*args)
    finally:
        samples.append(_own_mib())
        done.set()
        watcher.join()
    return max(samples) - samples[0]


def _own_mib() -> float:
    return int(STATUS.read_text().split("RssAnon:")[1].split()[0]) / 1024
