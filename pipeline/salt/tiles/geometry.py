"""Resizing: tiles of any size to a model's square input and its logits back, in batches, on whatever device they are.

All maps are bilinear with pixel areas aligned (align_corners=False), as PIL's resize is.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.parts import slices


def channels_first(tiles: Tensor) -> Tensor:
    """(B, H, W) grey, or masks -> (B, 1, H, W);  (B, H, W, 3) RGB -> (B, 3, H, W)."""
    return tiles.unsqueeze(1) if tiles.ndim == 3 else tiles.permute(0, 3, 1, 2).contiguous()


def to_square(tiles: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """(B, C, H, W) uint8 -> (B, C, size, size) uint8, within rounding of PIL's bilinear resize.

    device  where they are resized, and stay; None: where they are
    """

    def square(some: Tensor) -> Tensor:
        return F.interpolate(some.float(), size=(size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255)

    return _in_parts(square, tiles, size, device)


def mask_to_square(masks: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """(B, 1, H, W) bool -> (B, 1, size, size) bool, nearest pixel; device as in `to_square`."""

    def square(some: Tensor) -> Tensor:
        return F.interpolate(some.byte(), size=(size, size), mode="nearest-exact")

    return _in_parts(square, masks, size, device)


def _in_parts(square: Callable[[Tensor], Tensor], tiles: Tensor, size: int, device: torch.device | None) -> Tensor:
    """square(some tiles) of all, on the device, which never holds all of them at their own size: they may be large."""
    device = device or tiles.device
    if tuple(tiles.shape[-2:]) == (size, size):
        return tiles.to(device)
    squares = tiles.new_empty((*tiles.shape[:2], size, size), device=device)
    _, channels, height, width = tiles.shape
    for some in slices(len(tiles), (channels, max(height * width, size * size))):  # as floats, four times as much
        squares[some] = square(tiles[some].to(device)).to(tiles.dtype)
    return squares


def to_tile(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, 1, S, S) logits -> (B, 1, H, W) float32 logits, back at the tiles' own size, at which they are scored."""
    shape = tuple(shape)
    if tuple(logits.shape[-2:]) == shape:
        return logits.float()
    if not len(logits):  # CUDA's kernel refuses to begin
        return logits.new_empty((*logits.shape[:-2], *shape), dtype=torch.float32)
    return F.interpolate(logits.float(), size=shape, mode="bilinear", antialias=True)


def to_model_input(square: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, 1, S, S) grey or (B, 3, S, S) RGB, uint8 or float in [0, 1] -> (B, 3, S, S) float, normalised, channels last.

    mean, std  (3,) of the encoder's ImageNet training, in units of [0, 1]
    """
    share = square.float() / 255 if square.dtype == torch.uint8 else square
    x = (share - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)
