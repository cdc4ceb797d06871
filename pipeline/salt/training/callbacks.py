"""Callbacks for fastai's training loop: number format, history, best epoch, averaged weights (`resume` has one more).

None waits for the GPU during an epoch: losses and scores stay on the device until the epoch ends. None depends on
another: the results of an epoch are in `learn.epoch_row`, and callbacks that keep state are `Stateful`.
"""

import math
import time

import torch
from fastai.callback.core import Callback, CancelStepException
from fastai.torch_core import get_model, rank_distrib
from torch import Tensor

from pipeline.salt.device import autocast, forget_peak, peak_memory
from pipeline.salt.distributed import is_main_process, world_size
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import tile_scores
from pipeline.salt.progress import progress_bar
from pipeline.salt.tiles.geometry import to_tile


class Stateful(Callback):
    """A callback whose state a resumed training needs; `resume.Resume` saves and restores it."""

    def state_dict(self) -> dict:
        """The state: tensors, numbers, strings, and lists and dicts of them."""
        raise NotImplementedError

    def load_state_dict(self, state: dict) -> None:
        raise NotImplementedError


class Autocast(Stateful):
    """Run forward and loss in `precision`; with fp16 the loss is scaled, and a step that overflows is skipped."""

    order = 10

    def __init__(self, precision: str, device: torch.device):
        self.precision, self.device_ = precision, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def before_batch(self):
        self.context = autocast(self.precision, self.device_)
        self.context.__enter__()

    def after_loss(self):
        self.context.__exit__(None, None, None)

    def before_backward(self):
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self):
        if self.scaler.is_enabled():
            self.scaler.step(self.opt.opt)
            self.scaler.update()
            raise CancelStepException

    def state_dict(self) -> dict:
        return self.scaler.state_dict()  # empty unless fp16

    def load_state_dict(self, state: dict) -> None:
        if state:
            self.scaler.load_state_dict(state)


class BatchShard(Callback):
    """Keep this process's share of each batch, every n-th tile, when several processes train one model."""

    order = Autocast.order - 1

    def before_batch(self):
        mine = slice(rank_distrib(), None, world_size())
        self.learn.xb, self.learn.yb = tuple(x[mine] for x in self.xb), tuple(y[mine] for y in self.yb)


class EpochLog(Stateful):
    """Training history: one row per epoch, printed and kept in `rows`, with a progress bar on a terminal.

    columns  epoch (from 1), train_loss, valid_loss, meanap (at the tiles' size, threshold 0.5), lr (at the epoch's
             end), seconds, tiles_per_second (training only, without validation), memory (GiB, peak)
    `learn.epoch_row` is the row of the epoch that has just ended, None for one that a resumed training skips.
    Raises InputError if a loss or a weight is no longer finite, at the epoch's end or before a state is saved.
    """

    order = 65

    def __init__(self, title: str, device: torch.device):
        self.title, self.device_ = title, device
        self.rows: list[dict] = []

    def before_epoch(self):
        forget_peak(self.device_)  # set by an earlier fold, or by cuDNN's trials in the first epoch
        self.learn.epoch_row = None
        self.start, self.sums, self.scores = time.perf_counter(), {}, []
        self.first_bad = torch.zeros((), device=self.device_)  # from 1: first batch whose loss is not finite; 0: none

    def before_train(self):
        self.batches = 0
        text = f"{self.title} epoch {self.epoch + 1}/{self.n_epoch}"
        self.bar = progress_bar(len(self.dls.train), text, hidden=not is_main_process())

    def after_batch(self):
        n, loss = len(self.yb[0]), self.loss.detach()
        if n:  # the last batch may have fewer tiles than there are processes
            total, count = self.sums.get(self.training, (0, 0))
            self.sums[self.training] = (total + loss * n, count + n)
        if self.training:
            self.bar.update()
            self.batches += 1
            self.first_bad = torch.where((self.first_bad == 0) & ~loss.isfinite(), self.batches, self.first_bad)
        else:
            self.scores.append(_scores(self.pred, self.yb[0]))

    def after_train(self):
        self.bar.close()
        total, count = self._total(True)  # waits for the device, so that train_seconds covers all of the training
        self.train_loss, self.trained = total / count, count
        self.train_seconds = time.perf_counter() - self.start
        self._check_finite("training", self.train_loss)

    def after_epoch(self):
        if not self.scores:  # an epoch that a resumed training skips
            return
        scores = torch.cat(self.scores).double()
        score, tiles = self._all_reduce(scores.sum(), len(scores))
        total, count = self._total(False)
        valid_loss = total / count
        self._check_finite("validation", valid_loss)
        row = {
            "epoch": self.epoch + 1,
            "train_loss": round(self.train_loss, 5),
            "valid_loss": round(valid_loss, 5),
            "meanap": round(score / tiles, 5),
            "lr": float(self.opt.hypers[-1]["lr"]),
            "seconds": round(time.perf_counter() - self.start, 2),
            "tiles_per_second": round(self.trained / self.train_seconds, 1),
            "memory": round(peak_memory(self.device_), 2),
        }
        self.rows.append(row)
        self.learn.epoch_row = row
        self.sums = {}  # this epoch is over
        left = (self.n_epoch - row["epoch"]) * row["seconds"]
        print(
            f"{self.title}  epoch {row['epoch']:>2}/{self.n_epoch}  train {row['train_loss']:.4f}  "
            f"valid {row['valid_loss']:.4f}  score {row['meanap']:.4f}  {row['seconds']:.0f} s, "
            f"{left / 60:.0f} min left",
            flush=True,
        )

    def state_dict(self) -> dict:
        total, count = self._total(True)
        self._check_finite("training", total)
        seconds = time.perf_counter() - self.start if self.sums else 0.0
        return {"rows": self.rows, "total": total, "count": count, "batches": self.batches, "seconds": seconds}

    def load_state_dict(self, state: dict) -> None:
        self.rows[:] = state["rows"]
        if state["count"]:  # saved in mid-epoch
            mine = is_main_process()  # it takes over the sums of all processes
            total = torch.tensor(mine * float(state["total"]), device=self.device_)
            self.sums = {True: (total, mine * state["count"])}
            self.batches, self.start = state["batches"], time.perf_counter() - state["seconds"]
            self.bar.update(self.batches)

    def _check_finite(self, kind: str, loss: float) -> None:
        weights = [w for w in get_model(self.model).state_dict().values() if w.is_floating_point()]
        if not math.isfinite(loss):
            fault = f"the {kind} loss is {loss}"
        elif not torch.stack(torch._foreach_norm(weights)).isfinite().all():  # broken by the last step, after its loss
            fault = "the weights are not finite"
        else:
            return
        batch = f", from batch {int(self.first_bad)} of {len(self.dls.train)} on" * bool(self.first_bad)
        raise InputError(
            f"{self.title}: {fault} in epoch {self.epoch + 1}{batch}; nothing was published, an earlier saved state "
            "is kept; lower the learning rate (--set train.lr=...) or use --set train.precision=fp32"
        )

    def _total(self, training: bool) -> list[float]:
        """Sum of the losses of this epoch's tiles so far, and the number of these tiles."""
        return self._all_reduce(*self.sums.get(training, (0.0, 0)))

    def _all_reduce(self, *numbers: Tensor | float) -> list[float]:
        """Sum of each number over the processes that train this model."""
        if world_size() == 1:
            return [float(n) for n in numbers]
        sums = torch.tensor([float(n) for n in numbers], dtype=torch.float64, device=self.device_)
        torch.distributed.all_reduce(sums)
        return sums.tolist()


class KeepBest(Stateful):
    """Keep a copy of the best epoch's weights on the model's device: the highest score, the first of equals."""

    order = EpochLog.order + 1

    def __init__(self):
        self.score, self.weights = -1.0, {}

    def after_epoch(self):
        row = self.learn.epoch_row
        if row and row["meanap"] > self.score:
            self.score = row["meanap"]
            self.weights = {k: v.detach().clone() for k, v in get_model(self.model).state_dict().items()}

    def state_dict(self) -> dict:
        return {"score": self.score, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        device = next(self.model.parameters()).device
        self.score, self.weights = state["score"], {k: v.to(device) for k, v in state["weights"].items()}


class WeightAverage(Stateful):
    """Exponential moving average of the weights, including BatchNorm's statistics; it does not affect the training.

    share    mean age of the averaged weights as a fraction of the training's steps, in (0, 1]
    weights  the average, a state dict on the model's device
    Source: Polyak & Juditsky 1992; as in timm's ModelEmaV3, https://github.com/huggingface/pytorch-image-models
    """

    order = EpochLog.order - 1

    def __init__(self, share: float):
        self.share, self.steps = share, 0
        self.weights: dict[str, Tensor] = {}

    def after_batch(self):
        if not self.training:
            return
        weights = get_model(self.model).state_dict()
        if not self.weights:
            self.weights = {k: v.detach().clone() for k, v in weights.items()}
        self.steps += 1
        window = min(self.steps, max(self.share * self.n_epoch * len(self.dls.train), 1))  # a plain mean at first
        floats = [k for k, v in weights.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.weights[k] for k in floats], [weights[k] for k in floats], 1 / window)
        for k in weights.keys() - floats:  # BatchNorm's count of batches
            self.weights[k].copy_(weights[k])

    def state_dict(self) -> dict:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        device = next(self.model.parameters()).device
        self.steps, self.weights = state["steps"], {k: v.to(device) for k, v in state["weights"].items()}


class RandomState(Stateful):
    """State of the random number generators: torch's, on the CPU and the GPU, and that of the tile order.

    During validation, the state from before it: an epoch resumed there validates again.
    """

    def __init__(self):
        self.before: dict = {}

    def before_validate(self):
        self.before = self._now()

    def after_validate(self):
        self.before = {}

    def state_dict(self) -> dict:
        return self.before or self._now()

    def _now(self) -> dict:
        return {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "shuffle": self.dls.train.rng.getstate(),
        }

    def load_state_dict(self, state: dict) -> None:
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"])
        self.dls.train.rng.setstate(shuffle_state(state["shuffle"]))


def shuffle_state(saved) -> tuple:
    """State of a random.Random from its saved form, in which tuples have become lists."""
    version, internal, gauss = saved
    return version, tuple(internal), gauss


def _scores(logits: Tensor, masks: Tensor) -> Tensor:
    """(B, 1, S, S) logits and (B, 1, H, W) masks -> (B,) Kaggle scores."""
    return tile_scores(to_tile(logits, masks.shape[-2:])[:, 0] > 0, masks[:, 0] > 0.5)
