"""Training steps of several folds that share one GPU.

python -m bench.speed.folds_at_once
"""

import os
from collections.abc import Iterator

import torch

from bench.baselines import bare_loop
from bench.baselines.bare_loop import Way
from bench.harness.compare import Result, compare
from bench.speed.switches import bare_steps, left_out_if_it_fails
from bench.speed.train_step import SIZES, Size, said
from pipeline.salt.device import pick_device

FOLDS = (2, 4)


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    """A fold's share of the time in which several take as many steps: a process each, or in one as CUDA graphs.

    On a CPU folds at once have threads of their own, and the profile says how many: nothing is measured.
    """
    if device.type == "cpu":
        return
    size = size or SIZES[device.type]
    px, tiles = size.shapes[0]
    alone = bare_loop.in_processes(1, bare_steps, size, px, tiles, device, repeats=size.repeats)
    for n in FOLDS:
        with left_out_if_it_fails(f"{n} processes"):
            ours = bare_loop.in_processes(n, bare_steps, size, px, tiles, device, repeats=size.repeats) / n
            name = f"folds at once, a process each: {n}; a fold's share of {said(size, px, tiles)}; theirs: 1"
            print(f"{name}: {size.steps / ours:.2f} steps/s, {alone / ours:.2f}x")
            yield Result(
                name=name,
                device=device.type,
                repeats=size.repeats,
                ours=ours,
                theirs=alone,
                ratio=alone / ours,
                load=os.getloadavg()[0],
            )
    for n in FOLDS:
        with left_out_if_it_fails(f"{n} graphs"):
            several = [bare_steps(size, px, tiles, device, Way(graph=True)) for _ in range(n)]
            usual = bare_steps(size, px, tiles, device)
            name = f"folds at once, CUDA graphs: {n}; {said(size, px, tiles)} of each; theirs: in turn"
            yield compare(
                name,
                bare_loop.on_streams(several),
                lambda usual=usual, n=n: [usual() for _ in range(n)],
                size.repeats,
                device,
            )


if __name__ == "__main__":
    list(run(pick_device()))
