"""Overlapping windows over a picture of any size, and the blending of their logits.

Windows overlap by half or more and count by a Hann window, least at their edges, where a model sees least around it.
Logits are averaged, not probabilities, as over folds and mirror images: each window that sees a pixel is one more view.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """Windows along one side of a picture.

    starts   (n,) int, px, evenly spread; the last ends where the picture ends
    weights  (n, side) float32, > 0, of each window's pixels: those of one pixel of the picture sum to 1
    """

    starts: np.ndarray
    weights: np.ndarray


def axis(length: int, side: int) -> Axis:
    """The fewest windows of `side` px that cover `length` px and overlap by half; one where there is no more room."""
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
    """Blended logits of a picture, top to bottom: bands (h, W) float32 whose heights sum to H.

    rows    rows(top, bottom): (bottom - top, W) or (bottom - top, W, 3) uint8 of the picture
    shape   (H, W) of the picture;  window  (h, w) of a window, px
    logits  of windows: (n, h, w) or (n, h, w, 3) uint8 -> (n, h, w) float32
    Only h rows and their windows are in memory. A picture smaller than a window is mirrored at its far edges.
    """
    (height, width), (high, wide) = shape, window
    down, across = axis(height, high), axis(width, wide)
    columns = across.starts[:, None] + np.arange(wide)  # (n, w)
    sums = np.zeros((high, max(width, wide)), np.float32)  # of the rows from `top` on
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
    """The same rows in bands of `height`, but for the last."""
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
    """At least height x width px."""
    grow = [(0, height - band.shape[0]), (0, width - band.shape[1]), (0, 0)]
    return np.pad(band, grow[: band.ndim], mode="symmetric")
