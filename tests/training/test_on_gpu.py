"""On a real GPU: the CPU's results up to rounding, and a training in each number format, interrupted and resumed.

test_gpu.py has what can be tested without one.
"""

import contextlib
import itertools

import pandas as pd
import pytest
import torch

from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Model, Phase, Train
from pipeline.salt.errors import Stopped
from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.models import MODELS
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints
from pipeline.salt.training.learner import fit_fold

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("default"),  # of torch's compiler
]
GPU = torch.device("cuda")
ORIGIN = Origin({}, {})
STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def batch(drawn, monkeypatch):
    """Eight tiles at 64 px and their masks, made on the CPU and on the GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": [k % 3 for k in range(36)]})
    return [
        get_data(0, folds, 64, 8, tiles=drawn, stats=STATS, device=device).valid.do_batch([*range(8)])
        for device in (torch.device("cpu"), GPU)
    ]


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    difference = (ours.cpu().double() - theirs.cpu().double()).norm()
    assert difference <= tolerance * theirs.cpu().double().norm()


def test_batches_are_the_same(batch):
    (x, masks), (on_gpu, their_masks) = batch
    assert_close(on_gpu, x, 5e-3)  # uint8 after an antialiased resize: a rounding may fall on the other side
    assert torch.equal(masks, their_masks.cpu())


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_the_same(batch, name):
    (x, _), _ = batch
    torch.manual_seed(0)
    model = checkpoints.build(Model(name=name, encoder="test_resnet", weights="none"))
    found = []
    for device in (torch.device("cpu"), GPU):
        model.to(device).eval().zero_grad()
        logits = model(x.to(device))
        logits.square().mean().backward()
        found.append((logits.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    for ours, theirs in zip(*found, strict=True):
        assert_close(theirs, ours, 1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_the_same(batch, name):
    (_, masks), _ = batch
    masks = (torch.nn.functional.interpolate(masks, size=(64, 64)) > 0.5).float()
    logits = torch.randn(masks.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for device in (torch.device("cpu"), GPU):
        x = logits.to(device).requires_grad_()
        loss = composite(LOSSES[name])(x, masks.to(device))
        found.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert_close(theirs, ours, 1e-4)
    assert_close(their_gradient, our_gradient, 2e-2)  # equal errors may be sorted either way


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("compiled", ["no", "reduce-overhead"])
def test_a_training_that_is_stopped_goes_on(drawn, tmp_path, precision, compiled):
    """It ends with the loss of an uninterrupted one, up to the GPU's rounding, which no seed controls."""
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": [k % 3 for k in range(36)]})
    phase = Phase(size=64, batch=8, epochs=4, lr=1e-3)
    train, losses = Train(phases=(phase,), precision=precision, compile=compiled), []
    for name, ends in (("straight", [False]), ("stopped", [True, False])):
        for end in ends:
            torch.manual_seed(0)
            model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": 8}))
            dls = get_data(0, folds, 64, 8, tiles=drawn, stats=STATS, device=GPU)
            asked = itertools.count(1)  # four times an epoch, in validation too

            def stop(end=end, asked=asked) -> int:
                return 15 * (end and next(asked) == 6)

            with pytest.raises(Stopped, match="epoch 2 up to batch 2 of 3") if end else contextlib.nullcontext():
                fitted = fit_fold(
                    model, dls, phase, train, title=name, seed=1, resume=tmp_path / name, origin=ORIGIN, stop=stop
                )
            assert (tmp_path / name).exists() or not end
        assert [row["epoch"] for row in fitted.rows] == [1, 2, 3, 4]
        losses.append(pd.DataFrame(fitted.rows)["train_loss"].to_numpy())
    assert losses[1] == pytest.approx(losses[0], rel=0.1) and losses[0][-1] < losses[0][0]
