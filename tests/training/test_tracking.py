"""--track: the logs hold what the history holds, and the training does not see them."""

import json
from importlib.util import find_spec

import pandas as pd
import pytest

from pipeline import train
from pipeline.salt import artifacts, cli, stages
from pipeline.salt.errors import InputError
from pipeline.salt.run import TRACKERS
from pipeline.salt.training import callbacks, tracking

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
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.parse().files.tracking / "fold_0" / "32"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def wandb_rows(run) -> list[list[dict]]:
    """The rows that each offline run of wandb holds, the runs in their order."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    runs = []
    for file in sorted(run.parse().files.tracking.glob("wandb/offline-run-*/*.wandb")):
        store, rows = DataStore(), []
        store.open_for_scan(str(file))
        while data := store.scan_data():
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        runs.append(rows)
    return runs


def stop_after(monkeypatch, epoch: int) -> None:
    """Ctrl-C when this many epochs are done and saved."""
    after_epoch = callbacks.Resume.after_epoch

    def interrupted(self):
        self.every = 0
        after_epoch(self)
        if self.epoch + 1 == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Resume, "after_epoch", interrupted)


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
    assert scalars(untrained, "lr_0")[-1][1] < 1e-6


def test_wandb_keeps_what_the_history_has(untrained):
    untrained(train, extra=(*ONE, "--track=wandb"))
    [logged], rows = wandb_rows(untrained), history(untrained)
    assert len(logged) == 2 * EPOCHS
    of_epochs = [row for row in logged if "epoch/meanap" in row]
    for column in COLUMNS:
        assert [row[f"epoch/{column}"] for row in of_epochs] == pytest.approx(rows[column].tolist())
    assert [row["epoch"] for row in of_epochs] == list(range(1, EPOCHS + 1))


def test_a_stopped_training_is_followed_on(untrained, finished, monkeypatch):
    """In TensorBoard as one curve, also where more was logged than saved; in wandb as a second run."""
    for tracker in TRACKERS:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, 5)
            untrained(train, extra=(*ONE, f"--track={tracker}"))
        printed = untrained(train, extra=(*ONE, f"--track={tracker}"))
        assert printed.count("  epoch ") == EPOCHS - 5
        assert weights_and_key(untrained) == weights_and_key(finished[0])
        if tracker == "wandb":
            first, second = wandb_rows(untrained)
            assert [row["epoch"] for row in second if "epoch/meanap" in row] == [6, 7, 8]
            assert [row["_step"] for row in first + second] == list(range(16))
        else:
            assert [step for step, _ in scalars(untrained, "train_loss")] == list(range(1, 17))
            values = [value for _, value in scalars(untrained, "epoch/meanap")]
            assert values == pytest.approx(history(untrained)["meanap"].tolist()[:4] + values[4:])
            artifacts.discard(
                stages.trained(untrained.parse(), 0, untrained.parse().profile.train.phases[0])["history"].path
            )


def test_a_training_from_the_start_replaces_the_curve(untrained):
    untrained(train, extra=(*ONE, "--track=tensorboard"))
    untrained(train, extra=(*ONE, "--track=tensorboard", "--force"))
    assert [step for step, _ in scalars(untrained, "epoch/meanap")] == list(range(2, 17, 2))


def test_both_trackers_have_a_way_in():
    assert (*tracking.TRACKERS,) == TRACKERS and all(find_spec(name) for name in TRACKERS)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_missing_package_is_named_before_anything_is_done(tiny, monkeypatch, tracker):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"--track {tracker} needs .*pip install 'salt-segmentation\[track\]'"):
        tiny.parse(f"--track={tracker}")
    tiny.parse()
