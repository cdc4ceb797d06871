"""UnetResNext50 and UnetLean against a second implementation from their description, with the same weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.salt.models import build_model

Weights = dict[str, Tensor]


def layer(w: Weights, name: str, x: Tensor) -> Tensor:
    """A 3x3 convolution, BatchNorm with running statistics, ReLU."""
    x = F.conv2d(x, w[f"{name}.0.weight"], padding=1)
    mean, var, scale, shift = (w[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(
        (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None] * scale[:, None, None] + shift[:, None, None]
    )


def unet_resnext50(w: Weights, e: list[Tensor]) -> Tensor:
    """The article's decoder: nn.UpsamplingBilinear2d, which aligns corners, after the concatenation with the skip."""
    up = nn.UpsamplingBilinear2d(scale_factor=2)

    def block(name: str, x: Tensor) -> Tensor:
        return layer(w, f"{name}.conv2", layer(w, f"{name}.conv1", up(x)))

    _, e4, e8, e16, e32 = e
    center = layer(w, "center.1", layer(w, "center.0", e32))
    d16 = block("decoder16", torch.cat([center, e32], 1))
    d8 = block("decoder8", torch.cat([d16, e16], 1))
    d4 = block("decoder4", torch.cat([d8, e8], 1))
    d2 = block("decoder2", torch.cat([d4, e4], 1))
    d1 = block("decoder1", d2)
    parts = [
        F.interpolate(d, scale_factor=2**i, mode="bilinear") if i else d for i, d in enumerate([d1, d2, d4, d8, d16])
    ]
    x = layer(w, "logit.1", layer(w, "logit.0", torch.cat(parts, 1)))
    return F.conv2d(x, w["logit.2.weight"], w["logit.2.bias"])


def unet_lean(w: Weights, e: list[Tensor]) -> Tensor:
    """All maps stacked at half resolution and projected by one 1x1 convolution."""

    def up(x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return x

    maps = [layer(w, "center", e[4])]
    for stride, skip in zip((16, 8, 4, 2), e[3::-1], strict=True):
        x = torch.cat([up(maps[0], 1), skip], 1)
        maps.insert(0, layer(w, f"decoder{stride}.conv2", layer(w, f"decoder{stride}.conv1", x)))
    stacked = torch.cat([up(m, i) for i, m in enumerate(maps)], 1)
    x = F.conv2d(stacked, torch.cat([w[f"hypercolumn.project.{i}.weight"] for i in range(5)], 1))
    mean, var, scale, shift = (
        w[f"hypercolumn.norm.0.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    x = F.relu(F.batch_norm(x, mean, var, scale, shift))
    return up(F.conv2d(layer(w, "logit.conv", x), w["logit.logit.weight"], w["logit.logit.bias"]), 1)


@pytest.mark.parametrize("reference", [unet_resnext50, unet_lean])
def test_the_logits_are_those_of_a_second_writing(reference):
    torch.manual_seed(0)
    model = build_model(reference.__name__, "test_resnet", {"width": 8}).eval()
    for name, part in model.state_dict().items():  # so that each BatchNorm counts
        if name.endswith(("running_mean", "bias")):
            part.normal_()
        elif name.endswith("running_var"):
            part.uniform_(0.5, 2)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = model(x), reference(model.state_dict(), model.encoder(x))
    assert ours.shape == theirs.shape == (2, 1, 64, 96) and ours.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * ours.std().item())
