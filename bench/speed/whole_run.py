"""The whole of profile blog, ours against the article's script, extrapolated from an epoch at each size and some TTA.

    python -m bench.speed.whole_run

Counted are ten folds' epochs at both sizes, with validation and score, and the TTA of 18,000 test tiles by ten folds
(and for ours of the out-of-fold tiles). Not counted, on both sides: saving the best epoch, and what is done once.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.learner import Learner

from bench.baselines import article
from bench.baselines.bare_loop import Steps
from bench.harness.compare import Result, compare
from bench.harness.tiles import tiles
from bench.speed import inference
from pipeline.salt.config import PROFILES, Stage
from pipeline.salt.device import pick_device
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles.cache import Cache
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training.callbacks import EpochLog, KeepBest
from pipeline.salt.training.learner import build_learner

BLOG = PROFILES["blog"]
LABELLED, TEST = 4_000, 18_000  # Kaggle's tiles


@dataclass(frozen=True)
class Size:
    """What is measured; the rest is extrapolated from it, tile for tile."""

    train: int  # tiles of an epoch
    valid: int
    test: inference.Size
    batch: int | None = None  # in the place of the profile's
    encoder: str = "se_resnext50_32x4d"
    workers: int | None = None  # of the article's loaders; None is fastai's usual number


SIZES = {
    "cuda": Size(train=3_232, valid=360, test=replace(inference.SIZES["cuda"], tiles=3_600)),
    # Enough that an epoch is made of its tiles, not of what begins and ends it.
    "cpu": Size(train=32, valid=8, batch=8, test=replace(inference.SIZES["cpu"], px=224, tiles=16, repeats=1)),
}


class Hours(Result):
    unit: str


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    epochs = []
    for stage in BLOG.train.stages:
        epochs.append(one_epoch(device, size, replace(stage, batch=size.batch or stage.batch)))
        yield epochs[-1]
    tta = inference.against_article(device, size.test)
    yield tta
    ours, theirs = (hours(epochs, tta, size, side) for side in ("ours", "theirs"))
    name = f"profile blog, EXTRAPOLATED from epochs of {size.train:,} tiles and TTA of {size.test.tiles:,}"
    print(f"{name}: ours {ours:.2f} h, theirs {theirs:.2f} h, {theirs / ours:.1f}x")
    yield Hours(
        name=name,
        device=device.type,
        repeats=1,
        ours=ours,
        theirs=theirs,
        ratio=theirs / ours,
        load=max(r["load"] for r in epochs),
        unit="h",
    )


def hours(epochs: list[Result], tta: Result, size: Size, side: str) -> float:
    """Of the whole run, from seconds for what was measured."""
    folds, growth = BLOG.run_folds, LABELLED / (size.train + size.valid)
    epochs_of_a_fold = sum(s.epochs * epoch[side] for s, epoch in zip(BLOG.train.stages, epochs, strict=True))
    training = folds * growth * epochs_of_a_fold
    predicted = folds * TEST + (LABELLED if side == "ours" else 0)
    return (training + predicted / size.test.tiles * tta[side]) / 3600


def one_epoch(device: torch.device, size: Size, stage: Stage) -> Result:
    some, n = tiles(), size.train + size.valid
    ids = some.ids[:n]
    held_out = ids[size.train :]
    folds = pd.DataFrame({"id": ids, "fold": (np.arange(n) >= size.train).astype(int)})
    cache = Cache(some.images[:n], some.masks[:n], some.images[:0], folds)
    dls = get_data(1, folds, stage.size, stage.batch, cache=cache, how=BLOG.augment, device=device)
    log = EpochLog("ours", device)
    ours = build_learner(UnetResNext50(size.encoder), dls, stage, BLOG.train, [log, KeepBest(log)])

    their_data = article.get_data(
        some.folder, set(held_out), stage.size, stage.batch, device, only=set(ids), num_workers=size.workers
    )
    theirs = article.learner(their_data, UnetResNext50(size.encoder), Path())
    theirs.remove_cb(SaveModelCallback)  # it would save and load at every call here, at the best epochs in truth
    name = f"epoch of {size.train:,} + {size.valid:,} {some.kind} tiles at {stage.size} px; theirs: the article's"
    return compare(name, quiet_epoch(ours, stage), quiet_epoch(theirs, stage), 1, device, warm_up=1)


def quiet_epoch(learn: Learner, stage: Stage) -> Steps:
    def fit() -> None:
        with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
            learn.fit_one_cycle(1, slice(stage.lr))

    return fit


if __name__ == "__main__":
    list(run(pick_device()))
