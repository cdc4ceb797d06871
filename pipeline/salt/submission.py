"""From probabilities to the file Kaggle takes."""

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.salt import rle
from pipeline.salt.errors import InputError

TILES_AT_ONCE = 1024


def masks(
    probs: np.ndarray, threshold: float, *, black: np.ndarray | None = None, full_empty: bool = False
) -> np.ndarray:
    """(N, 101, 101) bool: where the probability is above `threshold`, after the two rules.

    probs       (N, 101, 101) float16 in [0, 1], may be a memory map
    black       (N,) bool: tiles to leave empty because their image is all black; None: no such rule
    full_empty  a mask that covers the whole tile becomes empty
    """
    found = np.empty(probs.shape, bool)
    for start in range(0, len(probs), TILES_AT_ONCE):
        part = slice(start, start + TILES_AT_ONCE)
        found[part] = probs[part] > threshold
    if black is not None:
        found[black] = False
    if full_empty:
        found[found.all(axis=(1, 2))] = False
    return found


def write(path: Path, ids: list[str], masks: np.ndarray) -> None:
    """Write id, rle_mask as gzipped csv, and read it back: ids, their order and every mask must be those given.

    The same masks give the same bytes (no time stamp). Raises InputError if what is read back differs.
    """
    table = pd.DataFrame({"id": ids, "rle_mask": rle.encode(masks)})
    with open(path, "wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as f:
        f.write(table.to_csv(index=False).encode())
    back = read(path.read_bytes())
    if back["id"].tolist() != ids:
        raise InputError("the submission's ids are not those of sample_submission.csv, in its order; rerun prepare")
    for tile, text, mask in zip(ids, back["rle_mask"], masks, strict=True):
        if not np.array_equal(rle.decode(text, mask.shape), mask):
            raise InputError(f"the run lengths of tile {tile} do not give its mask back; please report this")


def read(gzipped: bytes) -> pd.DataFrame:
    """id and rle_mask as text, '' for an empty mask."""
    return pd.read_csv(io.BytesIO(gzipped), compression="gzip", dtype=str, keep_default_na=False)
