"""From probabilities to the submission: threshold, rules, run lengths, the file for Kaggle."""

import gzip
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.salt import rle
from pipeline.salt.config import Submit
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import tile_scores
from pipeline.salt.parts import slices

THRESHOLDS = tuple(k / 50 for k in range(15, 36))  # of the probability, tried in a search: 0.30, 0.32 .. 0.70


def masks(probs: np.ndarray, threshold: float, rules: Submit, black: np.ndarray) -> np.ndarray:
    """(N, H, W) bool: where the probability is above `threshold`, after the rules black_empty, full_empty and peak.

    probs  (N, H, W) float16 in [0, 1], may be a memory map;  black  (N,) bool: the tile's image is all black
    """
    probs = np.asarray(probs)
    salt = probs > threshold
    if rules.black_empty:
        salt[black] = False
    if rules.full_empty:
        salt[salt.all(axis=(1, 2))] = False
    if rules.peak > threshold:
        salt[~(probs > rules.peak).any(axis=(1, 2))] = False
    return salt


def score_thresholds(
    table: pd.DataFrame, probs: np.ndarray, truth: np.ndarray, rules: Submit, thresholds: Iterable[float] = THRESHOLDS
) -> dict[float, float]:
    """Mean score of a submission's masks at each threshold, after the rules; computed a few tiles at a time.

    table  the tiles to score: its index is their rows in `probs` (N, H, W) float16 and `truth` (N, H, W) bool, which
           may be memory maps; black (bool)
    """
    thresholds = list(thresholds)
    totals = np.zeros(len(thresholds))
    for some_rows in slices(len(table), truth.shape[1:]):
        part = table.iloc[some_rows]
        some, some_truth = probs[part.index], truth[part.index]
        for i, threshold in enumerate(thresholds):
            totals[i] += tile_scores(masks(some, threshold, rules, part["black"].to_numpy()), some_truth).sum()
    # Scores are tenths: rounding makes equal scores compare equal.
    return dict(zip(thresholds, (totals / len(table)).round(6).tolist(), strict=True))


def best_threshold(scores: dict[float, float]) -> float:
    """The threshold with the highest score; of several, the one nearest 0.5."""
    return min(scores, key=lambda threshold: (-scores[threshold], abs(threshold - 0.5)))


def write(path: Path, ids: list[str], masks: np.ndarray | list[np.ndarray]) -> None:
    """Write id, rle_mask as gzipped csv, and check by reading it back: ids, their order and every mask must match.

    masks  (N, H, W) bool, or a list of (h, w), each of its own size
    The same masks give the same bytes (no time stamp). Raises InputError if the check fails.
    """
    codes = rle.encode(masks) if isinstance(masks, np.ndarray) else [rle.encode(mask[None])[0] for mask in masks]
    table = pd.DataFrame({"id": ids, "rle_mask": codes})
    with open(path, "wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as f:
        f.write(table.to_csv(index=False).encode())
    back = read(path.read_bytes())
    if back["id"].tolist() != ids:
        raise InputError("the submission's ids are not those of sample_submission.csv in its order; run prepare again")
    for tile, text, mask in zip(ids, back["rle_mask"], masks, strict=True):
        if not np.array_equal(rle.decode(text, mask.shape), mask):
            raise InputError(f"the run lengths of tile {tile} do not decode to its mask; please report this")


def write_pngs(path: Path, ids: list[str], masks: np.ndarray | list[np.ndarray]) -> None:
    """Write a zip of <id>.png: 8-bit grey, 255 where there is salt, 0 elsewhere. The same masks give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:  # PNG is compressed already
        for name, mask in zip(ids, masks, strict=True):
            file = io.BytesIO()
            Image.fromarray(mask * np.uint8(255)).save(file, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{name}.png"), file.getvalue())


def read(gzipped: bytes) -> pd.DataFrame:
    """Read a gzipped submission: id and rle_mask as text, '' for an empty mask."""
    return pd.read_csv(io.BytesIO(gzipped), compression="gzip", dtype=str, keep_default_na=False)
