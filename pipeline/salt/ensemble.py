"""An ensemble of runs: weights for the mean of their probabilities, and an honest score for having chosen them.

Equal weights and every division into tenths are tried, with every threshold if that is searched: the pooled score is a
flat step function of the weights, and finer steps would fit its noise. Probabilities are averaged, not logits: a
float16 probability of 0 or 1 has no finite logit, and two runs of equal weight at 0.5 give the same masks either way. A
choice looks too good on the tiles it was made on, so `nested` scores each fold with the choice made without it.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.salt import submission
from pipeline.salt.config import Submit
from pipeline.salt.metrics import tile_scores
from pipeline.salt.parts import slices
from pipeline.salt.progress import progress_bar

PARTS = 10  # weights are tenths
MOST = 6  # runs, among which there are 3,003 ways to divide the tenths; among ten, 92,378


class Choice(NamedTuple):
    """Weights of the runs, which sum to 1, and the threshold on the mean probability."""

    weights: tuple[float, ...]
    threshold: float


def search(table: pd.DataFrame, probs: Sequence[np.ndarray], truth: np.ndarray, rules: Submit) -> tuple[Choice, dict]:
    """The best choice on these tiles, and their scores: with it (chosen), with equal weights (equal), and `nested`.

    table  as for `score_choices`, with fold
    """
    thresholds = submission.THRESHOLDS if isinstance(rules.threshold, str) else (rules.threshold,)
    tried = choices(len(probs), thresholds)
    tenths = score_choices(table, probs, truth, rules, tried)
    scores = {
        "equal": tenths[: len(thresholds)].mean(axis=1).max(),
        "chosen": tenths[best(tenths)].mean(),
        "nested": nested(tenths, table["fold"].to_numpy()).mean(),
    }
    return tried[best(tenths)], {"tiles": len(table)} | {name: float(score) / 10 for name, score in scores.items()}


def choices(runs: int, thresholds: Sequence[float]) -> list[Choice]:
    """All choices to try for this many runs, preferred ones first: near-equal weights, then thresholds near 0.5."""
    shares = {(1 / runs,) * runs}
    for bars in combinations(range(PARTS + runs - 1), runs - 1):  # in a row of tenths, between runs
        ends = [-1, *bars, PARTS + runs - 1]
        shares.add(tuple((end - start - 1) / PARTS for start, end in pairwise(ends)))
    by_preference = sorted(shares, key=lambda weights: (sum(w**2 for w in weights), weights))
    thresholds = sorted(thresholds, key=lambda threshold: abs(threshold - 0.5))
    return [Choice(weights, threshold) for weights in by_preference for threshold in thresholds]


def blend(probs: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean of the runs' probabilities, in their shape and type; NaN where a run has NaN."""
    mean = np.zeros(probs[0].shape, np.float32)
    for of_run, weight in zip(probs, weights, strict=True):
        mean += np.float32(weight) * of_run
    return mean.astype(probs[0].dtype)


def score_choices(
    table: pd.DataFrame, probs: Sequence[np.ndarray], truth: np.ndarray, rules: Submit, tried: Sequence[Choice]
) -> np.ndarray:
    """Score, in tenths, of each tile with each choice, after the rules: (len(tried), len(table)) uint8.

    table  the tiles: its index is their rows in `truth` (N, H, W) bool and each run's `probs` (N, H, W) float16, which
           may be memory maps; black (bool)
    """
    tenths = np.empty((len(tried), len(table)), np.uint8)
    with progress_bar(len(table), "weights") as bar:
        for rows in slices(len(table), truth.shape[1:]):
            part = table.iloc[rows]
            some, some_truth = [p[part.index] for p in probs], truth[part.index]
            mixed, weights = some[0], None
            for i, choice in enumerate(tried):
                if choice.weights != weights:
                    mixed, weights = blend(some, choice.weights), choice.weights
                salt = submission.masks(mixed, choice.threshold, rules, part["black"].to_numpy())
                tenths[i, rows] = np.rint(10 * tile_scores(salt, some_truth))
            bar.update(len(part))
    return tenths


def best(tenths: np.ndarray) -> int:
    """Index of the choice with the highest sum of `score_choices`, the first of equals."""
    return int(tenths.sum(axis=1, dtype=np.int64).argmax())


def nested(tenths: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Tenths (N,) of each tile with the choice that is best on the other folds; folds (N,)."""
    scores = np.empty(tenths.shape[1], np.uint8)
    for fold in np.unique(folds):
        scores[folds == fold] = tenths[best(tenths[:, folds != fold]), folds == fold]
    return scores
