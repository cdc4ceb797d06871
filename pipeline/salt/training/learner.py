"""Training of one fold in one phase, with fastai's Learner and one of its schedules.

One training step, in order, with the file of each part:
    a batch of tiles        tiles/loaders.py: uint8 tiles that are already on the device, at the phase's size
    random changes          tiles/augment.py: flip, zoom, brightness in one grid sample; then normalised
    number format on        training/callbacks.py, Autocast
    forward                 models/<name>.py
    loss                    losses.py, through `LossAtMaskSize` here; number format off
    backward, optimizer     torch's fused AdamW, FUSED_ADAM here; learning rate and momentum by fastai's schedule
    history                 training/callbacks.py, EpochLog: sums that stay on the device until the epoch ends
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, TrainEvalCallback
from fastai.callback.schedule import Learner, ParamScheduler, combine_scheds, combined_cos
from fastai.data.core import DataLoaders
from fastai.optimizer import OptimWrapper
from fastai.torch_core import norm_bias_params
from torch import Tensor, nn

from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Phase, Train
from pipeline.salt.device import move_, resolve_precision
from pipeline.salt.distributed import world_size
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.inference import flip_tta
from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.training.callbacks import Autocast, BatchShard, EpochLog, KeepBest, RandomState, WeightAverage
from pipeline.salt.training.depthwise import speed_up_depthwise_
from pipeline.salt.training.resume import Resume

# fastai's Adam (decoupled weight decay, beta2 0.99) as one fused kernel. As in fastai, biases and BatchNorm do not
# decay: `build_learner` gives them groups of their own. https://docs.fast.ai/optimizer.html
FUSED_ADAM = partial(OptimWrapper, opt=torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-5, fused=True)


@dataclass(frozen=True)
class Fitted:
    """Result of training a fold in one phase.

    weights  state dicts on the CPU: of the 'best' and the 'last' epoch, and the 'average' if there is one
    rows     the history, one row per epoch (see EpochLog)
    """

    weights: dict[str, dict[str, Tensor]]
    rows: list[dict]

    def row(self, epoch: str) -> dict:
        """Row of the history for the 'best' epoch (the first of equals, as in KeepBest), otherwise for the last one."""
        return max(self.rows, key=lambda row: row["meanap"]) if epoch == "best" else self.rows[-1]


def fit_fold(
    model: nn.Module,
    dls: DataLoaders,
    phase: Phase,
    train: Train,
    *,
    title: str,
    seed: int,
    resume: Path,
    origin: Origin,
    force: bool = False,
    save_every: float = 120.0,
    deadline: float = math.inf,
    trackers: Sequence[Callback] = (),
    stop: Callable[[], int] = lambda: 0,
) -> Fitted:
    """Train `model` in place for one phase, resuming from the state in `resume` if the same training left it there.

    title  start of each printed line;  seed  for everything random here
    origin what this training is made from: InputError for a state of another origin, which `force` discards
    save_every  seconds between saved states
    trackers  callbacks that only observe, from training.tracking
    stop   returns the number of a signal that asks for an end, else 0: the training then saves after this step
    Raises Stopped after such a signal, and if one more epoch would end after `deadline`, a time.monotonic().
    """
    torch.manual_seed(seed)  # for dropout and augmentation
    dls.train.rng = random.Random(seed)  # the order of the tiles
    log, best, state = EpochLog(title, dls.device), KeepBest(), Resume(resume, origin, save_every, deadline, stop)
    average = WeightAverage(train.average)
    averaging = [average] * (train.average > 0)
    learn = build_learner(model, dls, phase, train, [log, best, *averaging, RandomState(), state, *trackers])
    done = state.load(force)
    with _as_raised(), learn.no_bar(), data_parallel(learn, phase, train):
        if train.schedule == "fine_tune":
            fine_tune(learn, phase.epochs, phase.lr, start_epoch=done)
        else:
            learn.fit_one_cycle(phase.epochs, learn.one_cycle_rates(phase.lr), start_epoch=done)
    if state.stopped:
        raise Stopped(f"{title}, {state.stopped}: one more would not fit into --max-hours; the same command goes on")
    weights = {"best": best.weights, "last": model.state_dict()}
    if averaging:
        weights["average"] = average.weights
    return Fitted({epoch: _on_cpu(of_epoch) for epoch, of_epoch in weights.items()}, log.rows)


class TileLearner(Learner):
    """fastai's Learner with its faults for masks corrected; predictions are probabilities at the tiles' size.

    Parameters come in fastai's groups, the encoder first, each split in two: with weight decay and without.
    """

    model: nn.Module

    def tta(self, ds_idx: int = 1, dl=None) -> tuple[Tensor, Tensor]:
        """Probabilities (N, 1, H, W) and masks, as get_preds, from the mean logits of each tile and its mirror image.

        fastai's own does not mirror predictions back.
        """
        model, self.model = self.model, Mirrored(self.model)
        try:
            return self.get_preds(ds_idx, dl)
        finally:
            self.model = model

    def validate(self, ds_idx: int = 1, dl=None, cbs=None) -> list[float]:
        """[mean loss of the tiles]; fastai's own takes it from a Recorder, which is not used here."""
        logits, masks = self.get_preds(ds_idx, dl, cbs=cbs, act=lambda logits: logits)
        return [float(self.loss_func(logits, masks))]

    def one_cycle_rates(self, lr: float) -> list[float]:
        """Peak learning rate of each group: fastai's slice(lr), a tenth of lr for all but the last one."""
        n = len(self.splitter(self.model)) // 2
        return [lr / 10] * 2 * (n - 1) + [lr] * 2


class Mirrored(nn.Module):
    """A model with flip test-time augmentation; shapes stay the same."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return flip_tta(self.model, x)


class LossAtMaskSize:
    """A loss that first resizes the logits to the masks' size, which is the tiles' own in validation.

    In training the sizes are equal, and a model with auxiliary heads returns their logits too (models.blocks.Heads).
    fastai's get_preds and predict call `activation` and `decodes` for probabilities and masks.
    """

    def __init__(self, loss: Callable[[Any, Tensor], Tensor], shape: Sequence[int] = ()):
        self.loss, self.shape = loss, tuple(shape)  # (H, W) of a tile; () leaves probabilities at the logits' size

    def __call__(self, logits: Any, masks: Tensor) -> Tensor:
        return self.loss(to_tile(logits, masks.shape[-2:]) if isinstance(logits, Tensor) else logits, masks)

    def activation(self, logits: Tensor) -> Tensor:
        """(B, 1, S, S) logits -> (B, 1, H, W) probabilities, at the tiles' size."""
        return to_tile(logits, self.shape or logits.shape[-2:]).sigmoid()

    def decodes(self, probs: Tensor) -> Tensor:
        """Probabilities -> masks (bool)."""
        return probs > 0.5


def build_learner(model: nn.Module, dls: DataLoaders, phase: Phase, train: Train, cbs: list, **kwargs) -> TileLearner:
    """Build the Learner with the profile's loss, optimizer and number format, on the device of `dls`."""
    device = dls.device
    move_(model, device)
    if device.type == "cpu":
        speed_up_depthwise_(model)
    if train.compile != "no":
        torch.compiler.reset()  # its limit of eight graphs counts all models of a process
        model.compile(mode=train.compile, dynamic=False)  # in place: the weights keep their names
    precision = resolve_precision(train.precision, device)
    split = layer_groups if train.schedule == "fine_tune" or hasattr(model, "groups") else all_in_one
    return TileLearner(
        dls,
        model,
        loss_func=LossAtMaskSize(composite(LOSSES[train.loss]), getattr(dls.valid, "shape", ())[:2]),
        splitter=partial(with_and_without_decay, split),
        opt_func=FUSED_ADAM,
        lr=phase.lr,
        wd=[train.wd, 0.0] * len(split(model)),
        default_cbs=False,
        cbs=[TrainEvalCallback(), Autocast(precision, device), *cbs],
        **kwargs,
    )


def all_in_one(model: nn.Module) -> list[list[nn.Parameter]]:
    """All parameters as one group: the article's plain Learner gives them one rate."""
    return [[*model.parameters()]]


def with_and_without_decay(
    split: Callable[[nn.Module], list[list[nn.Parameter]]], model: nn.Module
) -> list[list[nn.Parameter]]:
    """Split each group of `split` in two: parameters that decay, and those of biases and norms, which do not."""
    spared = set(norm_bias_params(model))
    return [[p for p in group if (p in spared) == is_spared] for group in split(model) for is_spared in (False, True)]


def layer_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameter groups that get their own rates, encoder first: the model's own, else the encoder and the rest."""
    if own := getattr(model, "groups", None):
        return own()
    encoder = [*model.get_submodule("encoder").parameters()]
    known = set(encoder)
    return [encoder, [p for p in model.parameters() if p not in known]]


def fine_tune(learn: TileLearner, epochs: int, lr: float, start_epoch: int = 0) -> None:
    """fastai's Learner.fine_tune, bit for bit, as one fit of epochs + 1: fastai makes two, which cannot be resumed.

    The decoder learns alone for one epoch, up to lr; then the whole model, up to lr / 200 in the first layers and
    lr / 2 in the last. https://docs.fast.ai/callback.schedule.html
    """
    learn.create_opt()
    alone = np.array(learn.one_cycle_rates(lr))
    rates = np.repeat(np.geomspace(lr / 200, lr / 2, len(alone) // 2), 2)
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


class FrozenFirst(Callback):
    """Freeze all but the last group of parameters for the first epoch; BatchNorm keeps learning, as in fastai."""

    order = Resume.order + 1  # restore the state first: unfreezing then resets the optimizer's, as in fastai

    def before_train(self):
        if self.epoch == 0:
            self.learn.freeze_to(-2)  # the last group is split in two: with weight decay and without
        elif self.epoch == 1:
            self.learn.unfreeze()


@contextlib.contextmanager
def data_parallel(learn: Learner, phase: Phase, train: Train) -> Iterator[None]:
    """Train one model in all processes; gradients and, on GPUs, BatchNorm's statistics are those of the whole batch.

    As https://docs.fast.ai/distributed.html, except for its DistributedDL, which repeats tiles until all shares are
    equal, so that they would count twice in the score. Here every process makes the same batches, with the same random
    changes, and takes its share of each.
    """
    if world_size() == 1:
        yield
        return
    if train.schedule == "fine_tune":  # DDP would never average the layers that are frozen when it wraps the model
        raise InputError("train.schedule=fine_tune needs a single process; start one, or set train.schedule=one_cycle")
    if train.compile != "no":  # not tried with SyncBatchNorm
        raise InputError(f"train.compile={train.compile} needs a single process; start one, or set train.compile=no")
    if phase.batch % world_size():
        raise InputError(
            f"a batch of {phase.batch} tiles cannot be divided evenly among {world_size()} processes; set "
            f"train.batch to a multiple of {world_size()}, or start fewer"
        )
    import fastai.distributed  # noqa: F401    gives Learner.distrib_ctx

    with learn.distrib_ctx(sync_bn=learn.dls.device.type == "cuda", mixed_precision="no"):  # see Autocast
        learn.distributed_trainer._wrap_dl = lambda dl: dl
        learn.add_cb(BatchShard())
        yield


@contextlib.contextmanager
def _as_raised() -> Iterator[None]:
    """Remove the line with the callback's name that fastai puts before the text of our exceptions.

    An exception without a text, such as MemoryError, ends in fastai's own IndexError: raise the original instead.
    """
    try:
        yield
    except IndexError as e:
        if isinstance(e.__context__, MemoryError):
            raise e.__context__ from None
        raise
    except (InputError, Stopped) as e:
        e.args = (str(e).rpartition(":\n\t")[2],)
        raise


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w.detach().to("cpu").contiguous() for name, w in weights.items()}
