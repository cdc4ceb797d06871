"""Saving a training in progress, and resuming it."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import get_model

from pipeline.salt import artifacts, disk, environment
from pipeline.salt.device import device_name
from pipeline.salt.distributed import is_main_process, largest
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.training import checkpoints
from pipeline.salt.training.callbacks import KeepBest, Stateful, shuffle_state


class Resume(Callback):
    """Save the whole state of a training and resume from it: model, optimizer, `Stateful`s, place in the epoch.

    path   the state's file, removed when the training has ended
    origin what the training is made from
    every  seconds between saves: at most this much work is lost
    deadline  time.monotonic() by which the training must end: it saves and ends after the last epoch that fits
    stop   returns the number of a signal that asks for an end, else 0: the training then saves and raises Stopped
    `stopped` says where the deadline ended the training, '' if it did not. Several processes that train one model
    agree at each step whether to save, and the first one writes.
    On a CPU a resumed training equals an uninterrupted one bit for bit (tests/training/test_learner.py).
    """

    order = KeepBest.order + 1

    def __init__(
        self,
        path: Path,
        origin: artifacts.Origin,
        every: float = 120.0,
        deadline: float = math.inf,
        stop: Callable[[], int] = lambda: 0,
    ):
        self.path, self.origin, self.every, self.deadline, self.stop = path, origin, every, deadline, stop
        self.state: dict | None = None
        self.saved = time.perf_counter()
        self.longest, self.stopped = 0.0, ""  # longest: seconds of an epoch

    def load(self, force: bool = False) -> int:
        """Read the state and return the number of epochs done; it is restored when training begins.

        InputError for a state of other settings or inputs, which `force` discards.
        """
        if not self.path.exists():
            return 0
        path = disk.display_path(self.path)
        try:
            state = checkpoints.load_state(self.path)
        except Exception as e:  # whatever torch raises for a damaged file
            print(f"restart  {path} is damaged ({type(e).__name__}): this training starts over")
            return 0
        if changes := artifacts.changes(artifacts.Origin(state["settings"], state["inputs"]), self.origin):
            if not force:
                raise InputError(
                    f"{path} has {state['epochs']} epochs of a training with other settings ({'; '.join(changes)}); "
                    "--run NAME keeps it and works beside it; python -m pipeline.train --force, with these flags "
                    "and its --fold and --phase, discards it"
                )
            print(f"restart  {path}: {state['epochs']} epochs with other settings are discarded")
            return 0
        self.state = state
        steps = f" and {state['batch']} steps of the next" * bool(state["batch"])
        print(f"resume   {path}: {state['epochs']} epochs{steps} are done")
        if others := environment.differences(state["made_with"], self.made_with()):
            print(f"note     they were made with {others}: the result may differ from that of a single environment")
        return state["epochs"]

    def made_with(self) -> dict[str, str]:
        return environment.versions() | {"device": device_name(self.learn.dls.device)}

    def before_epoch(self):
        self.began = time.monotonic()

    def before_train(self):
        state, self.state = self.state, None
        self.batch = 0
        if state and state["batch"]:  # now the tile order from the epoch's start; all else once the batch is reached
            self.batch = state["batch"]
            self.dls.train.rng.setstate(shuffle_state(state["shuffle"]))
            self.dls.train.begin_at(self.batch, partial(self.restore, state))
        elif state:
            self.restore(state)
        self.shuffle = self.dls.train.rng.getstate()

    def after_batch(self):
        self.batch += self.training
        number, due = largest(self.stop(), self._is_due())
        if number or due:
            self.save(self.epoch, self.batch)
        if number:
            done = f"{disk.display_path(self.path)} has epoch {self.epoch + 1} up to batch {self.batch} of "
            raise Stopped(f"{done}{len(self.dls.train)}; the same command goes on from there", 128 + int(number))

    def after_epoch(self):
        if self.state is not None or self.epoch + 1 == self.n_epoch:
            return
        self.longest = max(self.longest, time.monotonic() - self.began)
        late, due = largest(time.monotonic() + self.longest > self.deadline, self._is_due())
        if late or due:
            self.save(self.epoch + 1, 0)
        if late:
            self.stopped = f"after epoch {self.epoch + 1} of {self.n_epoch}"
            raise CancelFitException

    def save(self, epochs: int, batch: int) -> None:
        """Save the state after this many epochs, and batches of the next one, in place of any earlier state."""
        state = {
            "settings": self.origin.settings,
            "inputs": self.origin.inputs,
            "made_with": self.made_with(),
            "epochs": epochs,
            "batch": batch,
            "shuffle": self.shuffle,
            "pct": self.learn.pct_train,
            "model": get_model(self.model).state_dict(),
            "optimizer": self.opt.state_dict(),
            "callbacks": {callback.name: callback.state_dict() for callback in self._stateful()},
        }
        if is_main_process():
            with disk.replacing(self.path) as tmp, open(tmp, "wb") as f:
                torch.save(_plain(state), f)  # torch does not report a full disk when given a path
        self.saved = time.perf_counter()

    def restore(self, state: dict) -> None:
        """Restore the model, the optimizer and the callbacks."""
        get_model(self.model).load_state_dict(state["model"])
        self.opt.load_state_dict(state["optimizer"])
        if state["batch"]:
            self.learn.pct_train = state["pct"]
        for callback in self._stateful():
            callback.load_state_dict(state["callbacks"][callback.name])

    def _is_due(self) -> bool:
        return time.perf_counter() - self.saved >= self.every

    def _stateful(self) -> list[Stateful]:
        return [callback for callback in self.learn.cbs if isinstance(callback, Stateful)]


def _plain(value):
    """Replace numpy's numbers, from fastai's schedule, by Python's: torch.load(weights_only=True) needs them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
