"""Alternating timing of the two sides of a claim."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NotRequired, TypedDict

import torch

WARM_UP = 2  # uncounted runs of each side
_work: list[Callable[[], object]] = []  # of a process of in_own_process()


class Result(TypedDict):
    """One comparison, a row of results/<machine>.json; results/README.md says how to read it."""

    name: str
    device: str  # "cpu" | "cuda"
    repeats: int
    ours: float  # median, in `unit`
    theirs: float  # median, in `unit`
    ratio: float  # theirs / ours
    load: float  # of the machine in the minute before; if above the cores a bench uses, other work ran as well
    unit: NotRequired[str]  # seconds if there is none
    first_seconds: NotRequired[float]  # of theirs' first run, with compiling and recording
    steps_per_second: NotRequired[float]  # of theirs


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
    our_time, their_time = (statistics.median(side) for side in zip(*times, strict=True))
    result = make_result(name, device.type, repeats, our_time, their_time, load=load)
    print(
        f"{name}: ours {format_seconds(our_time)}, theirs {format_seconds(their_time)}, {result['ratio']:.1f}x  "
        f"({device.type}, load {load:.1f})"
    )
    return result


def make_result(
    name: str, device: str, repeats: int, ours: float, theirs: float, *, load: float | None = None, **unit: str
) -> Result:
    """Make a result with its ratio; load is the current one if none is given."""
    load = os.getloadavg()[0] if load is None else load
    return Result(
        name=name, device=device, repeats=repeats, ours=ours, theirs=theirs, ratio=theirs / ours, load=load, **unit
    )


@contextlib.contextmanager
def in_own_process(build: Callable[..., Callable[[], object]], *args) -> Iterator[Callable[[], object]]:
    """Give a function that calls what build(*args) returns in a process of its own, where its C library settings stay.

    build  a module-level function
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_build, initargs=(build, args)) as pool:
        pool.submit(os.getpid).result()  # builds it now, not in the first call
        yield lambda: pool.submit(_call).result()


def format_seconds(seconds: float) -> str:
    """'1.23 s', '4.56 ms'."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _build(build: Callable[..., Callable[[], object]], args: tuple) -> None:
    _work[:] = [build(*args)]


def _call() -> None:
    _work[0]()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
