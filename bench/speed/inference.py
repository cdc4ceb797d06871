"""Flip TTA of one fold, from tiles to 101 px probabilities on disk: time, and memory.

python -m bench.speed.inference
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from bench.baselines import article
from bench.harness import memory
from bench.harness.compare import Result, compare
from bench.harness.tiles import tiles
from pipeline.salt.device import keep_freed_memory, pick_device, resolve_precision
from pipeline.salt.inference import predict_to_file
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles.loaders import IMAGENET


@dataclass(frozen=True)
class Size:
    px: int
    tiles: int
    batch: int  # of the article's loaders; ours is the profile's usual one
    repeats: int
    watched: int  # tiles while memory is watched
    encoder: str = "se_resnext50_32x4d"
    workers: int | None = None  # of the article's loaders; None is fastai's usual number


SIZES = {
    "cuda": Size(px=224, tiles=18_000, batch=64, repeats=1, watched=9_000),
    "cpu": Size(px=128, tiles=16, batch=16, repeats=2, watched=9_000),
}
OURS_AT_ONCE = 64


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    yield against_article(device, size)
    yield from memory_of_both(size)


def against_article(device: torch.device, size: Size) -> Result:
    some, model = tiles(), UnetResNext50(size.encoder)
    with tempfile.TemporaryDirectory() as folder:

        def ours() -> None:
            predict(Path(folder, "ours.npy"), some.arrays(size.tiles), model, size, device)

        def theirs() -> None:
            probs = predict_as_article(some.folder, some.pngs(size.tiles), model, size, device)
            np.save(Path(folder, "theirs.npy"), probs)

        name = f"flip TTA of {size.tiles:,} {some.kind} tiles at {size.px} px; theirs: PNG files, fp32, two passes"
        return compare(name, ours, theirs, size.repeats, device, warm_up=1)


def memory_of_both(size: Size) -> list[Result]:
    """With a network that needs none to speak of, on the CPU: what is left is the way the tiles and the results go."""
    if not memory.can_be_watched():
        return []
    some = tiles()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npy")
        np.save(images, some.arrays(size.watched))
        ours = memory.peak(watched_ours, Path(folder, "ours.npy"), images, size)
        theirs = memory.peak(watched_theirs, some.folder, some.pngs(size.watched), size)
    name = f"memory of flip TTA of {size.watched:,} tiles at {size.px} px, network aside; theirs: a float64 array"
    return [memory.compare(name, ours, theirs)]


def predict(path: Path, images: np.ndarray, model: nn.Module, size: Size, device: torch.device) -> None:
    predict_to_file(
        path,
        images,
        [(model, np.arange(len(images)))],
        "ours",
        size=size.px,
        batch=OURS_AT_ONCE,
        flip=True,
        precision=resolve_precision("auto", device),
        devices=[device],
    )


def predict_as_article(
    folder: Path, files: list[Path], model: nn.Module, size: Size, device: torch.device
) -> np.ndarray:
    dls = article.get_data(folder, {files[0].stem}, size.px, size.batch, device, num_workers=size.workers)
    model.to(device, memory_format=torch.contiguous_format)
    return article.predict(article.learner(dls, model, folder), files, size.px)


class Pixel(nn.Module):
    """The smallest of networks: one number for each pixel, from that pixel alone."""

    def __init__(self):
        super().__init__()
        self.encoder, self.one = SimpleNamespace(mean=IMAGENET[0], std=IMAGENET[1]), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.one * x[:, :1]


def watched_ours(path: Path, images: Path, size: Size) -> None:
    keep_freed_memory()  # as pick_device does on a CPU; on a GPU's machine its context would count as well
    predict(path, np.load(images, mmap_mode="r"), Pixel(), size, torch.device("cpu"))


def watched_theirs(folder: Path, files: list[Path], size: Size) -> None:
    # In this process alone: only its memory is watched, and the child of a pool may have no children.
    predict_as_article(folder, files, Pixel(), Size(**vars(size) | {"workers": 0}), torch.device("cpu"))


if __name__ == "__main__":
    list(run(pick_device()))
