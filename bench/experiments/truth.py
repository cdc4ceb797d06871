"""Not at the price of truth: the loss curve of the fast path beside the plain one's, three seeds each.

    python -m bench.experiments.truth

The plain path is the article's: PNG files, fp32, channels first, a loop over tiles in the loss, fastai's optimizer. The
fast path is the product's. Both train the demo's network on the demo's tiles, from the same weights for the same seed.

writes  bench/results/<machine>.truth.json and docs/truth.svg
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner
from fastai.callback.tracker import SaveModelCallback
from matplotlib import pyplot as plt

from bench.__main__ import RESULTS
from bench.baselines import article
from bench.harness.compare import circumstances, machine
from bench.harness.tiles import Tiles, generated
from pipeline.salt.config import PROFILES
from pipeline.salt.device import pick_device
from pipeline.salt.models import build_model
from pipeline.salt.tiles.cache import Cache
from pipeline.salt.tiles.loaders import IMAGENET, get_data
from pipeline.salt.training.learner import build_learner, seed_everything

SEEDS, EPOCHS = (0, 1, 2), 12
PICTURE = Path(__file__).parents[2] / "docs" / "truth.svg"
DEMO = PROFILES["demo"]
STAGE = DEMO.train.stages[0]


class LossCurve(Callback):
    """Mean training loss of each epoch, by tile."""

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


def plain(some: Tiles, model: torch.nn.Module, folder: Path, device: torch.device) -> Learner:
    dls = article.get_data(some.folder, set(some.ids[::3]), STAGE.size, STAGE.batch, device, num_workers=0)
    learn = article.learner(dls, model, folder)
    learn.remove_cbs(SaveModelCallback)
    return learn


def fast(some: Tiles, model: torch.nn.Module, folder: Path, device: torch.device) -> Learner:
    folds = pd.DataFrame({"id": some.ids, "fold": np.arange(len(some.ids)) % 3})
    dls = get_data(
        0,
        folds,
        STAGE.size,
        STAGE.batch,
        cache=Cache(some.images, some.masks, None, None),
        stats=IMAGENET,
        device=device,
    )
    return build_learner(model, dls, STAGE, DEMO.train, [])


def curves(path, some: Tiles, device: torch.device, seeds=SEEDS, epochs: int = EPOCHS) -> list[list[float]]:
    """The loss of each epoch, for each seed."""
    found = []
    for seed in seeds:
        seed_everything(seed)
        model = build_model(DEMO.model.name, DEMO.model.encoder, DEMO.model.options)
        with tempfile.TemporaryDirectory() as folder:
            curve, learn = LossCurve(), path(some, model, Path(folder), device)
            with learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(epochs, slice(STAGE.lr), cbs=curve)
        found.append([round(loss, 4) for loss in curve.means])
        print(f"{path.__name__} path, seed {seed}: {found[-1]}", flush=True)
    return found


def apart(fast: list[list[float]], plain: list[list[float]]) -> float:
    """Distance of the two mean curves in standard deviations of the plain seeds, both averaged over the epochs."""
    a, b = np.array(fast), np.array(plain)
    return float(np.abs(a.mean(0) - b.mean(0)).mean() / b.std(0, ddof=1).mean())


def draw(record: dict) -> None:
    figure, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, colour in [("plain", "0.35"), ("fast", "#ff7f0e")]:
        runs = np.array(record[name])
        epochs = np.arange(1, runs.shape[1] + 1)
        ax.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.25, linewidth=0)
        ax.plot(epochs, runs.mean(0), color=colour, label=f"{name} path, {len(runs)} seeds")
    ax.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    ax.legend(frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    device, some = pick_device(), generated(DEMO.sample.train)
    run = partial(curves, some=some, device=device)
    record = {
        "machine": machine(device),
        "device": device.type,
        **circumstances(),
        "plain": run(plain),
        "fast": run(fast),
    }
    record["apart"] = round(apart(record["fast"], record["plain"]), 2)
    print(f"the mean curves are {record['apart']} standard deviations of the plain seeds apart")
    path = RESULTS / f"{record['machine']}.truth.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    draw(record)


if __name__ == "__main__":
    main()
