"""What the report says in numbers: pure functions of tables, probabilities and masks.

A table of tiles has one row a tile; its index is the tile's row in the arrays that go with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.salt import submission
from pipeline.salt.config import Submit
from pipeline.salt.folds import coverage_class
from pipeline.salt.metrics import TILES_AT_ONCE, iou, tile_scores

# Lines to hold a score of real tiles against. The article's: ten folds, best epoch at 224 px, mean and deviation.
ARTICLE = {"mean": 0.8540, "sd": 0.0090, "label": "the article, ten folds at 224 px, no TTA"}
MEDALS = {"gold": 0.8910, "silver": 0.8716, "bronze": 0.8592}  # private leaderboard, which is not out of fold


@dataclass(frozen=True)
class Predictions:
    """What was predicted of N tiles, and how a submission makes masks of it.

    images  (N, H, W) uint8 grey;  probs  (N, H, W) float16 in [0, 1], anything where no network ran
    truth   (N, H, W) bool, None where nobody knows;  all three possibly memory maps
    """

    images: np.ndarray
    probs: np.ndarray
    truth: np.ndarray | None
    threshold: float
    rules: Submit

    def masks(self, tiles: pd.DataFrame) -> np.ndarray:
        """(len(tiles), H, W) bool: what the submission holds, or would hold, for these tiles."""
        return next(self.masks_at(tiles, [self.threshold]))

    def masks_at(self, tiles: pd.DataFrame, thresholds: Iterable[float]) -> Iterator[np.ndarray]:
        """The same at each of these thresholds."""
        probs, black = self.probs[tiles.index], tiles["black"].to_numpy() if self.rules.black_empty else None
        for threshold in thresholds:
            yield submission.masks(probs, threshold, black=black, full_empty=self.rules.full_empty)


def judged(tiles: pd.DataFrame, found: Predictions) -> pd.DataFrame:
    """`tiles` and, for each: salt and predicted (shares in [0, 1]), iou, score; raw_score is without the rules."""
    parts = []
    for part in _batches(tiles):
        truth, masks, raw = found.truth[part.index], found.masks(part), found.probs[part.index] > found.threshold
        parts.append(
            pd.DataFrame(
                {
                    "salt": truth.mean(axis=(1, 2)),
                    "predicted": masks.mean(axis=(1, 2)),
                    "iou": iou(masks, truth),
                    "score": tile_scores(masks, truth),
                    "raw_score": tile_scores(raw, truth),
                },
                index=part.index,
            )
        )
    return tiles.join(pd.concat(parts))


def at_cuts(tiles: pd.DataFrame, found: Predictions, cuts: list[float]) -> dict[float, float]:
    """Mean score of `tiles` at each threshold of `cuts`, after the rules."""
    totals = np.zeros(len(cuts))
    for part in _batches(tiles):
        truth = found.truth[part.index]
        totals += [tile_scores(masks, truth).sum() for masks in found.masks_at(part, cuts)]
    return dict(zip(cuts, (totals / len(tiles)).round(6).tolist(), strict=True))


def pooled(tiles: pd.DataFrame) -> dict:
    """Mean score of judged tiles, the same without the rules, and what empty masks alone would score."""
    return {
        "tiles": len(tiles),
        "score": _mean(tiles["score"]),
        "without_rules": _mean(tiles["raw_score"]),
        "all_empty": _mean(tiles["salt"] == 0),
    }


def per_fold(tiles: pd.DataFrame, histories: dict[int, dict[int | str, pd.DataFrame]]) -> list[dict]:
    """For each fold its pooled scores, and for each size the best and the last epoch of its history.

    tiles  judged, with their fold;  histories  fold -> size, or config.PSEUDO -> what callbacks.EpochLog keeps
    """
    return [
        {
            "fold": fold,
            **pooled(tiles[tiles["fold"] == fold]),
            "sizes": {str(size): _epochs(history) for size, history in sizes.items()},
        }
        for fold, sizes in histories.items()
    ]


def per_size(folds: list[dict]) -> dict[str, dict]:
    """Over the folds, for each size: mean and deviation of its best and last epochs' scores, seconds in all."""
    sizes = {size: [fold["sizes"][size] for fold in folds] for size in folds[0]["sizes"]}
    return {
        size: {
            "seconds": round(sum(of_fold["seconds"] for of_fold in found), 1),
            **{which: spread([of_fold[which]["score"] for of_fold in found]) for which in ("best", "last")},
        }
        for size, found in sizes.items()
    }


def spread(scores: list[float]) -> dict:
    """Mean and sample standard deviation; no deviation of a single score."""
    return {"mean": _mean(scores), "sd": round(float(np.std(scores, ddof=1)), 6) if len(scores) > 1 else None}


def per_class(tiles: pd.DataFrame) -> list[dict]:
    """Tiles and mean score of each class of salt share that occurs: 'none', 'to 10 %' .. 'to 100 %'."""
    classes = tiles.groupby(coverage_class(tiles["salt"]))["score"]
    return [
        {"class": f"to {10 * number} %" if number else "none", "tiles": len(score), "score": _mean(score)}
        for number, score in classes
    ]


def empty_shares(labelled: pd.Series, tiles: pd.DataFrame, submitted: float) -> dict:
    """Share of empty masks; labelled: salt shares of all labelled tiles, tiles: judged, submitted: the submission's."""
    return {
        "labelled": _mean(labelled == 0),
        "scored_truth": _mean(tiles["salt"] == 0),
        "scored_predicted": _mean(tiles["predicted"] == 0),
        "submission": round(submitted, 6),
    }


def examples(tiles: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """Up to `count` judged tiles of each kind, the most telling first; no kind shows a tile of another.

    best      highest IoU, each of another class of salt share
    missed    salt of which nothing was found, most salt first
    invented  salt found where there is none, most of it first
    shape     salt found where there is some, largest area in error first
    """
    salt, predicted = tiles["salt"] > 0, tiles["predicted"] > 0
    both = tiles[salt & predicted].sort_values(["iou", "id"])
    wrong = (1 - both["iou"]) / (1 + both["iou"]) * (both["salt"] + both["predicted"])  # union without intersection
    best = both.groupby(coverage_class(both["salt"])).tail(1)[::-1].head(count)
    return {
        "best": best,
        "missed": tiles[salt & ~predicted].sort_values(["salt", "id"], ascending=False).head(count),
        "invented": tiles[~salt & predicted].sort_values(["predicted", "id"], ascending=False).head(count),
        "shape": both.assign(wrong=wrong).drop(best.index).sort_values(["wrong", "id"], ascending=False).head(count),
    }


def machines(notes: list[dict]) -> dict:
    """Seconds in all, device, host and versions of the trainings with these sidecars; what differs is listed."""
    packages = dict.fromkeys(package for note in notes for package in note["versions"])
    return {
        "seconds": round(sum(note["seconds"] for note in notes), 1),
        "device": _distinct(note["device"] for note in notes),
        "host": _distinct(note["host"] for note in notes),
        "versions": {name: _distinct(note["versions"].get(name, "none") for note in notes) for name in packages},
    }


def _batches(tiles: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """A few rows at a time: the arrays that go with them are larger than memory should be."""
    return (tiles.iloc[start : start + TILES_AT_ONCE] for start in range(0, len(tiles), TILES_AT_ONCE))


def _epochs(history: pd.DataFrame) -> dict:
    found = {"best": history.loc[history["meanap"].idxmax()], "last": history.iloc[-1]}
    return {
        "epochs": len(history),
        "seconds": round(float(history["seconds"].sum()), 1),
        **{name: {"epoch": int(row["epoch"]), "score": float(row["meanap"])} for name, row in found.items()},
    }


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _mean(values) -> float:
    return round(float(np.mean(values)), 6)
