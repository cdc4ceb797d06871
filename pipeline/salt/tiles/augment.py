"""Augment a training batch: the article's Flip, Zoom, Rotate and Brightness, plus warps, in one grid sample.

Grey tiles have one channel here, RGB tiles three. Image and mask go through the same grid sample.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.config import Augment


def augment_batch(images: Tensor, masks: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Flip, zoom, warp and brighten each tile at random, independently of the others, on the tensors' device.

    images  (B, C, S, S) uint8   -> (B, C, S, S) float32 in [0, 1]
    masks   (B, 1, S, S) bool    -> (B, 1, S, S) float32 in {0, 1}
    Random numbers come from torch's global state; a warp that is off draws none. Flip, Zoom, Rotate and Brightness
    are defined as in fastai: https://docs.fast.ai/vision.augment.html
    """
    both = torch.cat([images.float() / 255, masks.float()], dim=1)  # (B, C + 1, S, S)
    affine = _affine(len(images), augment, images.device)
    if augment.rotate or augment.stretch > 1 or augment.shear or augment.shift:
        grid, padding = F.affine_grid(_warped(affine, augment), list(both.shape), align_corners=False), "reflection"
    else:
        grid, padding = _grid(affine, images.shape[-1]), "border"
    moved = F.grid_sample(both, grid, padding_mode=padding, align_corners=False)
    return _brighten(moved[:, :-1], augment), (moved[:, -1:] > 0.5).float()


def _affine(n: int, augment: Augment, device: torch.device) -> Tensor:
    """(n, 2, 2): for x and y, the scale and shift that map output to input coordinates, both in [-1, 1]."""
    zoomed = _chance(n, augment.zoom_p, device)
    scale = 1 / (1 + zoomed * (augment.zoom - 1) * torch.rand(n, device=device))
    shift = (1 - scale)[:, None] * _either_way(n, 2, device=device)  # keeps the window inside the tile
    mirror = 1 - 2 * _chance(n, augment.flip_p, device)
    return torch.stack([torch.stack([mirror * scale, shift[:, 0]], 1), torch.stack([scale, shift[:, 1]], 1)], 1)


def _warped(affine: Tensor, augment: Augment) -> Tensor:
    """Add rotation, stretch, shear and shift to the (n, 2, 2) of `_affine`: (n, 2, 3), also output to input."""
    n, device = len(affine), affine.device
    scale, shift = affine[..., 0], affine[..., 1]
    zero, one = torch.zeros(n, device=device), torch.ones(n, device=device)
    matrix = torch.diag_embed(scale)
    if augment.rotate:
        degrees = augment.rotate * _either_way(n, device=device) * _chance(n, augment.rotate_p, device)
        angle = torch.deg2rad(degrees)
        matrix = _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos()) @ matrix
    if augment.stretch > 1:
        log = math.log(augment.stretch) / 2 * _either_way(n, device=device) * _chance(n, augment.warp_p, device)
        matrix = _matrix(log.exp(), zero, zero, (-log).exp()) @ matrix
    if augment.shear:
        sideways = augment.shear * _either_way(n, device=device) * _chance(n, augment.warp_p, device)
        matrix = _matrix(one, sideways, zero, one) @ matrix
    if augment.shift:  # the coordinates span 2
        chance = _chance(n, augment.warp_p, device)[:, None]
        shift = shift + 2 * augment.shift * _either_way(n, 2, device=device) * chance
    return torch.cat([matrix, shift[:, :, None]], dim=2)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Four (n,) tensors -> (n, 2, 2) with the rows (a, b) and (c, d)."""
    return torch.stack([a, b, c, d], dim=1).view(-1, 2, 2)


def _grid(affine: Tensor, size: int) -> Tensor:
    """(B, S, S, 2) sampling points. Without shear, each axis is one line of numbers: no matrix product needed."""
    centres = (torch.arange(size, device=affine.device) * 2 + 1) / size - 1  # (S,)
    lines = affine[..., :1] * centres + affine[..., 1:]  # (B, 2, S)
    x, y = lines[:, 0, None, :].expand(-1, size, -1), lines[:, 1, :, None].expand(-1, -1, size)
    return torch.stack([x, y], dim=-1)


def _brighten(images: Tensor, augment: Augment) -> Tensor:
    """sigmoid(logit(x) + c) without logarithms; c is the logit of a number drawn from 0.5 * (1 -+ brightness)."""
    n = len(images)
    grey = 0.5 * (1 + augment.brightness * _either_way(n, device=images.device))
    odds = torch.where(_chance(n, augment.brightness_p, images.device) > 0, grey / (1 - grey), 1.0).view(n, 1, 1, 1)
    return images * odds / (1 + (odds - 1) * images)


def _either_way(*shape: int, device: torch.device) -> Tensor:
    """Random numbers, uniform in [-1, 1]."""
    return 2 * torch.rand(*shape, device=device) - 1


def _chance(n: int, p: float, device: torch.device) -> Tensor:
    """(n,) float: 1 with probability p, else 0."""
    return (torch.rand(n, device=device) < p).float()
