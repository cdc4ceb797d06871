"""Cover a picture of any size with overlapping windows, and blend the logits of these windows.

Windows overlap by at least half. A Hann window gives the least weight to their edges, where a model sees the least
context. Logits are averaged, not probabilities, as over folds and mirror images: a window is one more view of its
pixels.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """The windows along one axis of a picture.

    starts   (n,) int, px, evenly spaced; the last window ends where the picture ends
    weights  (n, side) float32, > 0, of the pixels in each window; for each pixel of the picture they sum to 1
    """

    starts: np.ndarray
    weights: np.ndarray


def axis(length: int, side: int) -> Axis:
    """The fewest windows of `side` px that cover `length` px and overlap by half; one if length <= side."""
    n = 1 + math.ceil(max(length - side, 0) / max(side // 2, 1))
    starts = np.linspace(0, max(length - side, 0), n).astype(int)
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    total = np.zeros(max(length, side))
    for start in starts:
        total[start : start + side] += hann
    return Axis(starts, np.stack([hann / total[start : start + side] for start in starts]).astype(np.float32))


def blend(
    rows: Callable[[int, int], np.ndarray],
    shape: tuple[int, int],
    window: tuple[int, int],
    logits: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """Blended logits of a picture, from top to bottom: bands (h, W) float32 whose heights sum to H.

    rows    reads the picture: rows(top, bottom) is (bottom - top, W) or (bottom - top, W, 3) uint8
    shape   (H, W) of the picture;  window  (h, w) of a window, px
    logits  predicts windows: (n, h, w) or (n, h, w, 3) uint8 -> (n, h, w) float32
    Only h rows and their windows are in memory. A picture smaller than a window is mirrored at its bottom and right.
    """
    (height, width), (high, wide) = shape, window
    down, across = axis(height, high), axis(width, wide)
    columns = across.starts[:, None] + np.arange(wide)  # (n, w)
    sums = np.zeros((high, max(width, wide)), np.float32)  # weighted sums for the rows from `top` on
    bottoms = [*down.starts[1:], height]
    for top, bottom, weights in zip(down.starts, bottoms, down.weights, strict=True):
        band = _mirrored(rows(top, min(top + high, height)), *sums.shape)
        windows = np.swapaxes(band[:, columns], 0, 1)
        for start, weight, seen in zip(across.starts, across.weights, logits(windows), strict=True):
            sums[:, start : start + wide] += seen * weight * weights[:, None]
        done = bottom - top  # no later window reaches these rows
        yield sums[:done, :width].copy()
        sums[: high - done], sums[high - done :] = sums[done:].copy(), 0


def regroup(bands: Iterator[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """Regroup the rows into bands of `height`; the last one may be shorter."""
    held: list[np.ndarray] = []
    count = 0
    for band in bands:
        held.append(band)
        count += len(band)
        while count >= height:
            rows = np.concatenate(held)
            yield rows[:height]
            held, count = [rows[height:]], count - height
    if count:
        yield np.concatenate(held)


def _mirrored(band: np.ndarray, height: int, width: int) -> np.ndarray:
    """The band, mirrored at its bottom and right to height x width px if it is smaller."""
    grow = [(0, height - band.shape[0]), (0, width - band.shape[1]), (0, 0)]
    return np.pad(band, grow[: band.ndim], mode="symmetric")
