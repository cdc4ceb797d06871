"""Processes that train one fold together, and the GPUs of this machine. Imports torch only if processes share a fold.

`accelerate launch` or torchrun starts the processes. Without such a launcher there is only one, and the functions for
several do nothing.
"""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

from pipeline.salt.errors import InputError


def world_size() -> int:
    """Number of processes that train one fold together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is rank 0, the process that prints and publishes."""
    return world_size() == 1 or os.environ["RANK"] == "0"


@contextlib.contextmanager
def process_group() -> Iterator[Callable[[], None]]:
    """Inside it the processes can communicate, each has its own GPU, and only the main one prints. Yields a barrier."""
    if world_size() == 1:
        yield lambda: None
        return
    try:
        from accelerate import PartialState
    except ImportError as e:
        raise InputError("a fold over several processes needs accelerate: pip install accelerate") from e
    import torch

    state = PartialState(cpu=not torch.cuda.is_available())
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_main_process() else nowhere):
        yield state.wait_for_everyone
    _cpu_group.cache_clear()
    state.destroy_process_group()


def largest(*numbers: float) -> list[float]:
    """The maximum of each number over all processes, so that at this step all of them do the same.

    They communicate through their CPUs: no GPU is waited for.
    """
    if world_size() == 1:
        return [*numbers]
    import torch

    agreed = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX, group=_cpu_group())
    return agreed.tolist()


@functools.cache
def _cpu_group():
    import torch

    return torch.distributed.new_group(backend="gloo")


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs, named as in CUDA_VISIBLE_DEVICES; asks the driver, since importing torch takes seconds."""
    try:
        cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
            return []
    except OSError:
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(i) for i in range(count.value)])[: count.value]


def usable_gpus() -> list[str]:
    """`visible_gpus`, or none if torch is a CPU build."""
    try:
        return [] if metadata.version("torch").endswith("+cpu") else visible_gpus()
    except metadata.PackageNotFoundError:  # not installed as a package
        return visible_gpus()
