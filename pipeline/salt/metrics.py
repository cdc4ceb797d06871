"""The competition's score for a batch of masks, as numpy arrays or torch tensors (which stay on their device).

Source: https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")


def tile_scores(pred: Array, truth: Array) -> Array:
    """Score (N,) of N masks (N, H, W) bool: the share, in [0, 1], of 0.50, 0.55 .. 0.95 that the tile's IoU exceeds.

    Two empty masks score 1; an empty mask against a non-empty one scores 0.
    """
    return score_of_counts(*_counts(pred, truth))


def score_of_counts(intersection: Array, union: Array) -> Array:
    """`tile_scores` from the pixels in intersection and union, integer arrays of one shape.

    IoU > k/20 means k * union < 20 * intersection: in integers, an IoU of exactly 0.80 does not exceed 0.80.
    """
    both_empty = union == 0
    highest = (20 * intersection - 1) // (union + both_empty)  # the last k that the IoU exceeds
    return (highest - 9).clip(0, 10) / 10 + both_empty  # of k = 10 .. 19


def meanap(pred: Array, truth: Array) -> Array:
    """Mean of `tile_scores`, as on the leaderboard; for tensors, a 0-d tensor on their device."""
    return tile_scores(pred, truth).mean()


def iou(pred: Array, truth: Array) -> Array:
    """Intersection over union (N,) in [0, 1] of N masks (N, H, W) bool; 1 where both are empty."""
    intersection, union = _counts(pred, truth)
    both_empty = union == 0
    return (intersection + both_empty) / (union + both_empty)


def overlap(shared: np.ndarray, predicted: np.ndarray, salt: np.ndarray) -> dict[str, np.ndarray]:
    """Dice, IoU, precision and recall, each in [0, 1], from the areas of intersection, prediction and truth.

    Areas of each tile (N,), in px or as shares of it, give values for each tile; their sums give values for all pixels
    together. If both masks are empty all are 1; other ratios over 0 are 0, as with scikit-learn's zero_division=0.
    """
    both_empty = np.equal(predicted + salt, 0)

    def ratio(part, whole):
        return np.where(np.equal(whole, 0), both_empty, part / np.where(np.equal(whole, 0), 1, whole))

    return {
        "dice": ratio(2 * shared, predicted + salt),
        "iou": ratio(shared, predicted + salt - shared),
        "precision": ratio(shared, predicted),
        "recall": ratio(shared, salt),
    }


def _counts(pred: Array, truth: Array) -> tuple[Array, Array]:
    """Pixels (N,) int64 in intersection and union. Numpy masks are packed first, eight pixels to a byte."""
    pred, truth = (masks.reshape(-1, masks.shape[-2] * masks.shape[-1]) for masks in (pred, truth))
    if isinstance(pred, np.ndarray):
        pred, truth = (np.packbits(masks, axis=1) for masks in (pred, truth))
        return tuple(
            np.bitwise_count(bits).sum(1, dtype=np.int32).astype(np.int64) for bits in (pred & truth, pred | truth)
        )
    from torch import int32  # three times as fast as the plain sum

    return (pred & truth).sum(1, dtype=int32).long(), (pred | truth).sum(1, dtype=int32).long()
