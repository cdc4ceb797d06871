"""Training steps of UnetResNext50: the product's against the article's.

python -m bench.speed.train_step
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.baselines import article
from bench.baselines.bare_loop import Steps
from bench.harness.compare import Result, compare, in_own_process
from bench.harness.tiles import random_masks
from pipeline.salt.config import Phase, Train
from pipeline.salt.device import pick_device
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.training.learner import build_learner


@dataclass(frozen=True)
class Size:
    shapes: tuple[tuple[int, int], ...]  # (px, tiles); other benches use the first
    steps: int  # in one measurement
    repeats: int
    encoder: str = "se_resnext50_32x4d"


SIZES = {
    "cuda": Size(shapes=((128, 32), (224, 16)), steps=20, repeats=5),
    "cpu": Size(shapes=((128, 32), (224, 16), (128, 4), (224, 2)), steps=1, repeats=3),
}


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    for shape in size.shapes:
        yield against_article(device, size, *shape)


def against_article(device: torch.device, size: Size, px: int, tiles: int) -> Result:
    with (
        in_own_process(our_steps, size, px, tiles, device) as ours,
        in_own_process(their_steps, size, px, tiles, device) as theirs,
    ):
        return compare(
            f"{describe(size, px, tiles)}; theirs: fp32, channels first, fastai's own",
            ours,
            theirs,
            size.repeats,
            device,
        )


def our_steps(size: Size, px: int, tiles: int, device: torch.device, settings: dict | None = None) -> Steps:
    """Steps of the product; settings: values for the profile's section train that replace its defaults."""
    pick_device()  # sets the process up as for a stage
    return product_steps(build_model(size), *batch(px, tiles, device), size.steps, **settings or {})


def their_steps(size: Size, px: int, tiles: int, device: torch.device) -> Steps:
    return article_steps(build_model(size), *batch(px, tiles, device), size.steps)


def product_steps(model: nn.Module, x: Tensor, masks: Tensor, count: int, **settings) -> Steps:
    x = x.contiguous(memory_format=torch.channels_last)
    phase = Phase(size=x.shape[-1], batch=len(x), epochs=1, lr=1e-3)
    train = Train(phases=(phase,), **settings)
    return one_epoch(build_learner(model, loaders([(x, masks)] * count, x.device), phase, train, []))


def article_steps(model: nn.Module, x: Tensor, masks: Tensor, count: int) -> Steps:
    learn = article.get_learner(loaders([(x.contiguous(), masks[:, 0].long())] * count, x.device), model, Path())
    learn.model.to(x.device)
    learn.remove_cb(SaveModelCallback)
    return one_epoch(learn)


def one_epoch(learn: Learner) -> Steps:
    """A function that fits one epoch without printing."""

    def fit() -> None:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)

    return fit


class Batches(list):
    """A fastai loader over batches that are already on the device."""

    def to(self, device: torch.device) -> None:
        pass


def loaders(batches: list, device: torch.device) -> DataLoaders:
    return DataLoaders(Batches(batches), Batches(), device=device)


def batch(px: int, tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise images (tiles, 3, px, px) and masks (tiles, 1, px, px) of {0, 1}, on the device."""
    x = torch.randn(tiles, 3, px, px, generator=torch.Generator().manual_seed(0))
    return x.to(device), random_masks(tiles, px, device)[:, None].float()


def build_model(size: Size) -> nn.Module:
    return UnetResNext50(size.encoder)


def gflop(model: nn.Module, px: int) -> float:
    """GFLOP of a training step per tile: forward and backward, two operations per multiply-add."""
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.zeros(2, 3, px, px)).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / 2 / 1e9


def describe(size: Size, px: int, tiles: int) -> str:
    return f"{size.steps} training step{'s' * (size.steps > 1)} of {tiles} tiles at {px} px"


if __name__ == "__main__":
    list(run(pick_device()))
