"""Score with and without Adam's moments carried from one phase to the next, as fastai's save and load would.

    python -m bench.experiments.moments DATA WEIGHTS --seed 0

Fold 0 of the real tiles with the lean U-Net: 64 px, then 80 px twice from the same weights. Prints one row per seed;
the score is that of the last epoch on the held-out tiles, without flips.
"""

import argparse
import copy
import random
from pathlib import Path

import pandas as pd
import torch

from pipeline.salt.config import PROFILES, Model, Phase
from pipeline.salt.device import pick_device
from pipeline.salt.folds import coverage
from pipeline.salt.models.encoders.weights import load_imagenet
from pipeline.salt.tiles import competition
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints
from pipeline.salt.training.callbacks import EpochLog
from pipeline.salt.training.learner import TileLearner, build_learner

FIRST, SECOND = Phase(size=64, batch=16, epochs=3, lr=1.5e-3), Phase(size=80, batch=16, epochs=2, lr=1.5e-3)
CPU = PROFILES["cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with Kaggle's files")
    parser.add_argument("weights", type=Path, help="folder with ImageNet weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tiles, _ = competition.read(args.data)
    table = tiles.train_table
    table["fold"] = coverage(table, k=5)

    def fit(model: torch.nn.Module, phase: Phase, title: str, moments: dict | None = None) -> tuple[TileLearner, float]:
        stats = (model.encoder.mean, model.encoder.std)
        dls = get_data(
            0, table, phase.size, phase.batch, tiles=tiles, augment=CPU.augment, stats=stats, device=pick_device()
        )
        torch.manual_seed(args.seed)
        dls.train.rng = random.Random(args.seed)
        log = EpochLog(title, dls.device)
        learn = build_learner(model, dls, phase, CPU.train, [log])
        learn.create_opt()
        if moments:
            learn.opt.load_state_dict(moments)
        with learn.no_bar():
            learn.fit_one_cycle(phase.epochs, learn.one_cycle_rates(phase.lr))
        return learn, log.rows[-1]["meanap"]

    torch.manual_seed(args.seed)
    model = checkpoints.build(Model(name="unet_lean", encoder=CPU.model.encoder))
    load_imagenet(model.encoder, args.weights)
    learn, _ = fit(model, FIRST, f"seed {args.seed}  64 px")
    weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(learn.opt.state_dict())
    row = {"seed": args.seed}
    for name, state in [("at zero", None), ("carried", moments)]:
        model = checkpoints.build(Model(name="unet_lean", encoder=CPU.model.encoder))
        model.load_state_dict(weights)
        _, row[name] = fit(model, SECOND, f"seed {args.seed}  80 px, moments {name}", state)
    print(pd.DataFrame([row]).to_string(index=False))


if __name__ == "__main__":
    main()
