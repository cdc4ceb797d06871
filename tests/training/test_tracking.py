"""--track: the logs equal the history, and do not affect the training."""

import contextlib
import json
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from pipeline import train
from pipeline.salt import artifacts, cli, stages, stopping
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.run import TRACKERS
from pipeline.salt.training import callbacks, resume, tracking

COLUMNS = ["train_loss", "valid_loss", "meanap"]
ONE = ("--fold=0", "--phase=32")
EPOCHS = 8  # of the tiny run's phase 32, of two steps each


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def weights_and_key(run) -> tuple[bytes, str]:
    parsed = run.parse()
    path = stages.trained(parsed, 0, parsed.profile.train.phase("32"))["best"].path
    return path.read_bytes(), artifacts.read_sidecar(path)["key"]


def history(run) -> pd.DataFrame:
    parsed = run.parse()
    return pd.read_csv(parsed.files.history(0, parsed.profile.train.phase("32")))


def scalars(run, tag: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them."""
    events = EventAccumulator(str(run.parse().files.tracking / "fold_0" / "32"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def wandb_rows(run) -> list[list[dict]]:
    """Rows of each offline wandb run, in the order of the runs."""
    runs = []
    for file in sorted(run.parse().files.tracking.glob("wandb/offline-run-*/*.wandb")):
        records = [wandb_internal_pb2.Record.FromString(record) for record in leveldb_records(file.read_bytes())]
        rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
        runs.append(
            [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        )
    return runs


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """Records of a .wandb file, which has 7 bytes of its own and then this format:
    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    at, record = 7, b""
    while at + 7 <= len(log):
        if (left := 32768 - at % 32768) < 7:  # the end of a block, too short for a header
            at += left
            continue
        size, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def stop(monkeypatch) -> None:
    """Ctrl-C after five epochs, four of which are saved."""

    def four(self):
        self.every = 0 if self.epoch == 3 else 1e9
        after_epoch(self)
        self.every = 1e9

    def interrupted(self):
        if self.epoch == 5:
            raise KeyboardInterrupt
        before_epoch(self)

    after_epoch, before_epoch = resume.Resume.after_epoch, callbacks.EpochLog.before_epoch
    monkeypatch.setattr(resume.Resume, "after_epoch", four)
    monkeypatch.setattr(callbacks.EpochLog, "before_epoch", interrupted)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_training_does_not_see_who_follows_it(untrained, finished, tracker):
    untrained(train, extra=(*ONE, f"--track={tracker}"))
    assert weights_and_key(untrained) == weights_and_key(finished[0]), "byte for byte, of the same origin"
    pd.testing.assert_frame_equal(history(untrained)[COLUMNS], history(finished[0])[COLUMNS])


def test_tensorboard_shows_what_the_history_has(untrained):
    untrained(train, extra=(*ONE, "--track=tensorboard"))
    rows = history(untrained)
    for column in [*COLUMNS, "tiles_per_second", "memory"]:
        steps, values = zip(*scalars(untrained, f"epoch/{column}"), strict=True)
        assert values == pytest.approx(rows[column].tolist(), rel=1e-6) and list(steps) == list(range(2, 17, 2))
    steps, losses = zip(*scalars(untrained, "train_loss"), strict=True)
    assert list(steps) == list(range(1, 17)), "a point a step, none in validation"
    assert (losses[0] + losses[1]) / 2 == pytest.approx(rows["train_loss"][0], rel=0.1), "the smoothed loss"
    rates = [rate for _, rate in scalars(untrained, "lr_0")]
    assert max(rates) == pytest.approx(3e-2, rel=0.1) and rates[-1] < max(rates) / 20


def test_wandb_keeps_what_the_history_has(untrained):
    untrained(train, extra=(*ONE, "--track=wandb"))
    [logged], rows = wandb_rows(untrained), history(untrained)
    assert len(logged) == 2 * EPOCHS
    of_epochs = [row for row in logged if "epoch/meanap" in row]
    for column in COLUMNS:
        assert [row[f"epoch/{column}"] for row in of_epochs] == pytest.approx(rows[column].tolist())
    assert [row["epoch"] for row in of_epochs] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_stopped_training_is_followed_on(untrained, finished, monkeypatch, tracker):
    """In TensorBoard as one curve, although more was logged than saved; in wandb as a second run."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop(patch)
        untrained(train, extra=(*ONE, f"--track={tracker}"))
    printed = untrained(train, extra=(*ONE, f"--track={tracker}"))
    assert printed.count("  epoch ") == EPOCHS - 4
    assert weights_and_key(untrained) == weights_and_key(finished[0])
    if tracker == "wandb":
        first, second = wandb_rows(untrained)
        assert [row["epoch"] for row in second if "epoch/meanap" in row] == [5, 6, 7, 8]
        assert [row["_step"] for row in first] == list(range(10)), "finished, though the training was stopped"
        assert [row["_step"] for row in second] == list(range(8, 16))
    else:
        assert [step for step, _ in scalars(untrained, "train_loss")] == list(range(1, 17))
        logged = [value for _, value in scalars(untrained, "epoch/valid_loss")]
        assert logged == pytest.approx(history(untrained)["valid_loss"].tolist(), rel=1e-6)


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_that_stopped_within_an_epoch_is_followed_on(untrained, finished, monkeypatch, tracker, steps):
    """After the first of its two steps, and after the second, before validation."""
    batches = []

    @contextlib.contextmanager
    def noting():
        def number() -> int:
            batches.append(1)
            return signal.SIGINT if len(batches) == 4 * 3 + steps else 0  # an epoch: two steps, a batch of validation

        yield number

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(stopping, "noting", noting)
        untrained(train, extra=(*ONE, f"--track={tracker}"))
    untrained(train, extra=(*ONE, f"--track={tracker}"))
    assert weights_and_key(untrained) == weights_and_key(finished[0])
    expected = history(untrained)["meanap"].tolist()
    if tracker == "wandb":
        first, second = wandb_rows(untrained)
        rows = [row for row in first + second if "epoch/meanap" in row]
        assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
        assert [row["epoch/meanap"] for row in rows] == pytest.approx(expected)
    else:
        assert [step for step, _ in scalars(untrained, "train_loss")] == list(range(1, 17))
        assert scalars(untrained, "epoch/meanap") == [(2 * i, pytest.approx(v)) for i, v in enumerate(expected, 1)]


def test_a_training_from_the_start_replaces_the_curve(untrained):
    untrained(train, extra=(*ONE, "--track=tensorboard"))
    untrained(train, extra=(*ONE, "--track=tensorboard", "--force"))
    assert [step for step, _ in scalars(untrained, "epoch/meanap")] == list(range(2, 17, 2))


def test_both_trackers_have_a_way_in():
    assert (*tracking.TRACKERS,) == TRACKERS and all(find_spec(name) for name in TRACKERS)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_named_before_anything_is_done(tiny, monkeypatch, tracker):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"--track {tracker} needs .*pip install {tracker}$"):
        tiny.parse(f"--track={tracker}")
    tiny.parse()
