"""Time and memory of one fold's flip TTA, from tiles to 101 px probabilities on disk.

python -m bench.speed.inference
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fastai.vision.core import imagenet_stats
from torch import Tensor, nn

from bench.baselines import article
from bench.harness import memory
from bench.harness.compare import Result, compare
from bench.harness.tiles import load_tiles
from pipeline.salt.config import PROFILES
from pipeline.salt.device import keep_freed_memory, pick_device, resolve_precision
from pipeline.salt.inference import InferenceSettings, predict_to_file
from pipeline.salt.models.unet_resnext50 import UnetResNext50


@dataclass(frozen=True)
class Size:
    px: int
    tiles: int
    batch: int  # of the article's loaders; ours is the profile's
    repeats: int
    memory_tiles: int  # tiles in the memory comparison
    encoder: str = "se_resnext50_32x4d"
    workers: int | None = None  # of the article's loaders; None is fastai's default


SIZES = {
    "cuda": Size(px=224, tiles=18_000, batch=64, repeats=1, memory_tiles=9_000),
    "cpu": Size(px=128, tiles=16, batch=16, repeats=2, memory_tiles=9_000),
}
OUR_BATCH = PROFILES["blog"].predict.batch


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    yield against_article(device, size)
    yield from compare_memory(size)


def against_article(device: torch.device, size: Size) -> Result:
    tiles, model = load_tiles(), UnetResNext50(size.encoder)
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> None:
            predict(Path(folder, "ours.npy"), tiles.arrays(size.tiles), model, size, device)

        def theirs() -> None:
            probs = predict_as_article(tiles.folder, tiles.pngs(size.tiles), model, size, device)
            np.save(Path(folder, "theirs.npy"), probs)

        name = f"flip TTA of {size.tiles:,} {tiles.kind} tiles at {size.px} px; theirs: PNG files, fp32, two passes"
        return compare(name, ours, theirs, size.repeats, device, warm_up=1)


def compare_memory(size: Size) -> list[Result]:
    """Peak memory on the CPU with a model that needs next to none, which leaves the tiles and the results."""
    if not memory.is_supported():
        return []
    tiles = load_tiles()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npy")
        np.save(images, tiles.arrays(size.memory_tiles))
        ours = memory.peak(predict_pixels, Path(folder, "ours.npy"), images, size)
        theirs = memory.peak(predict_pixels_as_article, tiles.folder, tiles.pngs(size.memory_tiles), size)
    name = f"memory of flip TTA of {size.memory_tiles:,} tiles at {size.px} px, model aside; theirs: a float64 array"
    return [memory.compare_peaks(name, ours, theirs)]


def predict(path: Path, images: np.ndarray, model: nn.Module, size: Size, device: torch.device) -> None:
    """Predict images (N, 101, 101) uint8 into a file, as the product does."""
    precision = resolve_precision("auto", device)
    settings = InferenceSettings(sizes=(size.px,), batch=OUR_BATCH, flip=True, precision=precision, devices=(device,))
    predict_to_file(path, images, [(model, np.arange(len(images)))], "ours", settings)


def predict_as_article(
    folder: Path, files: list[Path], model: nn.Module, size: Size, device: torch.device
) -> np.ndarray:
    """Predict PNG files as the article does: (N, 101, 101) probabilities."""
    dls = article.get_data(folder, {files[0].stem}, size.px, size.batch, device, num_workers=size.workers)
    model.to(device, memory_format=torch.contiguous_format)
    return article.predict(article.get_learner(dls, model, folder), files, size.px)


class PixelModel(nn.Module):
    """The smallest model: one logit for each pixel, from that pixel alone."""

    def __init__(self):
        super().__init__()
        mean, std = imagenet_stats
        self.encoder, self.weight = SimpleNamespace(mean=mean, std=std), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x[:, :1]


def predict_pixels(path: Path, images: Path, size: Size) -> None:
    keep_freed_memory()  # as pick_device on a CPU; where there is a GPU, its context would count as well
    predict(path, np.load(images, mmap_mode="r", allow_pickle=False), PixelModel(), size, torch.device("cpu"))


def predict_pixels_as_article(folder: Path, files: list[Path], size: Size) -> None:
    # No workers: only this process's memory is watched, and a pool's child may have no children.
    predict_as_article(folder, files, PixelModel(), Size(**vars(size) | {"workers": 0}), torch.device("cpu"))


if __name__ == "__main__":
    list(run(pick_device()))
