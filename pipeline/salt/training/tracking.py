"""Following a training in TensorBoard or Weights & Biases, through fastai's own callbacks for them.

They read fastai's Recorder, whose place `EpochRow` takes. They only observe: with or without them the same seed gives
the same weights, bit for bit. The model's graph and pictures are off, as they draw batches and with them random
numbers. To log its losses, a tracker waits for the GPU at every step, which costs time.

https://docs.fast.ai/callback.tensorboard.html, https://docs.fast.ai/callback.wandb.html
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from types import SimpleNamespace

from fastai.callback.core import Callback
from fastai.learner import Learner

from pipeline.salt.config import Phase
from pipeline.salt.distributed import is_main_process
from pipeline.salt.errors import InputError
from pipeline.salt.run import Run
from pipeline.salt.training.callbacks import EpochLog

PROJECT = "salt-segmentation"  # on wandb
BETA = 0.98  # of the smoothed training loss, fastai's


class EpochRow(Callback):
    """Provide `learn.recorder` and `learn.smooth_loss`, which fastai's trackers read, with EpochLog's numbers.

    log           values of the epoch that has just ended, none for one that a resumed training skips
    metric_names  their names; trackers skip the first two and the last, which are there as in fastai's Recorder
    """

    order = EpochLog.order + 0.25  # after the epoch's row is made, before the training may stop
    name = "recorder"
    columns = ("meanap", "valid_loss", "train_loss", "seconds", "tiles_per_second", "memory")

    def __init__(self):
        self.metric_names = ["epoch", "train_loss", *(f"epoch/{column}" for column in self.columns), "time"]
        self.log, self.steps, self.mean = [], 0, 0.0

    def after_batch(self):
        if self.training:
            self.after_train()
            self.steps += 1  # as AvgSmoothLoss, which would wait for the other processes of this training
            self.mean = BETA * self.mean + (1 - BETA) * self.loss.detach().mean()
            self.learn.smooth_loss = self.mean / (1 - BETA**self.steps)

    def after_train(self):  # fastai counts this process's steps only, not those before a resume
        self.learn.train_iter = round(self.pct_train * self.n_epoch * len(self.dls.train))

    def after_epoch(self):
        row = self.learn.epoch_row
        self.log = [None, None, *(row[column] for column in self.columns), None] if row else []


class ScheduledOnly:
    """Let a tracker log only what the schedule changes: torch's optimizer also has settings that are not numbers."""

    learn: Learner

    @property
    def opt(self) -> SimpleNamespace:
        return SimpleNamespace(hypers=[{name: h[name] for name in ("lr", "mom")} for h in self.learn.opt.hypers])


@contextlib.contextmanager
def tracking(run: Run, fold: int, phase: Phase) -> Iterator[list[Callback]]:
    """The callbacks that track fold k's training in this phase; none without --track."""
    if run.track is None or not is_main_process():
        yield []
        return
    with TRACKERS[run.track](run, fold, phase) as tracker:
        tracker.order = EpochRow.order + 0.25
        yield [EpochRow(), tracker]


@contextlib.contextmanager
def in_tensorboard(run: Run, fold: int, phase: Phase) -> Iterator[Callback]:
    """Log to event files in folds/<run>/tracking/fold_<k>/<phase>/; each phase is one run in TensorBoard."""
    from fastai.callback.tensorboard import TensorBoardCallback
    from torch.utils.tensorboard import SummaryWriter

    class Tracker(ScheduledOnly, TensorBoardCallback):
        writer = None

        def before_fit(self):
            pass  # too early to open the file: the step at which training resumes is not known yet

        def after_batch(self):
            if self.training:
                self.open(self.train_iter)
                super().after_batch()

        def after_train(self):
            self.open(self.train_iter + 1)

        def open(self, step: int):
            """Open the file, once; TensorBoard then hides what an earlier training wrote from this step on."""
            self.writer = self.writer or SummaryWriter(self.log_dir, purge_step=step)

        def after_fit(self):
            pass  # the file is closed below, even if the training fails

    tracker = Tracker(run.files.tracking / f"fold_{fold}" / phase.name, trace_model=False, log_preds=False)
    try:
        yield tracker
    finally:
        if tracker.writer is not None:
            tracker.writer.close()


@contextlib.contextmanager
def in_wandb(run: Run, fold: int, phase: Phase) -> Iterator[Callback]:
    """Log to one wandb run for each fold and phase, and each time it is resumed; all in the group of our run."""
    import wandb
    from fastai.callback.wandb import WandbCallback

    class Tracker(ScheduledOnly, WandbCallback):
        def before_fit(self):
            # fastai's own draws a batch, and fails on a list of decays. All settings are in config already.
            self.learn.gather_args = dict
            super().before_fit()

        def after_batch(self):
            if self.training:  # fastai's own adds one batch to both
                self._wandb_step, self._wandb_epoch = self.train_iter - 2, (self.train_iter - 1) / self.n_iter
                super().after_batch()

        def after_train(self):
            self._wandb_step, self._wandb_epoch = self.train_iter - 1, self.train_iter / self.n_iter

    run.files.tracking.mkdir(parents=True, exist_ok=True)
    settings = asdict(run.profile) | {"fold": fold, "phase": phase.name}
    title = f"{run.files.run} fold {fold} {phase.name}"
    try:
        of_wandb = wandb.init(project=PROJECT, group=run.files.run, name=title, dir=run.files.tracking, config=settings)
    except wandb.Error as e:
        raise InputError(f"--track wandb: {' '.join(str(e).split()).rstrip('.')}; or set WANDB_MODE=offline") from e
    with of_wandb:
        yield Tracker(log_preds=False)


TRACKERS: dict[str, Callable[[Run, int, Phase], AbstractContextManager[Callback]]] = {
    "tensorboard": in_tensorboard,
    "wandb": in_wandb,
}
