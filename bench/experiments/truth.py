"""Loss curves of the product's training and of plain fastai's, three seeds each: does the fast path train the same?

    python -m bench.experiments.truth

The plain side is the article's: PNG files, fp32, channels first, a loop over tiles in the loss, fastai's optimizer.
Both train the demo's model on the demo's tiles; the same seed gives both the same initial weights.

writes  bench/results/<machine>.truth.json and docs/truth.svg
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.callback.tracker import SaveModelCallback
from fastai.vision.core import imagenet_stats
from matplotlib import pyplot as plt
from torch import nn

from bench.baselines import article
from bench.harness.records import REPOSITORY, RESULTS, machine_name, provenance, write_record
from bench.harness.tiles import BenchTiles, generate_tiles
from pipeline.salt.config import PROFILES
from pipeline.salt.device import pick_device
from pipeline.salt.models import build_model
from pipeline.salt.tiles import Tiles
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training.learner import build_learner

SEEDS, EPOCHS = (0, 1, 2), 12
PICTURE = REPOSITORY / "docs" / "truth.svg"
DEMO = PROFILES["demo"]
PHASE = DEMO.train.phases[0]


class LossCurve(Callback):
    """Training loss of each epoch, the mean over tiles."""

    def before_fit(self):
        self.means = []

    def before_epoch(self):
        self.sums, self.tiles = torch.zeros((), device=self.dls.device), 0

    def after_loss(self):
        if self.training:
            n = len(self.yb[0])
            self.sums, self.tiles = self.sums + self.loss.detach().float() * n, self.tiles + n

    def after_epoch(self):
        self.means.append((self.sums / self.tiles).item())


def plain(tiles: BenchTiles, model: nn.Module, folder: Path, device: torch.device) -> Learner:
    """The article's Learner."""
    dls = article.get_data(tiles.folder, set(tiles.ids[::3]), PHASE.size, PHASE.batch, device, num_workers=0)
    learn = article.get_learner(dls, model, folder)
    learn.remove_cbs(SaveModelCallback)
    return learn


def fast(tiles: BenchTiles, model: nn.Module, folder: Path, device: torch.device) -> Learner:
    """The product's Learner."""
    folds = pd.DataFrame({"id": tiles.ids, "fold": np.arange(len(tiles.ids)) % 3})
    dls = get_data(
        0,
        folds,
        PHASE.size,
        PHASE.batch,
        tiles=Tiles(tiles.images, tiles.masks, tiles.images[:0], folds),
        stats=imagenet_stats,
        device=device,
    )
    return build_learner(model, dls, PHASE, DEMO.train, [])


def loss_curves(
    side: Callable[..., Learner], tiles: BenchTiles, device: torch.device, seeds=SEEDS, epochs: int = EPOCHS
) -> list[list[float]]:
    """Training loss of each epoch, for each seed; side: plain | fast."""
    curves = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = build_model(DEMO.model.name, DEMO.model.encoder, DEMO.model.options)
        with tempfile.TemporaryDirectory() as folder:
            curve, learn = LossCurve(), side(tiles, model, Path(folder), device)
            with learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(epochs, slice(PHASE.lr), cbs=curve)
        curves.append([round(loss, 4) for loss in curve.means])
        print(f"{side.__name__}, seed {seed}: {curves[-1]}", flush=True)
    return curves


def distance(fast: list[list[float]], plain: list[list[float]]) -> float:
    """Distance of the two mean curves in standard deviations of the plain seeds, each averaged over the epochs."""
    a, b = np.array(fast), np.array(plain)
    return float(np.abs(a.mean(0) - b.mean(0)).mean() / b.std(0, ddof=1).mean())


def draw(record: dict) -> None:
    """Write docs/truth.svg: mean and range of the seeds of both sides."""
    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, colour in [("plain", "0.35"), ("fast", "#ff7f0e")]:
        curves = np.array(record[name])
        epochs = np.arange(1, curves.shape[1] + 1)
        ax.fill_between(epochs, curves.min(0), curves.max(0), color=colour, alpha=0.25, linewidth=0)
        ax.plot(epochs, curves.mean(0), color=colour, label=f"{name} path, {len(curves)} seeds")
    ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    ax.legend(frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    device, tiles = pick_device(), generate_tiles(DEMO.sample.train)
    record = {
        "machine": machine_name(device),
        "device": device.type,
        **provenance(),
        "plain": loss_curves(plain, tiles, device),
        "fast": loss_curves(fast, tiles, device),
    }
    record["distance"] = round(distance(record["fast"], record["plain"]), 2)
    print(f"the mean curves are {record['distance']} standard deviations of the plain seeds apart")
    write_record(RESULTS / f"{record['machine']}.truth.json", record)
    draw(record)


if __name__ == "__main__":
    main()
