"""Training steps in a bare loop of torch, every trick a switch; several folds at once."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from threading import Barrier

import torch
from torch import Tensor, nn

from pipeline.salt.device import autocast, keep_freed_memory, resolve_precision
from pipeline.salt.losses import symmetric_lovasz

Steps = Callable[[], object]

PATIENCE = 120  # s that a process waits for the others; one that could not begin must not hold them for ever


@dataclass(frozen=True)
class Way:
    """How a step is taken; as the product does it if nothing is said."""

    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    channels_last: bool = True
    fused: bool = True  # the optimizer is one kernel
    tf32: bool = True  # on a GPU, fp32 convolutions with a mantissa of 10 bits: torch's default
    tuned: bool = True  # cuDNN tries its algorithms for each shape, keeps the fastest
    kept: bool = True  # on a CPU, freed memory; once kept, in that process kept for ever
    graph: bool = False  # the whole step is recorded once as a CUDA graph, then replayed


def steps(model: nn.Module, way: Way, x: Tensor, masks: Tensor, count: int) -> Steps:
    """A function that trains `model` for `count` steps on one batch.

    x  (B, 3, S, S) normalised images, masks  (B, 1, S, S) of {0, 1}, both on the device to compute on
    """
    device = x.device
    if way.kept:
        keep_freed_memory()
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    precision = resolve_precision(way.precision, device)
    x = x.contiguous(memory_format=layout)
    model.to(device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-3,
        betas=(0.9, 0.99),
        eps=1e-5,
        weight_decay=1e-7,
        fused=way.fused,
        capturable=way.graph,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, device):
            loss = symmetric_lovasz(model(x), masks)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    recorded = cache(lambda: _recorded(step))

    def many() -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=way.tuned, allow_tf32=way.tf32):
            one = recorded() if way.graph else step
            for _ in range(count):
                one()

    return many


def on_streams(several: list[Steps]) -> Steps:
    """All of them, each on a CUDA stream of its own: graphs are only started here, so that they run side by side."""
    streams = [torch.cuda.Stream() for _ in several]

    def together() -> None:
        for one, stream in zip(several, streams, strict=True):
            with torch.cuda.stream(stream):
                one()

    return together


def in_processes(n: int, build: Callable[..., Steps], *args, repeats: int) -> float:
    """Seconds that n processes take, all at once, for one call each of what build(*args) returns."""
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(n, mp_context=spawn) as pool:
        all_ready = manager.Barrier(n)
        jobs = [pool.submit(_one_process, all_ready, build, args, repeats) for _ in range(n)]
        return max(job.result() for job in jobs)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _recorded(step: Steps) -> Steps:
    """https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture"""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _one_process(all_ready: Barrier, build: Callable[..., Steps], args: tuple, repeats: int) -> float:
    work, device = build(*args), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for _ in range(2):
        work()
    wait(device)
    all_ready.wait(PATIENCE)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait(device)
    return (time.perf_counter() - start) / repeats
