"""Hours of a whole run of profile blog, ours and the article's, extrapolated from an epoch at each size and some TTA.

    python -m bench.speed.whole_run

Counted: ten folds' epochs at both sizes, with validation and score, and TTA of the 18,000 test tiles by ten folds (for
ours also of the out-of-fold tiles). Not counted, on either side: saving the best epoch, and work that is done once.
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
from bench.harness.compare import Result, compare, make_result
from bench.harness.tiles import load_tiles
from bench.speed import inference
from pipeline.salt.config import PROFILES, Phase
from pipeline.salt.device import pick_device
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles import Tiles
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training.callbacks import EpochLog, KeepBest
from pipeline.salt.training.learner import build_learner

BLOG = PROFILES["blog"]
LABELLED, TEST = 4_000, 18_000  # Kaggle's tiles


@dataclass(frozen=True)
class Size:
    """What is measured; the rest is extrapolated by the number of tiles."""

    train: int  # tiles of an epoch
    valid: int
    test: inference.Size
    batch: int | None = None  # in place of the profile's
    encoder: str = "se_resnext50_32x4d"
    workers: int | None = None  # of the article's loaders; None is fastai's default


SIZES = {
    "cuda": Size(train=3_232, valid=360, test=replace(inference.SIZES["cuda"], tiles=3_600)),
    # Enough tiles to outweigh the start and the end of an epoch.
    "cpu": Size(train=32, valid=8, batch=8, test=replace(inference.SIZES["cpu"], px=224, tiles=16, repeats=1)),
}


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    epochs = []
    for phase in BLOG.train.phases:
        epochs.append(compare_epochs(device, size, replace(phase, batch=size.batch or phase.batch)))
        yield epochs[-1]
    tta = inference.against_article(device, size.test)
    yield tta
    ours, theirs = (hours(epochs, tta, size, side) for side in ("ours", "theirs"))
    name = f"profile blog, EXTRAPOLATED from epochs of {size.train:,} tiles and TTA of {size.test.tiles:,}"
    print(f"{name}: ours {ours:.2f} h, theirs {theirs:.2f} h, {theirs / ours:.1f}x")
    yield make_result(name, device.type, 1, ours, theirs, load=max(r["load"] for r in epochs), unit="h")


def hours(epochs: list[Result], tta: Result, size: Size, side: str) -> float:
    """Hours of the whole run, from the measured seconds."""
    folds, growth = BLOG.run_folds, LABELLED / (size.train + size.valid)
    epochs_of_a_fold = sum(p.epochs * epoch[side] for p, epoch in zip(BLOG.train.phases, epochs, strict=True))
    training = folds * growth * epochs_of_a_fold
    predictions = folds * TEST + (LABELLED if side == "ours" else 0)
    return (training + predictions / size.test.tiles * tta[side]) / 3600


def compare_epochs(device: torch.device, size: Size, phase: Phase) -> Result:
    tiles, n = load_tiles(), size.train + size.valid
    ids = tiles.ids[:n]
    held_out = ids[size.train :]
    folds = pd.DataFrame({"id": ids, "fold": (np.arange(n) >= size.train).astype(int)})
    model = UnetResNext50(size.encoder)
    dls = get_data(
        1,
        folds,
        phase.size,
        phase.batch,
        tiles=Tiles(tiles.images[:n], tiles.masks[:n], tiles.images[:0], folds),
        stats=(model.encoder.mean, model.encoder.std),
        augment=BLOG.augment,
        device=device,
    )
    ours = build_learner(model, dls, phase, BLOG.train, [EpochLog("ours", device), KeepBest()])

    their_dls = article.get_data(
        tiles.folder, set(held_out), phase.size, phase.batch, device, only=set(ids), num_workers=size.workers
    )
    theirs = article.get_learner(their_dls, UnetResNext50(size.encoder), Path())
    theirs.remove_cb(SaveModelCallback)  # here it would save and load at every call, in a run only at best epochs
    name = f"epoch of {size.train:,} + {size.valid:,} {tiles.kind} tiles at {phase.size} px; theirs: the article's"
    return compare(name, silent_epoch(ours, phase), silent_epoch(theirs, phase), 1, device, warm_up=1)


def silent_epoch(learn: Learner, phase: Phase) -> Steps:
    def fit() -> None:
        with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()):
            learn.fit_one_cycle(1, slice(phase.lr))

    return fit


if __name__ == "__main__":
    list(run(pick_device()))
