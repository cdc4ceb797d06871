"""Code for the GPU, tested without one: torch's fake tensors have shapes and devices but no values.

Two devices in one operation fail here as they would there, and so does anything that would wait for the GPU, such as
reading a value. Only the backward pass needs a real GPU.
"""

import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from pipeline.salt.config import Augment, Model
from pipeline.salt.device import autocast
from pipeline.salt.inference import flip_tta
from pipeline.salt.losses import LOSSES, composite
from pipeline.salt.models import MODELS
from pipeline.salt.models.blocks import hypercolumn
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints
from pipeline.salt.training.callbacks import _scores
from pipeline.salt.training.learner import LossAtMaskSize

GPU = torch.device("cuda", 0)
STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    with FakeTensorMode():
        yield


@pytest.fixture
def batches(drawn):
    """A training and a validation batch as the loaders make them, with all augmentations on."""
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": [k % 3 for k in range(36)]})
    always = Augment(flip_p=1, brightness_p=1, zoom_p=1)
    dls = get_data(0, folds, 64, 8, tiles=drawn, stats=STATS, augment=always, device=GPU)
    return dls.train.do_batch([*range(8)]), dls.valid.do_batch([*range(12)])


def build(name: str = "unet_resnext50", **options) -> torch.nn.Module:
    with GPU:
        return checkpoints.build(Model(name=name, encoder="test_resnet", weights="none", options=options))


def test_the_method_sees_a_wait_and_a_second_device():
    x = torch.ones(3, device=GPU)
    with pytest.raises(DataDependentOutputException):
        x.sum().item()
    with pytest.raises(RuntimeError, match="two (different )?devices"):
        x + torch.ones(3)


def test_batches_are_made_where_the_model_is(batches):
    (x, masks), (held_out, truth) = batches
    assert {t.device for t in (x, masks, held_out, truth)} == {GPU}
    assert x.shape == (8, 3, 64, 64) and truth.shape == (12, 1, 101, 101)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_every_model_stays_on_the_gpu(batches, name):
    (x, masks), (held_out, truth) = batches
    model, loss = build(name), LossAtMaskSize(composite(LOSSES["symmetric_lovasz"]), truth.shape[-2:])
    for precision in ("bf16", "fp16", "fp32"):
        model.train()
        with autocast(precision, GPU):
            trained = loss(model(x), masks)
        with torch.no_grad(), autocast(precision, GPU):
            logits = model.eval()(held_out)
            validated = loss(logits, truth)
        scores = _scores(logits, truth)
        assert trained.device == validated.device == scores.device == GPU and scores.shape == (12,)
        with torch.no_grad(), autocast(precision, GPU):
            assert to_tile(flip_tta(model, held_out), truth.shape[-2:]).device == GPU


def test_the_hypercolumn_stays_in_the_short_format():
    maps = [torch.zeros(2, 4, side, side, dtype=torch.bfloat16, device=GPU) for side in (16, 8, 4)]
    with autocast("bf16", GPU):
        assert F.interpolate(maps[1], scale_factor=2, mode="bilinear").dtype == torch.float32, "as autocast has it"
        assert hypercolumn(maps).dtype == torch.bfloat16


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_waits_for_the_gpu(batches, name):
    (x, masks), _ = batches
    model = build(deep_supervision=True, classifier=True, width=4).train()
    assert LossAtMaskSize(composite(LOSSES[name]), masks.shape[-2:])(model(x), masks).device == GPU
