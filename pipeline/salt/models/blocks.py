"""Layers that several models share; torch only.

Hypercolumns  Hariharan et al. 2015,  https://arxiv.org/abs/1411.5752
scSE          Roy et al. 2018,        https://arxiv.org/abs/1803.02579
BAM           Park et al. 2018,       https://arxiv.org/abs/1807.06514
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]  # height and width, px


class Heads(NamedTuple):
    """Output of a model with auxiliary heads in training mode; in eval mode it returns `logits` alone."""

    logits: Tensor  # (B, 1, H, W) salt, per pixel
    deep: list[Tensor]  # (B, 1, h, w) salt, per pixel of each decoder map
    any_salt: Tensor | None  # (B, 1) logit that the tile has any salt


class ScSE(nn.Module):
    """Concurrent squeeze and excitation: x weighted by channel, plus x weighted by place. Shape unchanged."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self.place = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.channel(x) + x * self.place(x)


class BAM(nn.Module):
    """Bottleneck attention: x * (1 + sigmoid(by channel * by place)). Shape unchanged.

    As in the article's second notebook: a product, where the paper has a sum, and neither factor ends in BatchNorm.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.channel = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Unflatten(1, (channels, 1, 1)),
        )
        wide: dict[str, Any] = {"kernel_size": 3, "padding": dilation, "dilation": dilation}
        self.place = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, **wide),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, **wide),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + torch.sigmoid(self.channel(x) * self.place(x)))


class Classifier(nn.Module):
    """(B, c_in, h, w) -> `width` features of the tile (B, width, 1, 1), and the logit that it has salt (B, 1)."""

    def __init__(self, c_in: int, width: int):
        super().__init__()
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c_in, width, 1), nn.ReLU())
        self.logit = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return features, self.logit(features).flatten(1)


def spatial_size(x: Tensor) -> Size:
    """(B, C, H, W) -> (H, W), px."""
    height, width = x.shape[-2:]
    return height, width


def resize(x: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Resize bilinearly, (B, C, h, w) -> (B, C, *size), in x's dtype: autocast on a GPU gives fp32, twice the size."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners).to(x.dtype)


def hypercolumn(maps: list[Tensor]) -> Tensor:
    """Stack maps of falling resolution, each resized to the first one: (B, sum of channels, H, W)."""
    return torch.cat([maps[0], *(resize(m, spatial_size(maps[0])) for m in maps[1:])], dim=1)


def concat_global(features: Tensor, x: Tensor) -> Tensor:
    """Append features of the whole tile (B, F, 1, 1) to every pixel of x (B, C, H, W): (B, C + F, H, W)."""
    return torch.cat([x, features.expand(-1, -1, *spatial_size(x))], dim=1)


def pad_to_multiple(x: Tensor, of: int) -> Tensor:
    """Repeat the right and lower edges until both sides are multiples of `of` px; crop the output to undo it."""
    height, width = spatial_size(x)
    return F.pad(x, (0, -width % of, 0, -height % of), mode="replicate")
