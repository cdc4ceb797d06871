"""Resize tiles of any size to a model's square input, and its logits back, in batches on any device.

Resizing is bilinear with pixel areas aligned (align_corners=False), as in PIL; masks go to their nearest pixel.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.parts import slices


def channels_first(tiles: Tensor) -> Tensor:
    """Grey tiles or masks (B, H, W) -> (B, 1, H, W);  RGB tiles (B, H, W, 3) -> (B, 3, H, W)."""
    return tiles.unsqueeze(1) if tiles.ndim == 3 else tiles.permute(0, 3, 1, 2).contiguous()


def to_square(tiles: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """Tiles (B, C, H, W) uint8 -> (B, C, size, size) uint8, equal to PIL's bilinear resize up to rounding.

    device  where the tiles are resized and stay; None: where they are now
    """

    def square(some: Tensor) -> Tensor:
        return F.interpolate(some.float(), size=(size, size), mode="bilinear", antialias=True).round_().clamp_(0, 255)

    return _in_parts(square, tiles, size, device)


def mask_to_square(masks: Tensor, size: int, device: torch.device | None = None) -> Tensor:
    """Masks (B, 1, H, W) bool -> (B, 1, size, size) bool, by nearest pixel; device as in `to_square`."""

    def square(some: Tensor) -> Tensor:
        return F.interpolate(some.byte(), size=(size, size), mode="nearest-exact")

    return _in_parts(square, masks, size, device)


def _in_parts(square: Callable[[Tensor], Tensor], tiles: Tensor, size: int, device: torch.device | None) -> Tensor:
    """Apply `square` to all tiles in parts, since all tiles at their own size may not fit on the device."""
    device = device or tiles.device
    if tuple(tiles.shape[-2:]) == (size, size):
        return tiles.to(device)
    squares = tiles.new_empty((*tiles.shape[:2], size, size), device=device)
    _, channels, height, width = tiles.shape
    for some in slices(len(tiles), (channels, max(height * width, size * size))):  # `square` makes floats: 4x the bytes
        squares[some] = square(tiles[some].to(device)).to(tiles.dtype)
    return squares


def to_tile(logits: Tensor, shape: Sequence[int]) -> Tensor:
    """Logits (B, 1, S, S) -> (B, 1, H, W) float32 logits, at the tiles' own size, at which they are scored."""
    shape = tuple(shape)
    if tuple(logits.shape[-2:]) == shape:
        return logits.float()
    if not len(logits):  # CUDA's kernel fails on an empty batch
        return logits.new_empty((*logits.shape[:-2], *shape), dtype=torch.float32)
    return F.interpolate(logits.float(), size=shape, mode="bilinear", antialias=True)


def to_model_input(square: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalise (B, 1, S, S) grey or (B, 3, S, S) RGB, uint8 or float in [0, 1] -> (B, 3, S, S) float, channels last.

    mean, std  (3,) from the encoder's ImageNet training, in units of [0, 1]
    """
    share = square.float() / 255 if square.dtype == torch.uint8 else square
    x = (share - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)
