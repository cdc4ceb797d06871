"""Training steps of UnetResNext50: the product's Learner against the article's, against another library, and switch by switch.

    python -m bench.train_step

`ways` holds what the product does not do, or need not do: a row above 1x is a switch worth turning.
"""
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.baselines import article
from bench.harness import Result, blobs, compare
from pipeline.salt.config import Stage, Train
from pipeline.salt.device import autocast, peak_memory, pick_device, resolve_precision
from pipeline.salt.learner import build_learner
from pipeline.salt.losses import symmetric_lovasz
from pipeline.salt.models.unet_resnext50 import UnetResNext50

Steps = Callable[[], object]


@dataclass(frozen=True)
class Size:
    shapes: tuple[tuple[int, int], ...]     # px, tiles a batch; the first one is for the switches and the other library
    steps: int                              # in a measurement
    repeats: int
    together: tuple[int, ...] = ()          # folds on one GPU at once
    encoder: str = "se_resnext50_32x4d"
    width: int = 32


SIZES = {"cuda": Size(shapes=((128, 32), (224, 16)), steps=20, repeats=5, together=(1, 2, 4)),
         "cpu": Size(shapes=((128, 8), (224, 4)), steps=1, repeats=3)}


class Switched(Result):
    first: float            # s, the first measurement of `ours`: compiling and capturing are in it
    per_second: float       # steps of `ours`
    memory: float           # GiB, peak on the GPU; of the process on a CPU


@dataclass(frozen=True)
class Way:
    """How a bare loop of torch takes a step."""

    precision: str                  # fp32 | bf16 | fp16
    channels_last: bool = True
    fused: bool = True              # the optimizer is one kernel
    tf32: bool = True               # fp32 convolutions with a mantissa of 10 bits; torch's default
    tuned: bool = False             # cuDNN tries its algorithms and keeps the fastest
    compiled: str | None = None     # mode of torch.compile
    graph: bool = False             # the whole step recorded once as a CUDA graph, then replayed


def run(device: torch.device, size: Size | None = None) -> list[Result]:
    size = size or SIZES[device.type]
    return [*(against_article(device, size, *shape) for shape in size.shapes), *against_smp(device, size),
            *switches(device, size), *folds_at_once(device, size)]


def against_article(device: torch.device, size: Size, px: int, batch: int) -> Result:
    x, masks = tiles(px, batch, device)
    theirs = article.learner(Batches.loaders(x.contiguous(), masks[:, 0].long(), size.steps), network(size), Path())
    theirs.remove_cb(SaveModelCallback)
    return compare(f"{size.steps} training steps, {px} px, {batch} tiles; theirs: fp32, channels first, fastai's own",
                   product_steps(device, size, px, batch), one_epoch(theirs), size.repeats, device)


def against_smp(device: torch.device, size: Size) -> list[Result]:
    """The same step, in seconds for each GFLOP that the two networks need: 1 / (tiles a second and GFLOP a tile)."""
    try:
        from segmentation_models_pytorch import Unet
    except ModuleNotFoundError:
        print("against segmentation_models_pytorch: not installed, skipped; pip install segmentation-models-pytorch")
        return []
    (px, batch), _ = size.shapes[0], None
    unet = Unet("se_resnext50_32x4d" if size.encoder == "se_resnext50_32x4d" else f"tu-{size.encoder}", encoder_weights=None)
    ours, theirs = (size.steps * batch * gflop(model, px) for model in (network(size), unet))
    result = compare(f"{size.steps} training steps, {px} px, {batch} tiles; theirs: segmentation_models_pytorch's Unet, AMP, "
                     f"channels last, {theirs / ours:.0%} of our GFLOP", product_steps(device, size, px, batch),
                     bare_steps(unet, default_way(device), px, batch, size.steps, device), size.repeats, device)
    return [Result(**{**result, "name": f"a GFLOP of those steps; {result['name'].partition('; ')[2]}", "ours": result["ours"] / ours,
                      "theirs": result["theirs"] / theirs, "ratio": result["ratio"] * ours / theirs})]


def switches(device: torch.device, size: Size) -> list[Switched]:
    """Each way against the bare loop that does as the product does; one that this machine cannot go is said and left out."""
    px, batch = size.shapes[0]
    usual = default_way(device)
    results = []
    for title, way in ways(device):
        with _left_out(title, results), set_up(way):
            before = bare_steps(network(size), usual, px, batch, size.steps, device)
            after = product_steps(device, size, px, batch) if way is None else bare_steps(network(size), way, px, batch, size.steps, device)
            results.append(measured(f"switch: {title}", after, before, size, device))
    return results
