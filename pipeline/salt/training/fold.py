"""What the training of one fold begins with: the network with its first weights, and the tiles."""

import gc
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from fastai.data.core import DataLoaders
from torch import nn

from pipeline.salt.cli import Run
from pipeline.salt.config import PSEUDO, Stage
from pipeline.salt.device import pick_device
from pipeline.salt.errors import InputError
from pipeline.salt.launch import visible_gpus
from pipeline.salt.models.encoders.weights import load_imagenet
from pipeline.salt.tiles import cache
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints, pseudo
from pipeline.salt.training.learner import seed_everything


@dataclass(frozen=True)
class Fold:
    """weights  where the network's come from: a checkpoint of the size before, a file of ImageNet's, or in words"""

    model: nn.Module
    dls: DataLoaders
    stage: Stage
    seed: int
    weights: Path | str


def set_up_fold(run: Run, fold: int, size: int | str) -> Fold:
    """The network of fold k as its training at `size` (or the step PSEUDO) begins, and the tiles it is given.

    InputError where the profile needs a GPU and torch cannot use the one that is there.
    """
    gc.collect()  # a Learner and its callbacks hold each other, and with them the last training's memory on the GPU
    profile, device = run.profile, pick_device()
    if profile.needs_gpu and device.type == "cpu" and visible_gpus():
        raise InputError(
            f"profile {profile.name} needs a GPU, and torch {torch.__version__} cannot use the one here; "
            "install the build of torch for its driver (https://pytorch.org), or use --profile cpu"
        )
    stage, before = profile.stage(size)
    seed = profile.train.seed + fold
    seed_everything(seed)
    model = checkpoints.network(profile.model)
    weights: Path | str = "random weights"
    if before:
        weights = run.files.checkpoint(fold, before.size)
        checkpoints.load(weights, model)
    elif profile.model.weights == "imagenet":
        weights = load_imagenet(model.encoder, run.weights)
    folds = pd.read_csv(run.files.folds, dtype={"id": str})
    tiles = cache.read(run.files)
    dls = get_data(
        fold,
        folds,
        stage.size,
        stage.batch,
        cache=tiles,
        how=profile.augment,
        stats=(model.encoder.mean, model.encoder.std),
        device=device,
        more=pseudo.read(run.files, fold, tiles) if size == PSEUDO else None,
    )
    return Fold(model, dls, stage, seed, weights)
