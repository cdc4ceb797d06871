"""Score of every model after equally many seconds of training, on one fold of the same tiles.

    SALT_TILES=DIR SALT_WEIGHTS=DIR python -m bench.experiments.models

Each is trained in a process of its own with the product's learner, from ImageNet weights if SALT_WEIGHTS has them for
its encoder; the one-cycle schedule goes by the clock. No flip TTA, no rules.

writes  bench/results/<machine>.models.json, the table in docs/models.md
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.schedule import combined_cos
from torch import nn

from bench.harness.records import REPOSITORY, RESULTS, machine_name, provenance, write_generated, write_record
from bench.harness.tiles import load_tiles
from pipeline.salt.config import Phase, Train
from pipeline.salt.device import forget_peak, peak_memory, pick_device
from pipeline.salt.folds import coverage
from pipeline.salt.inference import InferenceSettings, tile_logits
from pipeline.salt.metrics import tile_scores
from pipeline.salt.models import build_model
from pipeline.salt.models.encoders.weights import find_weights, load_imagenet
from pipeline.salt.tiles import Tiles
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training.learner import build_learner

PAGE = REPOSITORY / "docs" / "models.md"
LITE = "tf_efficientnet_lite0"
MODELS = [  # name, encoder, options
    ("unet_resnext50", LITE, {}),
    ("unet_resnext50", LITE, {"scse": True, "stem_skip": True, "deep_supervision": True, "classifier": True}),
    ("dynamic_unet", LITE, {}),
    ("more_dynamic_unet", LITE, {}),
    ("more_dynamic_unet", LITE, {"reduction": "eq_skip"}),
    ("resnet_unet", LITE, {}),
    ("unet_attention", "resnet18", {}),  # takes ResNets only
]


@dataclass(frozen=True)
class Budget:
    """Training budget of each model."""

    seconds: float = 100.0
    size: int = 64  # px
    batch: int = 16
    lr: float = 1.5e-3


class Row(TypedDict):
    """One model's result."""

    model: str
    encoder: str
    options: dict
    weights: str  # "ImageNet" | "random"
    parameters: int
    tiles: int  # trained on, with repeats
    seconds: float
    score: float  # Kaggle's, on the held-out fold
    memory: float  # peak, GiB, of the process or on the GPU


class TimedOneCycle(Callback):
    """One cycle of fastai's schedule over `seconds`, after which training ends; no validation.

    On a GPU the time starts after five batches, in which cuDNN searches for its fastest algorithms.
    """

    def __init__(self, seconds: float, lr: float, clock: Callable[[], float]):
        self.seconds, self.clock = seconds, clock
        self.lr, self.momentum = combined_cos(0.25, lr / 25, lr, lr / 1e5), combined_cos(0.25, 0.95, 0.85, 0.95)

    def before_fit(self):
        self.start, self.tiles = self.clock(), 0

    def before_batch(self):
        if self.dls.device.type == "cuda" and self.train_iter == 5:
            forget_peak(self.dls.device)
            self.before_fit()
        done = (self.clock() - self.start) / self.seconds
        if done >= 1:
            raise CancelFitException
        self.opt.set_hyper("lr", self.lr(done))
        self.opt.set_hyper("mom", self.momentum(done))
        self.tiles += len(self.xb[0])

    def before_validate(self):
        raise CancelValidException

    def after_fit(self):
        self.taken = self.clock() - self.start


def train(name: str, encoder: str, options: dict, budget: Budget) -> Row:
    """Train one model for the budget, and score it on the held-out fold."""
    torch.manual_seed(0)
    model = build_model(name, encoder, options)
    parameters, weights = sum(p.numel() for p in model.parameters()), "random"
    folder = os.environ.get("SALT_WEIGHTS")
    if folder and find_weights(encoder, Path(folder)):
        load_imagenet(model.encoder, Path(folder))
        weights = "ImageNet"
    masks, truth, schedule = train_for(model, budget)
    return Row(
        model=name,
        encoder=encoder,
        options=options,
        weights=weights,
        parameters=parameters,
        tiles=schedule.tiles,
        seconds=round(schedule.taken, 1),
        score=round(tile_scores(masks, truth).mean().item(), 4),
        memory=round(peak_memory(pick_device()), 2),
    )


def train_for(
    model: nn.Module, budget: Budget, clock: Callable[[], float] = time.perf_counter
) -> tuple[np.ndarray, np.ndarray, TimedOneCycle]:
    """Train a model for the budget; return its masks of the held-out fold (N, 101, 101) bool, the truth, the schedule.

    model  with an `encoder` that has mean and std;  clock  measures the seconds
    """
    device, tiles = pick_device(), load_tiles()
    share, black = tiles.masks.mean((1, 2)), ~tiles.images.any((1, 2))
    table = pd.DataFrame({"id": tiles.ids, "coverage": share, "black": black, "z": 0})
    table["fold"] = coverage(table, k=5)
    stats = (model.encoder.mean, model.encoder.std)
    dls = get_data(
        0,
        table,
        budget.size,
        budget.batch,
        tiles=Tiles(tiles.images, tiles.masks, tiles.images[:0], table),
        stats=stats,
        device=device,
    )
    phase = Phase(size=budget.size, batch=budget.batch, epochs=1, lr=budget.lr)
    schedule = TimedOneCycle(budget.seconds, budget.lr, clock)
    learn = build_learner(model, dls, phase, Train(phases=(phase,), wd=1e-2), [schedule])
    with learn.no_bar(), learn.no_logging():
        learn.fit(10**6)
    held_out = np.flatnonzero(table["fold"] == 0)
    settings = InferenceSettings(sizes=(budget.size,), batch=64, flip=False, precision="fp32", devices=(device,))
    batches = tile_logits(model, tiles.images, held_out, settings)
    return np.concatenate([logits for _, logits in batches]) > 0, tiles.masks[held_out], schedule


def table(record: dict) -> str:
    """A machine's record as Markdown."""
    rows = ["| model | encoder, weights | parameters | tiles trained | score | memory |", "|---|---|--:|--:|--:|--:|"]
    for row in record["rows"]:
        name = f"{row['model']} {' '.join(f'{k}={v}' for k, v in row['options'].items())}".strip()
        rows.append(
            f"| {name} | {row['encoder']}, {row['weights']} | {row['parameters'] / 1e6:.1f} M "
            f"| {row['tiles']:,} | {row['score']:.3f} | {row['memory']:.1f} GiB |"
        )
    budget = record["budget"]
    return (
        f"{budget['seconds']:.0f} seconds of training each at {budget['size']} px, batch {budget['batch']}, "
        f"{record['tiles']:,} {record['kind']} tiles, a fifth of them held out; {record['machine']}, "
        f"{record['date']}, load {record['load']:.1f}.\n\n" + "\n".join(rows) + "\n"
    )


def main() -> None:
    device = pick_device()
    budget = Budget(seconds=40, size=128, batch=32) if device.type == "cuda" else Budget()
    record = {
        "machine": machine_name(device),
        "device": device.type,
        **provenance(),
        "load": os.getloadavg()[0],
        "budget": vars(budget),
        "tiles": len(load_tiles().ids),
        "kind": load_tiles().kind,
        "rows": [],
    }
    for name, encoder, options in MODELS:
        with get_context("spawn").Pool(1) as pool:  # to measure its own peak memory
            row = pool.apply(train, (name, encoder, options, budget))
        record["rows"].append(row)
        print(f"{name} {options}: {row['score']:.4f} after {row['tiles']:,} tiles", flush=True)
        write_record(RESULTS / f"{record['machine']}.models.json", record)
    write_page()


def write_page() -> None:
    """Write the tables of all machines into docs/models.md."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.models.json"))]
    write_generated(PAGE, "\n".join(map(table, records)))


if __name__ == "__main__":
    main()
