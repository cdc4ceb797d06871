"""How an epoch's time and prediction's memory grow with the number of tiles; memory of segmenting a large picture;
start-up time of a stage.

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
from types import SimpleNamespace

import numpy as np
import torch
from fastai.data.core import DataLoaders

from bench.baselines.bare_loop import Steps
from bench.harness import memory
from bench.harness.compare import Result, compare, format_seconds, make_result
from bench.harness.tiles import load_tiles
from bench.speed import inference
from bench.speed.train_step import one_epoch
from pipeline.salt.config import Augment, Phase, Train
from pipeline.salt.device import pick_device
from pipeline.salt.launch.local import python_path
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.sections.reading import Picture
from pipeline.salt.tiles.loaders import TileDataset, TileLoader
from pipeline.salt.training.learner import build_learner
from pipeline.tools.segment import segment

FACTORS = (2, 4)
START_LIMIT = 10.0  # s that a stage may take to start


@dataclass(frozen=True)
class Size:
    px: int
    batch: int
    tiles: int  # of the shortest epoch
    test: int  # fewest test tiles
    encoder: str
    repeats: int = 3
    picture: int = 20_000  # px, side of the largest to be segmented


SIZES = {
    "cuda": Size(px=128, batch=32, tiles=896, test=4_500, encoder="se_resnext50_32x4d"),
    "cpu": Size(px=64, batch=16, tiles=128, test=2_250, encoder="test_resnet"),
}
WINDOW = 101  # px


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    yield from compare_epochs(device, size)
    yield from compare_memory(size)
    yield from compare_segment_memory(size.picture)
    yield from start_up()


def compare_epochs(device: torch.device, size: Size) -> Iterator[Result]:
    """One epoch of n times the tiles against n epochs: above 0.9x, time grows no faster than the tiles."""
    once = build_epoch(device, size, size.tiles)

    def repeat(n: int) -> Steps:
        return lambda: [once() for _ in range(n)]

    for n in FACTORS:
        yield compare(
            f"epoch of {n * size.tiles:,} tiles; theirs: {n} epochs of {size.tiles}",
            build_epoch(device, size, n * size.tiles),
            repeat(n),
            size.repeats,
            device,
        )


def build_epoch(device: torch.device, size: Size, n: int) -> Steps:
    """Build a function that trains for an epoch of n tiles."""
    tiles = load_tiles()
    rows = np.arange(n) % len(tiles.ids)
    ids = [tiles.ids[i] for i in rows]
    model = UnetResNext50(size.encoder)
    stats = (model.encoder.mean, model.encoder.std)
    train = TileDataset(tiles.images[rows], tiles.masks[rows], ids, size.px, resize_masks=True, device=device)
    valid = TileDataset(tiles.images[:1], tiles.masks[:1], ids[:1], size.px, device=device)
    dls = DataLoaders(
        TileLoader(train, size.batch, stats, Augment()), TileLoader(valid, size.batch, stats), device=device
    )
    phase = Phase(size=size.px, batch=size.batch, epochs=1, lr=1e-3)
    return one_epoch(build_learner(model, dls, phase, Train(phases=(phase,)), []))


def compare_memory(size: Size) -> list[Result]:
    """Peak memory of predicting n times the test tiles."""
    if not memory.is_supported():
        return []
    tiles, inference_size = load_tiles(), inference.Size(px=size.px, tiles=0, batch=0, repeats=1, memory_tiles=0)
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (1, *FACTORS):
            images = Path(folder, f"{n}.npy")
            np.save(images, tiles.arrays(n * size.test))
            peaks[n] = memory.peak(inference.predict_pixels, Path(folder, "probs.npy"), images, inference_size)
    return [
        memory.compare_peaks(
            f"memory of predicting {n * size.test:,} tiles, model aside; theirs: {size.test:,} tiles",
            peaks[n],
            peaks[1],
        )
        for n in FACTORS
    ]


def compare_segment_memory(side: int) -> list[Result]:
    """Peak memory of segmenting a square picture against one of a tenth of its rows, with a model of single pixels."""
    if not memory.is_supported():
        return []
    heights = {"ours": side, "theirs": side // 10}
    with tempfile.TemporaryDirectory() as folder:
        peaks = [memory.peak(segment_pixels, Path(folder), height, side) for height in heights.values()]
    name = f"memory of segmenting {side:,} x {side:,} px, model aside; theirs: {heights['theirs']:,} rows of it"
    return [memory.compare_peaks(name, *peaks)]


def segment_pixels(folder: Path, height: int, width: int) -> None:
    """Segment a picture, whose rows are made on demand, into the three files."""
    picture = Picture("picture", (height, width), lambda top, bottom: np.zeros((bottom - top, width), np.uint8))
    run = SimpleNamespace(
        logits=lambda windows: windows.astype(np.float32),
        with_channels=lambda rows: rows,
        threshold=0.5,
        models={},
        weights={},
    )
    segment(picture, run, (WINDOW, WINDOW), folder)


def start_up() -> list[Result]:
    """Seconds before any work is done: the state of all stages, and the imports of training."""
    return [
        time_command("python -m pipeline, the state of every stage", "-m", "pipeline", "--data", "sample"),
        time_command("all that training imports", "-c", "import pipeline.salt.training.fold"),
    ]


def time_command(title: str, *arguments: str) -> Result:
    """Time Python with these arguments in an empty folder, against START_LIMIT."""
    environment = os.environ | {"PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    load, times = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-P", *arguments], env=environment, cwd=folder, check=True, capture_output=True
            )
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    print(f"{title}: {format_seconds(seconds)}, limit {format_seconds(START_LIMIT)}")
    return make_result(f"start: {title}; theirs: what it may take", "cpu", 3, seconds, START_LIMIT, load=load)


if __name__ == "__main__":
    list(run(pick_device()))
