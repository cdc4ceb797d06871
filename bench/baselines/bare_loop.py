"""Training steps in a bare torch loop, with a switch for each optimisation; several folds at once."""

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

BARRIER_TIMEOUT = 120  # s that a process waits for the others, so that one that cannot start does not block them


@dataclass(frozen=True)
class StepOptions:
    """Settings of a training step; the defaults are the product's."""

    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    channels_last: bool = True
    fused: bool = True  # the optimizer runs as one kernel
    tf32: bool = True  # on a GPU, fp32 convolutions with a mantissa of 10 bits: torch's default
    cudnn_benchmark: bool = True  # cuDNN tries its algorithms for each shape and keeps the fastest
    keep_freed_memory: bool = True  # on a CPU; once set, it stays set in that process
    cuda_graph: bool = False  # the whole step is recorded once as a CUDA graph, then replayed


def build_steps(model: nn.Module, options: StepOptions, x: Tensor, masks: Tensor, count: int) -> Steps:
    """Build a function that trains `model` for `count` steps on one batch.

    x  (B, 3, S, S) normalised images;  masks  (B, 1, S, S) of {0, 1}; both on the device to compute on
    """
    device = x.device
    if options.keep_freed_memory:
        keep_freed_memory()
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    precision = resolve_precision(options.precision, device)
    x = x.contiguous(memory_format=layout)
    model.to(device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-3,
        betas=(0.9, 0.99),
        eps=1e-5,
        weight_decay=1e-7,
        fused=options.fused,
        capturable=options.cuda_graph,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, device):
            loss = symmetric_lovasz(model(x), masks)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    record_once = cache(lambda: _record(step))

    def all_steps() -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=options.cudnn_benchmark, allow_tf32=options.tf32):
            one = record_once() if options.cuda_graph else step
            for _ in range(count):
                one()

    return all_steps


def on_streams(folds: list[Steps]) -> Steps:
    """The steps of all folds, each on its own CUDA stream: graphs are only launched here, so they run concurrently."""
    streams = [torch.cuda.Stream() for _ in folds]

    def all_folds() -> None:
        for steps, stream in zip(folds, streams, strict=True):
            with torch.cuda.stream(stream):
                steps()

    return all_folds


def in_processes(n: int, build: Callable[..., Steps], *args, repeats: int) -> float:
    """Seconds that n concurrent processes take for one call each of what build(*args) returns."""
    spawn = get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(n, mp_context=spawn) as pool:
        all_ready = manager.Barrier(n)
        jobs = [pool.submit(_time_process, all_ready, build, args, repeats) for _ in range(n)]
        return max(job.result() for job in jobs)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _record(step: Steps) -> Steps:
    """The step as a CUDA graph: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture"""
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


def _time_process(all_ready: Barrier, build: Callable[..., Steps], args: tuple, repeats: int) -> float:
    steps, device = build(*args), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for _ in range(2):
        steps()
    synchronize(device)
    all_ready.wait(BARRIER_TIMEOUT)
    start = time.perf_counter()
    for _ in range(repeats):
        steps()
    synchronize(device)
    return (time.perf_counter() - start) / repeats
