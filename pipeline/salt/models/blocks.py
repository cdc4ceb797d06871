"""Pieces that several decoders share.

ConvLayer     fastai's convolution (no bias), BatchNorm, ReLU
Hypercolumns  Hariharan et al. 2015, https://arxiv.org/abs/1411.5752
"""
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Heads(NamedTuple):
    """What a model with auxiliary heads returns while training; in eval mode it returns `logits` alone."""

    logits: Tensor            # (B, 1, H, W) salt, per pixel
    deep: list[Tensor]        # (B, 1, h, w) salt, per pixel of each decoder map
    empty: Tensor | None      # (B, 1) the tile has salt


def resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Bilinear, (B, C, h, w) -> (B, C, *size)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def hypercolumn(maps: list[Tensor]) -> Tensor:
    """Stack maps of falling resolution, each brought to the first one's: (B, sum of channels, H, W)."""
    size = maps[0].shape[-2:]
    return torch.cat([maps[0], *(resize(m, size) for m in maps[1:])], dim=1)
