"""Setup of a fold's training: the model with its initial weights, and the tiles."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from fastai.data.core import DataLoaders
from torch import nn

from pipeline.salt import published, stages
from pipeline.salt.config import Phase
from pipeline.salt.device import pick_device
from pipeline.salt.distributed import visible_gpus
from pipeline.salt.errors import InputError
from pipeline.salt.models.encoders.contract import Encoder
from pipeline.salt.models.encoders.weights import load_imagenet
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints, pseudo


@dataclass(frozen=True)
class FoldSetup:
    """What the training of one fold starts from.

    init_from  source of the weights: the file of the previous phase, an ImageNet file, or "random weights"
    """

    model: nn.Module
    dls: DataLoaders
    seed: int
    init_from: str


def set_up_fold(run: Run, fold: int, phase: Phase) -> FoldSetup:
    """Model and tiles with which fold k starts to train in this phase.

    InputError if the profile needs a GPU and torch cannot use the one in this machine.
    """
    profile, device = run.profile, pick_device()
    if profile.needs_gpu and device.type == "cpu" and visible_gpus():
        raise InputError(
            f"profile {profile.name} needs a GPU, and torch {torch.__version__} cannot use the one here; "
            "install the torch build for its driver (https://pytorch.org), or use --profile cpu"
        )
    if profile.needs_gpu and device.type == "cpu":
        print(f"note     profile {profile.name} is made for a GPU, but there is none; --profile cpu suits this machine")
    seed = profile.train.seed + fold
    torch.manual_seed(seed)  # for the random weights
    model, init_from = checkpoints.build(profile.model), "random weights"
    encoder = cast(Encoder, model.encoder)  # torch types attributes as Tensor | Module
    if before := profile.train.before(phase):
        path = stages.trained(run, fold, before)["best"].file()
        checkpoints.load(path, model)
        init_from = path.name
    elif profile.model.weights == "imagenet":
        init_from = Path(load_imagenet(encoder, run.weights)).name
    tiles = cache.read(run.files)
    dls = get_data(
        fold,
        published.read_folds(run, tiles),
        phase.size,
        phase.batch,
        tiles=tiles,
        augment=profile.augment,
        stats=(encoder.mean, encoder.std),
        device=device,
        extra=pseudo.read(run.files, fold, tiles) if phase.pseudo else None,
    )
    return FoldSetup(model, dls, seed, init_from)
