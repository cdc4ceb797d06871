"""Depthwise convolutions on a CPU: the same values and gradients as torch's own, in fp32 under autocast."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.salt.config import Phase, Train
from pipeline.salt.models import build_model
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training.depthwise import DepthwiseConv, speed_up_depthwise_
from pipeline.salt.training.learner import build_learner


@pytest.mark.parametrize("stride, padding", [(1, 2), (2, 2), (2, 0), (1, 0), (3, 1)])
@pytest.mark.parametrize("height, width", [(9, 9), (8, 11), (5, 6)])
def test_the_gradients_are_those_of_finite_differences(stride, padding, height, width):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, height, width).double(), torch.randn(3, 1, 5, 5).double()
    torch.autograd.gradcheck(
        lambda x, w: DepthwiseConv.apply(x, w, stride, padding), (x.requires_grad_(), weight.requires_grad_())
    )


LAYERS = {
    "3x3": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "5x5, padded": lambda: nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
    "5x5, stride 2, as TensorFlow pads": lambda: Conv2dSame(8, 8, 5, stride=2, groups=8, bias=False),
    "3x3, stride 2, as TensorFlow pads": lambda: Conv2dSame(8, 8, 3, stride=2, groups=8, bias=False),
    "5x5 with a bias": lambda: nn.Conv2d(8, 8, 5, groups=8),
    "two maps of each": lambda: nn.Conv2d(8, 16, 5, groups=8, bias=False),
    "uneven": lambda: nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8, bias=False),
    "dilated": lambda: nn.Conv2d(8, 8, 5, dilation=2, padding=4, groups=8, bias=False),
    "padding by name": lambda: nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("side", [13, 16])
def test_every_depthwise_layer_gives_what_it_gave(name, side):
    torch.manual_seed(0)
    layer, x = LAYERS[name](), torch.randn(2, 8, side, side)
    mine = speed_up_depthwise_(copy.deepcopy(layer))
    outputs = [trained(each, x.clone().requires_grad_()) for each in (layer, mine)]
    for theirs, ours in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def trained(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input, gradients of the weights."""
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


def test_they_compute_in_fp32_and_round_what_they_give_and_others_do_not():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 9).bfloat16()
    layers = [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 5, groups=8, bias=False), nn.Conv2d(8, 8, 3)]
    exact = [F.conv2d(x.float(), layer.weight, layer.bias, groups=8).bfloat16() for layer in layers[:2]]
    model = speed_up_depthwise_(nn.ModuleList(layers))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(layer(x), y) for layer, y in zip(model, exact, strict=False))
        assert model[2](x).dtype == torch.bfloat16 and model[2](x.float()).dtype == torch.bfloat16


def test_a_whole_efficientnet_learns_the_same():
    torch.manual_seed(0)
    model = build_model("unet_resnext50", "tf_efficientnet_lite0", {"width": 4})
    fast, x = speed_up_depthwise_(copy.deepcopy(model)), torch.randn(2, 3, 64, 96)
    assert sum(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in fast.modules()) == 16
    for each in (model, fast):
        each(x).square().mean().backward()
    for theirs, ours in zip(model.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5 * theirs.grad.abs().max().item(), rtol=1e-3)


def test_training_on_a_cpu_has_them(drawn):
    phase = Phase(size=32, batch=12, epochs=1, lr=1e-3)
    model = build_model("unet_lean", "tf_efficientnet_lite0")
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
    dls = get_data(0, folds, 32, 12, tiles=drawn, stats=(model.encoder.mean, model.encoder.std))
    build_learner(model, dls, phase, Train(phases=(phase,), precision="fp32"), [])
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert len(layers) > 10 and all("forward" in vars(layer) for layer in layers)
