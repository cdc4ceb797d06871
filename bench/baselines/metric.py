"""The score tile by tile, threshold by threshold."""

from collections.abc import Callable

import numpy as np


def meanap_by_histogram(pred: np.ndarray, truth: np.ndarray) -> float:
    """Mean score with the two-dimensional histogram of the much-copied Kaggle kernel (its missing range added)."""
    return _mean_score(pred, truth, _iou_by_histogram)


def meanap(pred: np.ndarray, truth: np.ndarray) -> float:
    """Mean score, as lean as one tile at a time can be."""
    return _mean_score(pred, truth, lambda p, t: (p & t).sum() / (p | t).sum())


def _mean_score(pred: np.ndarray, truth: np.ndarray, iou_of: Callable) -> float:
    scores = []
    for p, t in zip(pred, truth, strict=True):
        if not p.any() and not t.any():
            scores.append(1.0)
            continue
        iou = iou_of(p, t)
        hits = 0
        for threshold in np.arange(0.5, 1, 0.05):
            if iou > threshold:
                hits += 1
        scores.append(hits / 10)
    return float(np.mean(scores))


def _iou_by_histogram(p: np.ndarray, t: np.ndarray) -> float:
    counts, _, _ = np.histogram2d(t.ravel(), p.ravel(), bins=([0, 0.5, 1], [0, 0.5, 1]))
    return counts[1, 1] / (counts.sum() - counts[0, 0])
