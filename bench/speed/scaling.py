"""Cost grows as it should: an epoch with the number of tiles, memory not with the test tiles; and a stage begins soon.

python -m bench.speed.scaling
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fastai.data.core import DataLoaders

from bench.baselines.bare_loop import Steps
from bench.harness import memory
from bench.harness.compare import Result, compare, shown
from bench.harness.tiles import tiles
from bench.speed import inference
from bench.speed.train_step import epoch_of
from pipeline.salt.config import Augment, Stage, Train
from pipeline.salt.device import pick_device
from pipeline.salt.launch.local import python_path
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles.loaders import TileLoader
from pipeline.salt.training.learner import build_learner

TIMES = (2, 4)
START = 10.0  # s that a stage may take to begin


@dataclass(frozen=True)
class Size:
    px: int
    batch: int
    tiles: int  # of the shortest epoch
    test: int  # fewest test tiles
    encoder: str
    repeats: int = 3


SIZES = {
    "cuda": Size(px=128, batch=32, tiles=896, test=4_500, encoder="se_resnext50_32x4d"),
    "cpu": Size(px=64, batch=16, tiles=128, test=2_250, encoder="test_resnet"),
}


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    yield from epochs(device, size)
    yield from memory_of_predicting(size)
    yield from starts()


def epochs(device: torch.device, size: Size) -> Iterator[Result]:
    """One epoch of n times the tiles, against n epochs: above 0.9x it grows no faster than they do."""
    once = training(device, size, size.tiles)

    def times(n: int) -> Steps:
        return lambda: [once() for _ in range(n)]

    for n in TIMES:
        yield compare(
            f"epoch of {n * size.tiles:,} tiles; theirs: {n} epochs of {size.tiles}",
            training(device, size, n * size.tiles),
            times(n),
            size.repeats,
            device,
        )


def training(device: torch.device, size: Size, n: int) -> Steps:
    some = tiles()
    rows = np.arange(n) % len(some.ids)
    ids = [some.ids[i] for i in rows]
    train = TileLoader(some.images[rows], some.masks[rows], ids, size.px, size.batch, how=Augment(), device=device)
    valid = TileLoader(some.images[:1], some.masks[:1], ids[:1], size.px, size.batch, device=device)
    stage = Stage(size=size.px, batch=size.batch, epochs=1, lr=1e-3)
    return epoch_of(
        build_learner(
            UnetResNext50(size.encoder), DataLoaders(train, valid, device=device), stage, Train(stages=(stage,)), []
        )
    )


def memory_of_predicting(size: Size) -> list[Result]:
    if not memory.can_be_watched():
        return []
    some, how = tiles(), inference.Size(px=size.px, tiles=0, batch=0, repeats=1, watched=0)
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, *TIMES):
            images = Path(folder, f"{n}.npy")
            np.save(images, some.arrays(n * size.test))
            peaks[n] = memory.peak(inference.watched_ours, Path(folder, "probs.npy"), images, how)
    return [
        memory.compare(
            f"memory of predicting {n * size.test:,} tiles, network aside; theirs: {size.test:,} tiles",
            peaks[n],
            peaks[1],
        )
        for n in TIMES
    ]


def starts() -> list[Result]:
    """From the command to its first work: the stages in order with their state, and what training imports."""
    return [
        begun("python -m pipeline, the state of every stage", "-m", "pipeline", "--data", "sample"),
        begun("all that training imports", "-c", "import pipeline.salt.training.fold"),
    ]


def begun(what: str, *command: str) -> Result:
    environment = os.environ | {"PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    load, took = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as elsewhere:
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-P", *command], env=environment, cwd=elsewhere, check=True, capture_output=True
            )
            took.append(time.perf_counter() - start)
    seconds = statistics.median(took)
    print(f"{what}: {shown(seconds)}, may take {shown(START)}")
    return Result(
        name=f"start: {what}; theirs: what it may take",
        device="cpu",
        repeats=3,
        ours=seconds,
        theirs=START,
        ratio=START / seconds,
        load=load,
    )


if __name__ == "__main__":
    list(run(pick_device()))
