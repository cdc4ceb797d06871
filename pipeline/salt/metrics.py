"""Kaggle's score, in batches, on numpy arrays and on torch tensors, of which none waits for its device.

Source: https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

THRESHOLDS = tuple(k / 20 for k in range(10, 20))  # IoU 0.50, 0.55 .. 0.95, each to be exceeded
PROBABILITY_CUTS = tuple(k / 50 for k in range(15, 36))  # 0.30, 0.32 .. 0.70
TILES_AT_ONCE = 256  # 5 MB of float16 probabilities


def tile_scores(pred: Array, truth: Array) -> Array:
    """Score (N,) in [0, 1] of N masks (N, H, W) bool: the share of THRESHOLDS that the tile's IoU exceeds.

    Two empty masks score 1; an empty one against one that is not scores 0.
    """
    return score_of_counts(*_counts(pred, truth))


def score_of_counts(intersection: Array, union: Array) -> Array:
    """The same from pixel counts, integers of any one shape.

    IoU > k/20 means k * union < 20 * intersection: in integers an IoU of exactly 0.80 does not pass 0.80.
    """
    both_empty = union == 0
    highest = (20 * intersection - 1) // (union + both_empty)  # the last k that the IoU exceeds
    return (highest - 9).clip(0, 10) / 10 + both_empty  # of k = 10 .. 19


def meanap(pred: Array, truth: Array) -> Array:
    """Mean of `tile_scores`, as the leaderboard has it; stays a 0-d tensor on its device if tensors come in."""
    return tile_scores(pred, truth).mean()


def iou(pred: Array, truth: Array) -> Array:
    """Intersection over union (N,) in [0, 1] of N masks (N, H, W) bool; 1 where both are empty."""
    intersection, union = _counts(pred, truth)
    both_empty = union == 0
    return (intersection + both_empty) / (union + both_empty)


def best_threshold(probs: np.ndarray, truth: np.ndarray) -> tuple[float, dict[float, float]]:
    """The cut of PROBABILITY_CUTS at which `probs > cut` scores best, and the mean score at each of them.

    probs (N, H, W) float16 in [0, 1], truth (N, H, W) bool, either of them possibly a memory map. Cuts that score the
    same: the one nearest 0.5.
    """
    totals = np.zeros(len(PROBABILITY_CUTS))
    for i in range(0, len(probs), TILES_AT_ONCE):
        part, part_truth = probs[i : i + TILES_AT_ONCE], truth[i : i + TILES_AT_ONCE]
        totals += [tile_scores(part > cut, part_truth).sum() for cut in PROBABILITY_CUTS]
    scores = dict(zip(PROBABILITY_CUTS, (totals / len(probs)).tolist(), strict=True))
    best = max(sorted(scores, key=lambda cut: abs(cut - 0.5)), key=scores.__getitem__)
    return best, scores


def _counts(pred: Array, truth: Array) -> tuple[Array, Array]:
    """Pixels (N,) of intersection and union. For numpy the masks are packed first, eight pixels to a byte."""
    pred, truth = (masks.reshape(-1, masks.shape[-2] * masks.shape[-1]) for masks in (pred, truth))
    if isinstance(pred, np.ndarray):
        pred, truth = (np.packbits(masks, axis=1) for masks in (pred, truth))
        return tuple(np.bitwise_count(bits).sum(1, dtype=np.int32) for bits in (pred & truth, pred | truth))
    from torch import int32  # three times as fast as the plain sum

    return tuple(masks.sum(1, dtype=int32) for masks in (pred & truth, pred | truth))
