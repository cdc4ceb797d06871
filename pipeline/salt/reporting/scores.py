"""Compute the numbers of the report: pure functions of tables, probabilities and masks.

A table has one row per tile; its index is the tile's row in the arrays that belong to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from pipeline.salt import submission
from pipeline.salt.config import Submit
from pipeline.salt.folds import class_label, coverage_class
from pipeline.salt.metrics import iou, overlap, tile_scores
from pipeline.salt.parts import slices

# References for scores on the competition's tiles. The article's: ten folds, best epoch at 224 px, mean and deviation.
ARTICLE: dict[str, Any] = {"mean": 0.8540, "sd": 0.0090, "label": "the article, ten folds at 224 px, no TTA"}
MEDALS = {"gold": 0.8910, "silver": 0.8716, "bronze": 0.8592}  # private leaderboard, which is not out of fold


@dataclass(frozen=True)
class Predictions:
    """The predictions for N tiles, and the threshold and rules by which a submission makes masks of them.

    images  (N, H, W) or (N, H, W, 3) uint8;  probs  (N, H, W) float16 in [0, 1], undefined where no model predicted
    truth   (N, H, W) bool, None if unknown;  all three may be memory maps
    """

    images: np.ndarray
    probs: np.ndarray
    truth: np.ndarray | None
    threshold: float
    rules: Submit

    def masks(self, table: pd.DataFrame) -> np.ndarray:
        """(len(table), H, W) bool: the masks that the submission has, or would have, for these tiles."""
        return submission.masks(self.probs[table.index], self.threshold, self.rules, table["black"].to_numpy())


def score_tiles(table: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """`table` with these columns added for each tile: salt, predicted, shared, iou, score, raw_score.

    salt, predicted and shared are the parts of the tile, in [0, 1], covered by the truth, the prediction and both.
    raw_score is the score before the submission's rules.
    """
    assert predictions.truth is not None
    parts = []
    for some in slices(len(table), predictions.truth.shape[1:]):  # all at once would need too much memory
        part = table.iloc[some]
        truth, masks = predictions.truth[part.index], predictions.masks(part)
        raw = predictions.probs[part.index] > predictions.threshold
        parts.append(
            pd.DataFrame(
                {
                    "salt": truth.mean(axis=(1, 2)),
                    "predicted": masks.mean(axis=(1, 2)),
                    "shared": (masks & truth).mean(axis=(1, 2)),
                    "iou": iou(masks, truth),
                    "score": tile_scores(masks, truth),
                    "raw_score": tile_scores(raw, truth),
                },
                index=part.index,
            )
        )
    return table.join(pd.concat(parts))


def pooled(tiles: pd.DataFrame) -> dict:
    """Mean score of scored tiles, the mean before the rules, the score of empty masks alone, and overlap measures.

    pixels      Dice, IoU, precision and recall over the pixels of all tiles together
    salt_tiles  their means over the tiles whose truth has salt, and the number of these; None if there are none
    """
    areas = ["shared", "predicted", "salt"]
    with_salt = tiles[tiles["salt"] > 0]
    by_tile = overlap(*(with_salt[area] for area in areas)) if len(with_salt) else {}
    return {
        "tiles": len(tiles),
        "score": _mean(tiles["score"]),
        "without_rules": _mean(tiles["raw_score"]),
        "all_empty": _mean(tiles["salt"] == 0),
        "pixels": {name: _mean(value) for name, value in overlap(*(tiles[area].sum() for area in areas)).items()},
        "salt_tiles": {"tiles": len(with_salt), **{name: _mean(values) for name, values in by_tile.items()}}
        if by_tile
        else None,
    }


def per_fold(tiles: pd.DataFrame, histories: dict[int, dict[str, pd.DataFrame]]) -> list[dict]:
    """The pooled scores of each fold, with the best and the last epoch of each of its phases.

    tiles  scored tiles with their fold;  histories  fold -> phase -> what callbacks.EpochLog records
    """
    folds = []
    for fold, phases in histories.items():
        own = tiles[tiles["fold"] == fold]
        folds.append(
            {
                "fold": fold,
                **pooled(own),
                "se": round(float(own["score"].std(ddof=1) / np.sqrt(len(own))), 6) if len(own) > 1 else None,
                "phases": {phase: _epochs(history) for phase, history in phases.items()},
            }
        )
    return folds


def per_phase(folds: list[dict]) -> dict[str, dict]:
    """For each phase: mean and deviation over the folds of the best and last epochs' scores, and total seconds."""
    phases = {phase: [fold["phases"][phase] for fold in folds] for phase in folds[0]["phases"]}
    return {
        phase: {
            "seconds": round(sum(epochs["seconds"] for epochs in of_folds), 1),
            **{which: spread([epochs[which]["score"] for epochs in of_folds]) for which in ("best", "last")},
        }
        for phase, of_folds in phases.items()
    }


def warnings(results: dict) -> list[str]:
    """Sentences on what is badly wrong with these scores, usually none; `results` is the content of scores.json.

    - The out-of-fold tiles or the test tiles score no more than empty masks would, although some have salt.
    - A fold scores more than 3 of its standard errors below the mean of the other folds.
    """
    said = []
    for name, part in [("out of fold", results["out_of_fold"]), ("on the test tiles", results["test"])]:
        if part and part["score"] <= part["all_empty"] < 1:
            said.append(
                f"The score {name} is {part['score']:.4f}; empty masks alone would get {part['all_empty']:.4f}. "
                "Either nothing useful was learned, or the predictions belong to other tiles."
            )
    for fold in results["folds"]:
        others = [other["score"] for other in results["folds"] if other is not fold]
        if others and fold["se"] is not None and fold["score"] < np.mean(others) - 3 * fold["se"]:
            said.append(
                f"Fold {fold['fold']} scores {fold['score']:.4f}, far below the others' {np.mean(others):.4f} "
                f"(its standard error is {fold['se']:.4f}). Its training may have failed; see its learning curve."
            )
    return said


def spread(scores: list[float]) -> dict:
    """Mean and sample standard deviation of the scores; the deviation of a single score is None."""
    return {"mean": _mean(scores), "sd": round(float(np.std(scores, ddof=1)), 6) if len(scores) > 1 else None}


def per_class(tiles: pd.DataFrame) -> list[dict]:
    """Tiles, score and errors of each class of salt share that occurs: 'none', 'to 10 %' .. 'to 100 %'.

    missed, invented, both  numbers of tiles: salt but none predicted, salt predicted but none there, salt in both
    score_both              mean score of the tiles with salt in both, None if there are none: how good the shapes are
    lost                    what each kind of error ('missed', 'invented', 'shape') takes from the mean score of all
                            tiles; over all classes and kinds, this adds up to 1 - score
    """
    rows = []
    for number, own in tiles.groupby(coverage_class(tiles["salt"])):
        salt, predicted = own["salt"] > 0, own["predicted"] > 0
        kinds = {"missed": salt & ~predicted, "invented": ~salt & predicted, "shape": salt & predicted}
        both = own["score"][kinds["shape"]]
        rows.append(
            {
                "class": class_label(number),
                "tiles": len(own),
                "score": _mean(own["score"]),
                "missed": int(kinds["missed"].sum()),
                "invented": int(kinds["invented"].sum()),
                "both": len(both),
                "score_both": _mean(both) if len(both) else None,
                "lost": {
                    kind: round(float((1 - own["score"][some]).sum() / len(tiles)), 6) for kind, some in kinds.items()
                },
            }
        )
    return rows


def empty_shares(labelled: pd.Series, tiles: pd.DataFrame, submitted: float) -> dict:
    """Shares of empty masks. labelled: salt share of every labelled tile;  submitted: empty share of the submission."""
    return {
        "labelled": _mean(labelled == 0),
        "scored_truth": _mean(tiles["salt"] == 0),
        "scored_predicted": _mean(tiles["predicted"] == 0),
        "submission": round(submitted, 6),
    }


def examples(tiles: pd.DataFrame, count: int) -> dict[str, pd.DataFrame]:
    """Up to `count` scored tiles of each kind, the clearest first; no tile is of two kinds.

    best      highest IoU, each in a different class of salt share
    missed    has salt, but none is predicted; most salt first
    invented  has no salt, but some is predicted; most predicted salt first
    shape     has salt, and some is predicted; largest wrong area first
    """
    salt, predicted = tiles["salt"] > 0, tiles["predicted"] > 0
    both = tiles[salt & predicted].sort_values(["iou", "id"])
    wrong = (1 - both["iou"]) / (1 + both["iou"]) * (both["salt"] + both["predicted"])  # union minus intersection
    best = both.groupby(coverage_class(both["salt"])).tail(1)[::-1].head(count)
    return {
        "best": best,
        "missed": tiles[salt & ~predicted].sort_values(["salt", "id"], ascending=False).head(count),
        "invented": tiles[~salt & predicted].sort_values(["predicted", "id"], ascending=False).head(count),
        "shape": both.assign(wrong=wrong).drop(best.index).sort_values(["wrong", "id"], ascending=False).head(count),
    }


def machines(sidecars: list[dict]) -> dict:
    """Total seconds, device, host and versions of the trainings with these sidecars; differing values are listed."""
    versions = [sidecar["versions"] for sidecar in sidecars]
    packages = dict.fromkeys(name for each in versions for name in each)
    return {
        "seconds": round(sum(sidecar["seconds"] for sidecar in sidecars), 1),
        "device": distinct(sidecar["device"] for sidecar in sidecars),
        "host": distinct(sidecar["host"] for sidecar in sidecars),
        "versions": {name: distinct(each.get(name, "none") for each in versions) for name in packages},
    }


def runtime(work: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Wall-clock seconds and summed seconds of each kind of work, and of 'all' of it, from the sidecars of each kind.

    A piece of work ended when its sidecar was `made`, and began `seconds` earlier. In wall-clock time, work done side
    by side counts once, and pauses do not count. A training that was stopped and resumed counts as if it had run
    without a break.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for kind, sidecars in work.items():
        ends = [(datetime.fromisoformat(each["made"]).timestamp(), each["seconds"]) for each in sidecars]
        spans[kind] = [(end - seconds, end) for end, seconds in ends]
    spans["all"] = [span for each in spans.values() for span in each]
    return {
        kind: {"wall": round(wall_clock(each), 1), "sum": round(sum(end - start for start, end in each), 1)}
        for kind, each in spans.items()
    }


def wall_clock(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of the spans (start, end)."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def distinct(words: Iterable[str | None]) -> str:
    """The words without duplicates and unknown ones, joined: 'a, b'."""
    return ", ".join(dict.fromkeys(word for word in words if word))


def _epochs(history: pd.DataFrame) -> dict:
    rows = {"best": history.loc[history["meanap"].idxmax()], "last": history.iloc[-1]}
    return {
        "epochs": len(history),
        "seconds": round(float(history["seconds"].sum()), 1),
        **{name: {"epoch": int(row["epoch"]), "score": float(row["meanap"])} for name, row in rows.items()},
    }


def _mean(values) -> float:
    return round(float(np.mean(values)), 6)
