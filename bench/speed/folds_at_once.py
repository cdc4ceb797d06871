"""Training steps of several folds at once on one GPU.

python -m bench.speed.folds_at_once
"""

from collections.abc import Iterator

import torch

from bench.baselines import bare_loop
from bench.baselines.bare_loop import StepOptions
from bench.harness.compare import Result, compare, make_result
from bench.speed.switches import bare_steps, skip_on_error
from bench.speed.train_step import SIZES, Size, describe
from pipeline.salt.device import pick_device

FOLDS = (2, 4)


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    """Time per fold when several train at once, in a process each or in one process as CUDA graphs.

    On a CPU nothing is measured: each fold has its own threads, and the profile sets their number.
    """
    if device.type == "cpu":
        return
    size = size or SIZES[device.type]
    px, tiles = size.shapes[0]
    alone = bare_loop.in_processes(1, bare_steps, size, px, tiles, device, repeats=size.repeats)
    for n in FOLDS:
        with skip_on_error(f"{n} processes"):
            ours = bare_loop.in_processes(n, bare_steps, size, px, tiles, device, repeats=size.repeats) / n
            name = f"folds at once, a process each: {n}; a fold's share of {describe(size, px, tiles)}; theirs: 1"
            print(f"{name}: {size.steps / ours:.2f} steps/s, {alone / ours:.2f}x")
            yield make_result(name, device.type, size.repeats, ours, alone)
    for n in FOLDS:
        with skip_on_error(f"{n} graphs"):
            folds = [bare_steps(size, px, tiles, device, StepOptions(cuda_graph=True)) for _ in range(n)]
            one = bare_steps(size, px, tiles, device)
            name = f"folds at once, CUDA graphs: {n}; {describe(size, px, tiles)} of each; theirs: in turn"
            yield compare(
                name, bare_loop.on_streams(folds), lambda one=one, n=n: [one() for _ in range(n)], size.repeats, device
            )


if __name__ == "__main__":
    list(run(pick_device()))
