"""Fit one fold at one size with fastai's Learner and one of its schedules."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import TrainEvalCallback
from fastai.callback.schedule import Learner, ParamScheduler, combine_scheds, combined_cos
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from pipeline.salt.config import Stage, Train
from pipeline.salt.device import depthwise_in_fp32, resolve_precision
from pipeline.salt.distributed import world_size
from pipeline.salt.errors import InputError, did_you_mean
from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.training.callbacks import Autocast, EpochLog, FrozenFirst, KeepBest, RankShare, Resume

# fastai's Adam (decoupled weight decay, squares remembered at 0.99) as one fused kernel. One difference: torch's decays
# biases and BatchNorm too, which fastai's own spares; at the article's 1e-7 that is nothing.
# https://docs.fast.ai/optimizer.html
FUSED_ADAM = partial(OptimWrapper, opt=torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-5, fused=True)


@dataclass(frozen=True)
class Fitted:
    """weights  of the best and of the last epoch, on the CPU;  rows  the history, one an epoch (see EpochLog)"""

    best: dict[str, Tensor]
    last: dict[str, Tensor]
    rows: list[dict]

    @property
    def best_row(self) -> dict:
        return max(self.rows, key=lambda row: row["meanap"])  # the first of equals, as KeepBest has it


def fit_fold(
    model: nn.Module,
    dls: DataLoaders,
    stage: Stage,
    train: Train,
    *,
    name: str,
    seed: int,
    resume: Path,
    key: str,
    save_every: float = 120.0,
) -> Fitted:
    """Train `model` (in place) for one stage; go on from the state in `resume` if it was left by the same training.

    name  what the lines on the screen begin with;  seed  of everything random here
    key   what this training is made from;  save_every  seconds between saved states
    """
    seed_everything(seed)
    dls.train.rng = random.Random(seed)  # the order of the tiles
    log = EpochLog(name, dls.device)
    best = KeepBest(log)
    state = Resume(resume, key, log, best, save_every)
    learn = build_learner(model, dls, stage, train, [log, best, state])
    done = state.load()
    with learn.no_bar(), over_ranks(learn, stage, train):
        if train.schedule == "fine_tune":
            fine_tune(learn, stage.epochs, stage.lr, start_epoch=done)
        else:
            learn.fit_one_cycle(stage.epochs, slice(stage.lr), start_epoch=done)
    return Fitted(_on_cpu(best.weights), _on_cpu(model.state_dict()), log.rows)


def build_learner(model: nn.Module, dls: DataLoaders, stage: Stage, train: Train, cbs: list, **kwargs) -> Learner:
    """fastai's Learner with the loss, the optimizer and the number format of the profile, on the device of `dls`."""
    if train.loss not in LOSSES:
        raise InputError(f"train.loss={train.loss} is no loss that is known; {did_you_mean(train.loss, LOSSES)}")
    device = dls.device
    model.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        depthwise_in_fp32(model)
    if train.compile != "no":
        torch.compiler.reset()  # the graphs of all networks of a process count together, and eight is the most
        model.compile(mode=train.compile, dynamic=False)  # in place: the weights keep their names
    precision = resolve_precision(train.precision, device)
    if train.schedule == "fine_tune":
        kwargs["splitter"] = groups
    return Learner(
        dls,
        model,
        loss_func=partial(loss_at_mask_size, composite(LOSSES[train.loss])),
        opt_func=FUSED_ADAM,
        lr=stage.lr,
        wd=train.wd,
        default_cbs=False,
        cbs=[TrainEvalCallback(), Autocast(precision, device), *cbs],
        **kwargs,
    )


def groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """What fine_tune gives rates of their own, the encoder first: as the network has it, else encoder and the rest."""
    if hasattr(model, "groups"):
        return model.groups()
    encoder = [*model.encoder.parameters()]
    known = set(encoder)
    return [encoder, [p for p in model.parameters() if p not in known]]


def fine_tune(learn: Learner, epochs: int, lr: float, start_epoch: int = 0) -> None:
    """fastai's Learner.fine_tune, to the last bit, as one fit of epochs + 1: its own makes two, and cannot be resumed.

    The decoder learns alone for an epoch, up to lr; then all of it, up to lr / 200 in the first layers and lr / 2 in
    the last. https://docs.fast.ai/callback.schedule.html
    """
    learn.create_opt()
    n = len(learn.opt.hypers)
    alone, rates = np.array([lr / 10] * (n - 1) + [lr]), np.geomspace(lr / 200, lr / 2, n)
    share = [1 / (epochs + 1), epochs / (epochs + 1)]
    learn.fit(
        epochs + 1,
        start_epoch=start_epoch,
        cbs=[
            FrozenFirst(),
            ParamScheduler(
                {
                    "lr": combine_scheds(
                        share,
                        [
                            combined_cos(0.99, alone / 25, alone, alone / 1e5),
                            combined_cos(0.3, rates / 5, rates, rates / 1e5),
                        ],
                    ),
                    "mom": combine_scheds(share, [combined_cos(0.99, *learn.moms), combined_cos(0.3, *learn.moms)]),
                }
            ),
        ],
    )


@contextlib.contextmanager
def over_ranks(learn: Learner, stage: Stage, train: Train) -> Iterator[None]:
    """Inside it all ranks train one network; gradients and, on GPUs, BatchNorm's statistics are the whole batch's.

    https://docs.fast.ai/distributed.html, but for its DistributedDL: it repeats tiles until all shares are equal, and
    they would count twice in the score. Here every rank makes the same batches, random changes too, and takes a part.
    """
    if world_size() == 1:
        yield
        return
    if train.schedule == "fine_tune":  # what is frozen when the ranks are joined would never be averaged over them
        raise InputError("train.schedule=fine_tune trains in one process; start one, or set train.schedule=one_cycle")
    if train.compile != "no":  # how it goes with SyncBatchNorm's messages has not been tried
        raise InputError(f"train.compile={train.compile} is for one process; start one, or set train.compile=no")
    if stage.batch % world_size():
        raise InputError(
            f"a batch of {stage.batch} tiles cannot be shared out evenly to {world_size()} processes; set "
            f"train.batch to a multiple of {world_size()}, or start fewer"
        )
    import fastai.distributed  # noqa: F401    gives Learner.distrib_ctx

    with learn.distrib_ctx(sync_bn=learn.dls.device.type == "cuda", mixed_precision="no"):  # train.precision says
        learn.distributed_trainer._wrap_dl = lambda dl: dl
        learn.add_cb(RankShare())
        yield


def seed_everything(seed: int) -> None:
    """One seed for the random weights, dropout and augmentation."""
    torch.manual_seed(seed)


def loss_at_mask_size(loss, logits, masks: Tensor) -> Tensor:
    """The loss, with the logits brought to the size of the masks first: to 101 px in validation.

    In training the sizes are equal, and a network with auxiliary heads returns them too (models.blocks.Heads).
    """
    return loss(to_tile(logits, masks.shape[-2:]) if isinstance(logits, Tensor) else logits, masks)


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w.detach().to("cpu").contiguous() for name, w in weights.items()}
