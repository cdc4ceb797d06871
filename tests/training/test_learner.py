"""Training one fold: it learns, its errors are one sentence, and a resumed training equals an uninterrupted one."""

import io
import math
import pickle
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.torch_core import trainable_params

from pipeline.salt import environment
from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Model, Phase, Train
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.metrics import tile_scores
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.tiles.loaders import TileLoader, get_data
from pipeline.salt.training import checkpoints, learner
from pipeline.salt.training.callbacks import BatchShard, EpochLog, KeepBest, RandomState, Stateful, WeightAverage
from pipeline.salt.training.learner import LOSSES, Fitted, fit_fold
from pipeline.salt.training.resume import Resume

PHASE = Phase(size=32, batch=12, epochs=4, lr=4e-3)  # two batches an epoch
TRAIN = Train(phases=(PHASE,), precision="fp32")
ORIGIN = Origin({"train": {"wd": 0.01, "phase": {"epochs": 4}}}, {"folds.csv": "e3b0"})
COLUMNS = ["epoch", "train_loss", "valid_loss", "meanap", "lr", "seconds", "tiles_per_second", "memory"]
MEASURED = COLUMNS[5:]  # of the machine, not of the training


@pytest.fixture
def fit(drawn, tmp_path):
    """fit(...) trains one fold of `drawn`, always from the same weights; a saved state is resumed."""

    def fit(
        train: Train = TRAIN,
        phase: Phase = PHASE,
        origin: Origin = ORIGIN,
        force: bool = False,
        seed: int = 3,
        save_every: float = 0.0,
        deadline: float = math.inf,
        stop: Callable[[], int] = lambda: 0,
    ) -> Fitted:
        torch.manual_seed(0)
        model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": 8}))
        folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
        dls = get_data(0, folds, phase.size, phase.batch, tiles=drawn, stats=(model.encoder.mean, model.encoder.std))
        torch.manual_seed(random.randrange(2**31))  # what was drawn before must not matter
        state = tmp_path / "32.resume.pt"
        fitted = fit_fold(
            model,
            dls,
            phase,
            train,
            title="fold 0",
            seed=seed,
            resume=state,
            origin=origin,
            force=force,
            save_every=save_every,
            deadline=deadline,
            stop=stop,
        )
        state.unlink(missing_ok=True)  # as the stage does
        return fitted

    return fit


def assert_same(a: Fitted, b: Fitted) -> None:
    assert a.weights.keys() == b.weights.keys()
    for ours, theirs in [(a.weights[epoch], b.weights[epoch]) for epoch in a.weights]:
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    pd.testing.assert_frame_equal(
        pd.DataFrame(a.rows).drop(columns=MEASURED), pd.DataFrame(b.rows).drop(columns=MEASURED), check_exact=True
    )


def stop_in_epoch(monkeypatch, epoch: int) -> None:
    """Ctrl-C during the epoch's second training batch."""
    after_batch, seen = EpochLog.after_batch, []

    def stops(self):
        after_batch(self)
        if self.training and self.epoch + 1 == epoch:
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(EpochLog, "after_batch", stops)


def stopped(fit, monkeypatch, epoch: int, **kwargs) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_in_epoch(patch, epoch)
        fit(**kwargs)


def test_training_learns_and_keeps_its_history(fit, capsys):
    phase = Phase(size=32, batch=8, epochs=10, lr=1e-2)
    fitted = fit(phase=phase)
    history = pd.DataFrame(fitted.rows)
    assert list(history) == COLUMNS and history["epoch"].tolist() == list(range(1, 11))
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert history["meanap"].iloc[-1] > 0.25 + 0.2, "3 of the 12 tiles held out are empty: an empty answer scores 0.25"
    assert history["meanap"].between(0, 1).all() and (history[["lr", *MEASURED]] > 0).all(axis=None)
    assert history["lr"].max() <= 1e-2 and history["lr"].iloc[-1] < 1e-4, "one cycle ends near zero"
    said = capsys.readouterr().out
    assert said.count("epoch") == 10 and f"score {fitted.rows[0]['meanap']:.4f}" in said


def test_weights_are_those_of_the_best_and_of_the_last_epoch(fit, drawn):
    fitted = fit(phase=Phase(size=32, batch=8, epochs=5, lr=1e-2))
    scores = [row["meanap"] for row in fitted.rows]
    assert fitted.row("best")["epoch"] == int(np.argmax(scores)) + 1 and fitted.row("best")["meanap"] == max(scores)
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
    model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": 8}))
    dls = get_data(0, folds, 32, 8, tiles=drawn, stats=(model.encoder.mean, model.encoder.std))
    for weights, row in [(fitted.weights["best"], fitted.row("best")), (fitted.weights["last"], fitted.rows[-1])]:
        model.load_state_dict(weights)
        model.eval()
        with torch.inference_mode():
            logits = torch.cat([to_tile(model(x), y.shape[-2:]) for x, y in dls.valid])
        score = tile_scores(logits[:, 0].numpy() > 0, drawn.train_masks[::3]).mean()
        assert score == pytest.approx(row["meanap"], abs=0.005)  # a pixel at the threshold may fall either way
    assert all(w.device.type == "cpu" and w.is_contiguous() for w in fitted.weights["best"].values())


def test_the_same_seed_gives_the_same_and_another_does_not(fit):
    first = fit()
    assert_same(first, fit())
    other = fit(seed=4)
    assert any(not torch.equal(first.weights["last"][k], other.weights["last"][k]) for k in first.weights["last"])


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_training_that_was_stopped_goes_on_bit_for_bit(fit, monkeypatch, tmp_path, epoch, capsys):
    straight = fit()
    stopped(fit, monkeypatch, epoch)
    capsys.readouterr()
    assert_same(straight, fit())
    assert capsys.readouterr().out.count("  epoch ") == 4 - (epoch - 1), "what was done is not done again"


def signal_at(step: int) -> Callable[[], int]:
    """A `stop` that returns SIGTERM at this batch, counting those of validation."""
    asked = iter([*[0] * (step - 1), 15])
    return lambda: next(asked)


FINE_TUNE = Train(phases=(PHASE,), precision="fp32", schedule="fine_tune", wd=1e-2)


@pytest.mark.parametrize(
    "train", [TRAIN, replace(TRAIN, average=0.5), FINE_TUNE], ids=["plain", "average", "fine_tune"]
)
@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 11])
def test_a_training_that_gets_a_signal_finishes_the_step_and_goes_on_bit_for_bit(fit, tmp_path, train, step):
    straight = fit(train)
    with pytest.raises(Stopped, match=r"^\S*32\.resume\.pt has epoch . up to batch . of 2; the same command") as e:
        fit(train, save_every=1e9, stop=signal_at(step))
    assert e.value.status == 128 + 15
    state = torch.load(tmp_path / "32.resume.pt", weights_only=True)
    assert (state["epochs"], state["batch"]) == ((step - 1) // 3, min((step - 1) % 3 + 1, 2))
    assert_same(straight, fit(train))


def test_stopped_after_every_step_it_still_ends_with_the_same_bits(fit):
    straight, stops = fit(), 0
    while stops < 20:
        try:
            assert_same(straight, fit(save_every=1e9, stop=signal_at(2 if stops % 3 else 1)))
            break
        except Stopped:
            stops += 1
    assert 6 <= stops < 20


def test_what_is_done_of_an_epoch_is_not_computed_again(fit, monkeypatch):
    with pytest.raises(Stopped):
        fit(save_every=1e9, stop=signal_at(4))
    batches, do_batch = [], TileLoader.do_batch
    monkeypatch.setattr(TileLoader, "do_batch", lambda self, rows: batches.append(len(rows)) or do_batch(self, rows))
    fit()
    assert batches == [12, 12, *[12, 12, 12] * 2], "one of epoch 2 and its validation, then two epochs"


def test_the_average_of_the_weights_goes_on_bit_for_bit_too_and_training_does_not_see_it(fit, monkeypatch):
    averaged = replace(TRAIN, average=0.5)
    plain, straight = fit(), fit(averaged)
    assert plain.weights.keys() == {"best", "last"} and straight.row("average") == straight.row("last")
    average, last = straight.weights["average"], straight.weights["last"]
    assert all(torch.equal(plain.weights["last"][k], last[k]) for k in last)
    assert average.keys() == last.keys() and any(not torch.equal(average[k], last[k]) for k in last)
    stopped(fit, monkeypatch, 3, train=averaged)
    assert_same(straight, fit(averaged))


@pytest.mark.parametrize("share, mean", [(1, 3.0), (0.4, ((1 + 2) / 2 + 3) / 2 / 4 + 4 / 4 + 5 / 2)])
def test_the_average_is_first_the_plain_and_then_a_moving_mean(share, mean):
    """Weights 1, 2, 3, 4, 5 after five steps; 0.4 averages over two of them: m becomes (m + w) / 2."""
    model = torch.nn.BatchNorm1d(1)
    average = WeightAverage(share)
    average.learn = SimpleNamespace(model=model, training=True, n_epoch=1, dls=SimpleNamespace(train=range(5)))
    for step in range(1, 6):
        model.weight.data.fill_(step)
        model.running_mean.fill_(10 * step)
        model.num_batches_tracked.fill_(step)
        average.after_batch()
        average.learn.training = False
        average.after_batch()  # of validation
        average.learn.training = True
    assert average.weights["weight"].item() == pytest.approx(mean)
    assert average.weights["running_mean"].item() == pytest.approx(10 * mean)
    assert average.weights["num_batches_tracked"].item() == 5 and model.weight.item() == 5


def test_stopped_twice_and_long_after_the_last_save(fit, monkeypatch, tmp_path):
    straight = fit()
    stopped(fit, monkeypatch, 2)
    stopped(fit, monkeypatch, 4, save_every=1e9)  # goes on from epoch 1, saves nothing
    assert_same(straight, fit())


@pytest.mark.parametrize(
    "hours, done",
    [
        ([1, 1, 1, 1], 3),  # an epoch an hour, 3.5 hours: three fit, a fourth one would not
        ([1, 2, 0.1, 0.1], 2),  # 0.5 hours are left, and the longest so far took 2
        ([9, 9, 9, 9], 1),  # the first one is begun in any case
        ([0.5, 0.5, 0.5, 0.5], 4),
        ([0.5, 0.5, 0.5, 9], 4),  # nobody knew; it has ended, so it counts
    ],
)
def test_a_training_ends_after_the_epoch_that_still_fits_and_goes_on_bit_for_bit(
    fit, monkeypatch, tmp_path, hours, done
):
    straight, clock = fit(), [1000.0]
    after_batch = EpochLog.after_batch

    def passes(self):
        after_batch(self)
        if not self.training:  # one batch of validation an epoch
            clock[0] += 3600 * hours[self.epoch]

    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "after_batch", passes)
        patch.setattr("time.monotonic", lambda: clock[0])
        if done == len(hours):
            assert_same(straight, fit(save_every=1e9, deadline=1000 + 3600 * 3.5))
            return
        with pytest.raises(Stopped, match=f"fold 0, after epoch {done} of 4: .*the same command goes on"):
            fit(save_every=1e9, deadline=1000 + 3600 * 3.5)
    assert torch.load(tmp_path / "32.resume.pt", weights_only=True)["epochs"] == done
    assert_same(straight, fit())


def test_a_process_that_is_killed_goes_on_bit_for_bit(fit, tmp_path, drawn):
    straight = fit()
    np.savez(tmp_path / "tiles.npz", images=drawn.train_images, masks=drawn.train_masks)
    program = f"""
        import os, signal, warnings
        warnings.simplefilter("ignore")
        from pathlib import Path
        import numpy as np, pandas as pd, torch
        from pipeline.salt.training import checkpoints
        from pipeline.salt.artifacts import Origin
        from pipeline.salt.config import Model, Phase, Train
        from pipeline.salt.training.learner import fit_fold
        from pipeline.salt.tiles.loaders import get_data
        from pipeline.salt.tiles import Tiles
        saves, save = [], torch.save
        def dies_in_the_third_save(state, file):
            saves.append(file)
            if len(saves) == 3:
                file.write(b"half")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            save(state, file)
        torch.save = dies_in_the_third_save
        tiles = np.load({str(tmp_path / "tiles.npz")!r})
        folds = pd.DataFrame({{"id": [f"{{i:04}}" for i in range(36)], "fold": np.arange(36) % 3}})
        torch.manual_seed(0)
        model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={{"width": 8}}))
        phase = Phase(size=32, batch=12, epochs=4, lr=4e-3)
        dls = get_data(0, folds, 32, 12, tiles=Tiles(tiles["images"], tiles["masks"], None, pd.DataFrame()),
                       stats=(model.encoder.mean, model.encoder.std))
        fit_fold(model, dls, phase, Train(phases=(phase,), precision="fp32"), title="", seed=3,
                 resume=Path({str(tmp_path / "32.resume.pt")!r}), origin={ORIGIN!r}, save_every=0)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len([*tmp_path.glob(".tmp-*-32.resume.pt")]) == 1, "half a state, beside a whole one"
    assert_same(straight, fit())
    assert not [*tmp_path.glob(".tmp-*")]


@pytest.mark.parametrize("epochs", [1, 3])
def test_fine_tune_is_fastais_bit_for_bit(fit, monkeypatch, epochs):
    """Without weight decay: fastai's own groups treat it differently."""
    phase, train = Phase(size=32, batch=12, epochs=epochs, lr=4e-3), replace(FINE_TUNE, wd=0)

    def fastais(learn: Learner, epochs: int, lr: float, start_epoch: int) -> None:
        learn.splitter, learn.wd = learner.layer_groups, 0
        learn.create_opt()
        learn.fine_tune(epochs, lr)

    ours = fit(train, phase)
    monkeypatch.setattr(learner, "fine_tune", fastais)
    theirs = fit(train, phase, save_every=1e9)
    assert all(torch.equal(ours.weights["last"][k], theirs.weights["last"][k]) for k in ours.weights["last"])
    for column in ("train_loss", "valid_loss", "meanap", "lr"):
        assert [row[column] for row in ours.rows] == [row[column] for row in theirs.rows]
    assert [row["epoch"] for row in ours.rows] == list(range(1, epochs + 2))


@pytest.mark.parametrize("wd", [0.0, 5.0])
def test_the_fused_optimizer_is_fastais_adam_which_spares_biases_and_norms(fit, monkeypatch, wd):
    """The same training with fastai's own optimizer, one kernel after another."""
    train = replace(TRAIN, wd=wd)
    ours = fit(train).weights["last"]

    def with_fastais_adam(*args, **kwargs) -> Learner:
        made = build(*args, **kwargs)
        made.opt_func, made.splitter, made.wd = partial(Adam, sqr_mom=0.99, eps=1e-5), trainable_params, wd
        made.one_cycle_rates = lambda lr: lr
        return made

    build = learner.build_learner
    with monkeypatch.context() as patch:
        patch.setattr(learner, "build_learner", with_fastais_adam)
        theirs = fit(train, save_every=1e9).weights["last"]

    def apart(other: dict) -> float:
        """Largest relative distance of a tensor; Adam amplifies tiny gradients."""
        names = [k for k in ours if ours[k].is_floating_point() and "running" not in k]
        return max(float((ours[k] - other[k]).norm() / (other[k].norm() + 0.1)) for k in names)

    assert apart(theirs) < 0.01
    if wd:
        monkeypatch.setattr(learner, "norm_bias_params", lambda model: [])
        assert apart(fit(train, save_every=1e9).weights["last"]) > 0.03, "decay of all would show"


@pytest.mark.parametrize("model, rates", [("dynamic_unet", [1e-4] * 4 + [1e-3] * 2), ("unet_resnext50", [1e-3] * 2)])
def test_rates_are_the_articles_a_tenth_for_the_body_of_unet_learner(drawn, model, rates):
    built = checkpoints.build(Model(name=model, encoder="resnet18", weights="none"))
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
    dls = get_data(0, folds, 32, 12, tiles=drawn, stats=(built.encoder.mean, built.encoder.std))
    learn = learner.build_learner(built, dls, PHASE, TRAIN, [])
    assert learn.one_cycle_rates(1e-3) == pytest.approx(rates)
    learn.create_opt()
    learn.opt.set_hypers(wd=[0.1, 0.0] * (len(rates) // 2), lr=learn.one_cycle_rates(1e-3))
    decayed = {
        id(p) for group, h in zip(learn.opt.param_lists, learn.opt.hypers, strict=True) if h["wd"] for p in group
    }
    norms = [m for m in built.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not decayed & {id(p) for m in norms for p in m.parameters()}
    convolutions = [m for m in built.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {id(m.weight) for m in convolutions} <= decayed
    assert not decayed & {id(m.bias) for m in convolutions if m.bias is not None}
    assert sum(len(group) for group in learn.opt.param_lists) == len([*built.parameters()])


def test_fine_tune_begins_with_the_encoder_held_still(fit, monkeypatch):
    start = fit(phase=Phase(size=32, batch=12, epochs=1, lr=1e-9)).weights["last"]
    after_first = {}
    after_epoch = EpochLog.after_epoch

    def looks(self):
        after_epoch(self)
        if self.epoch == 0:
            after_first.update({k: v.clone() for k, v in self.model.state_dict().items()})

    monkeypatch.setattr(EpochLog, "after_epoch", looks)
    last = fit(FINE_TUNE, Phase(size=32, batch=12, epochs=2, lr=4e-3)).weights["last"]
    convolutions = [k for k, v in start.items() if v.dim() == 4]
    moved = {k for k in convolutions if not torch.allclose(after_first[k], start[k], atol=1e-6)}
    assert moved == {k for k in convolutions if not k.startswith("encoder.")}
    norms = [k for k, v in start.items() if k.startswith("encoder.") and k.endswith("weight") and v.dim() == 1]
    assert any(not torch.allclose(after_first[k], start[k], atol=1e-6) for k in norms), "BatchNorm goes on"
    assert any(not torch.allclose(last[k], start[k], atol=1e-6) for k in convolutions if k.startswith("encoder."))


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_fine_tune_that_was_stopped_goes_on_bit_for_bit(fit, monkeypatch, epoch):
    phase = Phase(size=32, batch=12, epochs=3, lr=4e-3)
    straight = fit(FINE_TUNE, phase)
    stopped(fit, monkeypatch, epoch, train=FINE_TUNE, phase=phase)
    assert_same(straight, fit(FINE_TUNE, phase))


def test_fine_tune_is_not_shared_out_to_several_processes(fit, monkeypatch):
    monkeypatch.setattr(learner, "world_size", lambda: 2)
    with pytest.raises(InputError, match="fine_tune needs a single process"):
        fit(FINE_TUNE)


def test_compiled_training_is_not_shared_out_to_several_processes(fit, monkeypatch):
    monkeypatch.setattr(learner, "world_size", lambda: 2)
    with pytest.raises(InputError, match="train.compile=default needs a single process"):
        fit(replace(TRAIN, compile="default"))


@pytest.mark.parametrize(
    "other, words",
    [
        (Origin({"train": {"wd": 0.02, "phase": {"epochs": 4}}}, ORIGIN.inputs), r"\(train.wd 0.01 -> 0.02\)"),
        (Origin(ORIGIN.settings, {"folds.csv": "b855"}), r"\(folds.csv changed\)"),
    ],
)
def test_a_state_of_another_training_is_kept_unless_it_is_said_that_it_may_go(fit, monkeypatch, other, words, capsys):
    straight = fit(origin=other)
    stopped(fit, monkeypatch, 3, seed=9)
    with pytest.raises(InputError, match=f"32.resume.pt has 2 epochs of a training with other settings {words}; --run"):
        fit(origin=other)
    capsys.readouterr()
    assert_same(straight, fit(origin=other, force=True))
    said = capsys.readouterr().out
    assert "epochs with other settings are discarded" in said and said.count(" train ") == 4


def test_a_state_from_before_a_setting_came_is_gone_on_from(fit, monkeypatch, capsys):
    stopped(fit, monkeypatch, 3)
    later = Origin({"train": {**ORIGIN.settings["train"], "average": 0.0}}, ORIGIN.inputs)  # as it is by default
    fit(origin=later)
    assert "2 epochs and 1 steps of the next are done" in capsys.readouterr().out


class Counter(Stateful):
    """Counts a training's batches; without its state it would forget those before an interruption."""

    def __init__(self):
        self.batches = 0

    def after_batch(self):
        self.batches += self.training

    def state_dict(self) -> dict:
        return {"batches": [self.batches, {"of": torch.tensor(self.batches)}]}

    def load_state_dict(self, state: dict) -> None:
        self.batches, of = state["batches"]
        assert of["of"] == self.batches > 0


def test_whatever_has_a_state_is_resumed(fit, monkeypatch):
    """Resume finds every Stateful callback, even a new one."""
    build, counters = learner.build_learner, []

    def with_counter(model, dls, phase, train, cbs):
        counters.append(Counter())
        return build(model, dls, phase, train, [counters[-1], *cbs])

    monkeypatch.setattr(learner, "build_learner", with_counter)
    fit()
    stopped(fit, monkeypatch, 3)
    fit()
    straight, before, after = (counter.batches for counter in counters)
    assert (straight, before, after) == (8, 6, 8)


def test_every_state_is_plain_and_comes_back(fit, monkeypatch, tmp_path):
    """Saved, and loaded with weights_only, which allows tensors, numbers, strings, lists and dicts."""
    seen, after_epoch = {}, Resume.after_epoch

    def look(self):
        after_epoch(self)
        for callback in [callback for callback in self.learn.cbs if isinstance(callback, Stateful)]:
            torch.save(callback.state_dict(), tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
            callback.load_state_dict(state)
            torch.testing.assert_close(callback.state_dict(), state, rtol=0, atol=0)
            seen[type(callback)] = state
        (tmp_path / "state.pt").unlink()

    averaged = replace(TRAIN, average=0.5)
    straight = fit(averaged)
    monkeypatch.setattr(Resume, "after_epoch", look)
    assert_same(fit(averaged), straight)
    assert {*Stateful.__subclasses__()} - {Counter} == {*seen} >= {EpochLog, KeepBest, RandomState}
    assert seen[EpochLog]["rows"][-1]["epoch"] == 4 and seen[KeepBest]["score"] == straight.row("best")["meanap"]


def flipped(state: bytes) -> bytes:
    """Weights with one bit flipped."""
    at = state.index(b"/data/") + len(state) // 2
    return state[:at] + bytes([state[at] ^ 64]) + state[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: b"",
        lambda state: state[:100],
        lambda state: state[: len(state) // 2],
        flipped,
        lambda state: pickle.dumps({"key": "key", "epochs": 1}),
        lambda state: torch.save({"key": "key"}, file := io.BytesIO()) or file.getvalue(),
    ],
)
def test_a_damaged_state_is_said_and_the_training_begins_anew(fit, monkeypatch, tmp_path, damage, capsys):
    straight = fit()
    stopped(fit, monkeypatch, 2)
    state = tmp_path / "32.resume.pt"
    state.write_bytes(damage(state.read_bytes()))
    capsys.readouterr()
    assert_same(fit(), straight)
    assert "32.resume.pt is damaged" in (said := capsys.readouterr().out) and "this training starts over" in said
    assert said.count(" train ") == 4


def test_a_state_of_other_versions_is_gone_on_from_and_said(fit, monkeypatch, tmp_path, capsys):
    straight = fit()
    stopped(fit, monkeypatch, 2)
    state = tmp_path / "32.resume.pt"
    before = state.read_bytes()
    capsys.readouterr()
    fit()
    assert "resume   " in (said := capsys.readouterr().out) and "note" not in said, "the same versions"
    versions = environment.versions()
    for other, named in [
        (versions | {"torch": "0.4.1"}, f"note     they were made with torch {versions['torch']} (here 0.4.1): "),
        (versions | {"python": "3.0.0", "fastai": "1"}, f"python {versions['python']} (here 3.0.0), fastai"),
    ]:
        state.write_bytes(before)
        monkeypatch.setattr(environment, "versions", lambda other=other: other)
        assert_same(fit(), straight)
        assert (said := capsys.readouterr().out).count("note") == 1 and named in said
    made_with = torch.load(io.BytesIO(before), weights_only=True)["made_with"]
    assert made_with["device"].startswith(f"{torch.get_num_threads()} CPU thread")


def test_a_full_disk_while_the_state_is_saved_is_said(fit, monkeypatch, tmp_path):
    def full(state, f):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"^no space left to write .*32\.resume\.pt"):
        fit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training_in_words(fit, monkeypatch, tmp_path, value):
    monkeypatch.setitem(LOSSES, "bce", lambda logits, masks: logits.sum() * 0 + value)
    with pytest.raises(InputError, match=r"^fold 0: .* is (nan|inf) in epoch 1, from batch 1 of 2 on; .*train\.lr"):
        fit(Train(phases=(PHASE,), precision="fp32", loss="bce"))
    assert list(tmp_path.iterdir()) == []


def test_the_state_before_a_loss_that_is_no_number_is_kept(fit, monkeypatch, tmp_path):
    loss, seen = LOSSES["bce"], []

    def breaks(logits, masks):
        seen.append(torch.is_grad_enabled())
        return loss(logits, masks) + (float("nan") if sum(seen) == 4 else 0)  # batch 2 of epoch 2

    with monkeypatch.context() as patch, pytest.raises(InputError, match="in epoch 2, from batch 2 of 2 on"):
        patch.setitem(LOSSES, "bce", breaks)
        fit(replace(TRAIN, loss="bce"))
    state = torch.load(tmp_path / "32.resume.pt", weights_only=True)
    assert (state["epochs"], state["batch"]) == (1, 1) and all(w.isfinite().all() for w in state["model"].values())


def test_a_loss_that_is_no_number_in_validation_ends_the_training_too(fit, monkeypatch, tmp_path):
    loss = LOSSES["bce"]
    breaks = lambda logits, masks: loss(logits, masks) + (0 if torch.is_grad_enabled() else float("nan"))  # noqa: E731
    monkeypatch.setitem(LOSSES, "bce", breaks)
    with pytest.raises(InputError, match=r"^fold 0: the validation loss is nan in epoch 1; nothing was published"):
        fit(Train(phases=(PHASE,), precision="fp32", loss="bce"))
    assert all(w.isfinite().all() for w in torch.load(tmp_path / "32.resume.pt", weights_only=True)["model"].values())


@pytest.mark.parametrize("step", [3, 8])  # within the second of four epochs, and the very last one
def test_weights_that_are_no_numbers_are_neither_saved_nor_published(fit, monkeypatch, tmp_path, step):
    """A finite loss with a gradient that is not: no later loss shows it yet."""
    steps = []

    def spoil(self) -> None:
        steps.append(True)
        if len(steps) == step:
            next(self.model.parameters()).grad.fill_(float("nan"))

    monkeypatch.setattr(EpochLog, "after_backward", spoil, raising=False)
    words = rf"the weights are not finite in epoch {(step + 1) // 2}; nothing was published"
    with pytest.raises(InputError, match=words):
        fit()
    state = torch.load(tmp_path / "32.resume.pt", weights_only=True)
    assert 2 * state["epochs"] + state["batch"] == step - 1 and all(w.isfinite().all() for w in state["model"].values())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(fit, loss):
    phase = Phase(size=32, batch=12, epochs=1, lr=1e-3)
    assert np.isfinite(fit(Train(phases=(phase,), precision="fp32", loss=loss), phase).rows[0]["train_loss"])


def test_bf16_trains_and_leaves_nothing_behind(fit):
    fitted = fit(Train(phases=(PHASE,), precision="bf16"))
    assert all(np.isfinite([row["train_loss"], row["valid_loss"]]).all() for row in fitted.rows)
    assert {w.dtype for w in fitted.weights["last"].values()} <= {torch.float32, torch.int64}
    assert not torch.is_autocast_enabled("cpu")
    exact = fit()
    assert fitted.rows[0]["train_loss"] == pytest.approx(exact.rows[0]["train_loss"], rel=0.05)
    assert fitted.rows[0]["train_loss"] != exact.rows[0]["train_loss"], "bf16 rounds: otherwise it did not run"


def test_a_number_format_that_the_machine_has_not_is_said(fit):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which has fp16; the sentence is for machines without")
    with pytest.raises(InputError, match="fp16 needs a GPU; use bf16 or fp32"):
        fit(Train(phases=(PHASE,), precision="fp16"))


def test_weight_decay_and_learning_rate_reach_the_optimizer(fit):
    plain = fit()
    for phase, wd in [(PHASE, 0.5), (Phase(size=32, batch=12, epochs=4, lr=1e-3), TRAIN.wd)]:
        other = fit(Train(phases=(phase,), precision="fp32", wd=wd), phase)
        assert any(not torch.equal(plain.weights["last"][k], other.weights["last"][k]) for k in plain.weights["last"])


def test_a_state_is_saved_no_more_often_than_asked(fit, monkeypatch):
    saved = []
    monkeypatch.setattr(torch, "save", lambda state, file: saved.append((state["epochs"], state["batch"])))
    fit(save_every=1e9)
    assert saved == []
    fit(save_every=0)
    steps = [[(epoch, 1), (epoch, 2), (epoch, 2), (epoch + 1, 0)] for epoch in range(4)]  # two batches, and validation
    assert saved == sum(steps, [])[:-1], "whole epochs but the last"


def test_the_scale_of_fp16_goes_on_where_it_was(fit, monkeypatch):
    """With a scaler that also works in fp32 on a CPU, and doubles its scale at every third step of eight."""
    made, scaler = [], torch.amp.GradScaler

    def always(device: str, enabled: bool) -> torch.amp.GradScaler:
        made.append(scaler(device, init_scale=8.0, growth_interval=3))
        return made[-1]

    plain = fit()
    monkeypatch.setattr(torch.amp, "GradScaler", always)
    straight = fit()
    assert_same(straight, plain)  # a power of two more or less, and no step left out
    stopped(fit, monkeypatch, 3)
    assert_same(fit(), straight)
    assert [s.get_scale() for s in (made[0], made[-1])] == [32.0, 32.0]


def test_compiled_it_learns_the_same(fit, monkeypatch):
    """Up to rounding, and the weights keep their names. With torch's own kernels: compiling others takes minutes."""
    compile_module, modes = torch.nn.Module.compile, []

    def traced(self, mode: str, **kwargs) -> None:
        modes.append(mode)
        compile_module(self, backend="aot_eager", **kwargs)

    plain = fit()
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    compiled = fit(replace(TRAIN, compile="reduce-overhead"))
    assert modes == ["reduce-overhead"] and counters["unique_graphs"] - before >= 2
    assert compiled.weights["last"].keys() == plain.weights["last"].keys()
    for a, b in zip(compiled.rows, plain.rows, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["valid_loss"] == pytest.approx(b["valid_loss"], rel=1e-3)


@pytest.mark.parametrize("n", [7, 8, 1])
def test_several_processes_share_a_batch_out(monkeypatch, n):
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shard = BatchShard()
        shard.learn = SimpleNamespace(xb=(torch.arange(n),), yb=(torch.arange(n),))
        shard.before_batch()
        assert torch.equal(shard.learn.xb[0], shard.learn.yb[0])
        parts += shard.learn.xb[0].tolist()
    assert sorted(parts) == [*range(n)]


def test_of_equal_epochs_the_first_is_kept():
    model, best = torch.nn.Linear(1, 1), KeepBest()
    best.learn = SimpleNamespace(model=model, epoch_row=None)
    for weight, score in [(1.0, 0.5), (2.0, 0.7), (3.0, 0.7)]:
        model.weight.data.fill_(weight)
        best.learn.epoch_row = {"meanap": score}
        best.after_epoch()
    assert best.weights["weight"].item() == 2


def test_the_validation_loss_is_the_mean_over_tiles_of_which_the_last_batch_has_fewer(drawn, tmp_path):
    phase = Phase(size=32, batch=5, epochs=1, lr=1e-3)
    torch.manual_seed(0)
    model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": 8}))
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
    dls = get_data(0, folds, 32, 5, tiles=drawn, stats=(model.encoder.mean, model.encoder.std))
    assert [len(images) for images, _ in dls.valid] == [10, 2]
    train = Train(phases=(phase,), precision="fp32")
    fitted = fit_fold(model, dls, phase, train, title="", seed=0, resume=tmp_path / "state", origin=ORIGIN)
    model.eval()
    with torch.no_grad():
        each = [
            LOSSES[train.loss](to_tile(model(images), masks.shape[-2:]), masks, reduction="none")
            for images, masks in dls.valid
        ]
    assert fitted.rows[0]["valid_loss"] == pytest.approx(torch.cat(each).mean().item(), abs=2e-4)
