"""Training steps of UnetResNext50: the product's against the article's, and with one switch turned.

    python -m bench.train_step

A row that begins with "switch" has the product's way, in a bare loop of torch, on its right: above 1x the switch pays.
"""
import contextlib
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import bare_loop
from bench.bare_loop import Steps, Way
from bench.baselines import article
from bench.harness import Result, blobs, compare, elsewhere
from pipeline.salt.config import Stage, Train
from pipeline.salt.device import pick_device, resolve_precision
from pipeline.salt.learner import build_learner
from pipeline.salt.models.unet_resnext50 import UnetResNext50


@dataclass(frozen=True)
class Size:
    shapes: tuple[tuple[int, int], ...]     # px, tiles; the first of them for all but the article
    steps: int                              # in one measurement
    repeats: int
    folds: tuple[int, ...] = ()             # so many on the GPU at once; the others are held against the first number
    encoder: str = "se_resnext50_32x4d"


SIZES = {"cuda": Size(shapes=((128, 32), (224, 16)), steps=20, repeats=5, folds=(1, 2, 4)),
         "cpu": Size(shapes=((128, 32), (224, 16), (128, 4), (224, 2)), steps=1, repeats=3)}

SWITCHES: dict[str, Way | dict[str, str]] = {       # in the bare loop, or in the profile's section train
    "our Learner, not a bare loop": {},
    "our Learner, train.compile=default": {"compile": "default"},
    "our Learner, train.compile=reduce-overhead": {"compile": "reduce-overhead"},
    "fp32": Way(precision="fp32"),
    "fp32 without TF32": Way(precision="fp32", tf32=False),
    "channels first": Way(channels_last=False),
    "optimizer not fused": Way(fused=False),
    "cuDNN not tuned": Way(tuned=False),
    "CUDA graph": Way(graph=True),
}
ON_A_CPU = ("our Learner, not a bare loop", "fp32", "channels first", "optimizer not fused")


class Switched(Result):
    first: float            # s, until the first measurement was done: compiling and recording are in it
    per_second: float       # steps


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    for shape in size.shapes:
        yield against_article(device, size, *shape)
    if device.type == "cpu":
        yield memory_given_back(device, size)
    yield from switches(device, size)
    yield from folds_at_once(device, size)


def against_article(device: torch.device, size: Size, px: int, tiles: int) -> Result:
    with elsewhere(our_steps, size, px, tiles, device) as ours, \
            elsewhere(their_steps, size, px, tiles, device) as theirs:
        return compare(f"{said(size, px, tiles)}; theirs: fp32, channels first, fastai's own", ours, theirs,
                       size.repeats, device)


def our_steps(size: Size, px: int, tiles: int, device: torch.device) -> Steps:
    pick_device()       # sets the process up as for a stage
    return product_steps(network(size), *batch(px, tiles, device), size.steps)


def their_steps(size: Size, px: int, tiles: int, device: torch.device) -> Steps:
    return article_steps(network(size), *batch(px, tiles, device), size.steps)


def memory_given_back(device: torch.device, size: Size) -> Result:
    px, tiles = size.shapes[0]
    with elsewhere(bare_steps, size, px, tiles, device, Way(kept=False)) as other, \
            elsewhere(bare_steps, size, px, tiles, device) as usual:
        return compare(f"switch: freed memory goes back to the system; {said(size, px, tiles)}", other, usual,
                       size.repeats, device)


def switches(device: torch.device, size: Size) -> Iterator[Result]:
    px, tiles = size.shapes[0]
    x, masks = batch(px, tiles, device)
    for title, way in SWITCHES.items():
        if device.type == "cpu" and title not in ON_A_CPU or isinstance(way, Way) and same_here(way, Way(), device):
            continue
        with left_out_if_it_fails(title):
            usual = bare_loop.steps(network(size), Way(), x, masks, size.steps)
            other = (bare_loop.steps(network(size), way, x, masks, size.steps) if isinstance(way, Way) else
                     product_steps(network(size), x, masks, size.steps, **way))
            start = time.perf_counter()
            other()
            bare_loop.wait(device)
            first = time.perf_counter() - start
            result = compare(f"switch: {title}; {said(size, px, tiles)}", other, usual, size.repeats, device)
            per_second = size.steps / result["ours"]
            print(f"    {per_second:.2f} steps/s; the first {size.steps} took {first:.1f} s")
            yield Switched(**result, first=first, per_second=per_second)


def folds_at_once(device: torch.device, size: Size) -> Iterator[Result]:
    """Steps of one fold, its share of the time in which several folds take as many; alone on the right.

    In a process each; and on a GPU in one process, as CUDA graphs on streams of their own.
    """
    px, tiles = size.shapes[0]
    alone = None
    for n in size.folds:
        with left_out_if_it_fails(f"{n} processes"):
            ours = bare_loop.in_processes(n, bare_steps, size, px, tiles, device, repeats=size.repeats) / n
            alone = alone or ours
            name = f"switch: folds at once, a process each: {n}; a fold's share of {said(size, px, tiles)}; theirs: 1"
            print(f"{name}: {size.steps / ours:.2f} steps/s, {alone / ours:.2f}x")
            yield Result(name=name, device=device.type, repeats=size.repeats, ours=ours, theirs=alone,
                         ratio=alone / ours, load=os.getloadavg()[0])
    for n in size.folds if device.type == "cuda" else ():
        with left_out_if_it_fails(f"{n} graphs"):
            several = [bare_steps(size, px, tiles, device, Way(graph=True)) for _ in range(n)]
            usual = bare_steps(size, px, tiles, device)
            name = f"switch: folds at once, CUDA graphs: {n}; {said(size, px, tiles)} of each; theirs: in turn"
            yield compare(name, bare_loop.on_streams(several), lambda usual=usual, n=n: [usual() for _ in range(n)],
                          size.repeats, device)


def bare_steps(size: Size, px: int, tiles: int, device: torch.device, way: Way = Way()) -> Steps:
    return bare_loop.steps(network(size), way, *batch(px, tiles, device), size.steps)


def product_steps(model: nn.Module, x: Tensor, masks: Tensor, count: int, **settings) -> Steps:
    x = x.contiguous(memory_format=torch.channels_last)
    stage = Stage(size=x.shape[-1], batch=len(x), epochs=1, lr=1e-3)
    train = Train(stages=(stage,), **settings)
    return epoch_of(build_learner(model, loaders([(x, masks)] * count, x.device), stage, train, []))


def article_steps(model: nn.Module, x: Tensor, masks: Tensor, count: int) -> Steps:
    learn = article.learner(loaders([(x.contiguous(), masks[:, 0].long())] * count, x.device), model, Path())
    learn.model.to(x.device)
    learn.remove_cb(SaveModelCallback)
    return epoch_of(learn)


def epoch_of(learn: Learner) -> Steps:
    def fit() -> None:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1)
    return fit


class Batches(list):
    """Batches that are there already, as a loader of fastai's."""

    def to(self, device: torch.device) -> None:
        pass


def loaders(batches: list, device: torch.device) -> DataLoaders:
    return DataLoaders(Batches(batches), Batches(), device=device)


def batch(px: int, tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (tiles, 3, px, px) of noise, masks (tiles, 1, px, px) of {0, 1}, on the device."""
    x = torch.randn(tiles, 3, px, px, generator=torch.Generator().manual_seed(0))
    return x.to(device), blobs(tiles, px, device)[:, None].float()


def network(size: Size) -> nn.Module:
    return UnetResNext50(size.encoder)


def gflop(model: nn.Module, px: int) -> float:
    """Of a training step for one tile: forward and backward, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.zeros(2, 3, px, px)).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / 2 / 1e9


def same_here(way: Way, other: Way, device: torch.device) -> bool:
    """Whether two ways differ in nothing but a name for the same number format."""
    one, two = (vars(w) | {"precision": resolve_precision(w.precision, device)} for w in (way, other))
    return one == two


def said(size: Size, px: int, tiles: int) -> str:
    return f"{size.steps} training step{'s' * (size.steps > 1)} of {tiles} tiles at {px} px"


@contextlib.contextmanager
def left_out_if_it_fails(title: str) -> Iterator[None]:
    """What a machine cannot do must not cost it the other numbers."""
    try:
        yield
    except Exception as e:
        print(f"switch: {title}: left out, {type(e).__name__}: {str(e).partition(chr(10))[0]}")
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    list(run(pick_device()))
