"""Augmentation of a training batch: the article's Flip, Zoom and Brightness, in one grid sample.

The three channels of a tile are equal, so one is augmented; image and mask go through the same sample.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.config import Augment


def augment_batch(images: Tensor, masks: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Flip, zoom and brighten each tile at random and on its own, on its device, with torch's global random state.

    images  (B, 1, S, S) uint8   -> (B, 1, S, S) float32 in [0, 1]
    masks   (B, 1, S, S) bool    -> (B, 1, S, S) float32 in {0, 1}
    The definitions are fastai's (vision.augment: Flip, Zoom, Brightness), https://docs.fast.ai/vision.augment.html
    """
    both = torch.cat([images.float() / 255, masks.float()], dim=1)  # (B, 2, S, S)
    grid = _grid(_affine(len(images), augment, images.device), images.shape[-1])
    moved = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
    return _brighten(moved[:, :1], augment), (moved[:, 1:] > 0.5).float()


def _affine(n: int, augment: Augment, device: torch.device) -> Tensor:
    """(n, 2, 2): for x and for y, the scale and shift that take output to input coordinates in [-1, 1]."""
    zoomed = _chance(n, augment.zoom_p, device)
    scale = 1 / (1 + zoomed * (augment.zoom - 1) * torch.rand(n, device=device))
    shift = (1 - scale)[:, None] * (2 * torch.rand(n, 2, device=device) - 1)  # keeps the window inside the tile
    mirror = 1 - 2 * _chance(n, augment.flip_p, device)
    return torch.stack([torch.stack([mirror * scale, shift[:, 0]], 1), torch.stack([scale, shift[:, 1]], 1)], 1)


def _grid(affine: Tensor, size: int) -> Tensor:
    """(B, S, S, 2) sampling points. The map has no shear, so each axis is one line of numbers, not a matrix product."""
    centres = (torch.arange(size, device=affine.device) * 2 + 1) / size - 1  # (S,)
    lines = affine[..., :1] * centres + affine[..., 1:]  # (B, 2, S)
    x, y = lines[:, 0, None, :].expand(-1, size, -1), lines[:, 1, :, None].expand(-1, -1, size)
    return torch.stack([x, y], dim=-1)


def _brighten(images: Tensor, augment: Augment) -> Tensor:
    """sigmoid(logit(x) + c), c the logit of a number drawn from 0.5 * (1 -+ brightness), without logarithms."""
    n = len(images)
    grey = 0.5 * (1 + augment.brightness * (2 * torch.rand(n, device=images.device) - 1))
    odds = torch.where(_chance(n, augment.brightness_p, images.device) > 0, grey / (1 - grey), 1.0).view(n, 1, 1, 1)
    return images * odds / (1 + (odds - 1) * images)


def _chance(n: int, p: float, device: torch.device) -> Tensor:
    """(n,) float: 1 with probability p, else 0."""
    return (torch.rand(n, device=device) < p).float()
