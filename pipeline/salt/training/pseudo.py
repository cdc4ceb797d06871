"""Pseudo-labels: test tiles that a network is sure of become training tiles, fold by fold.

Labels for fold k come from fold k's network alone. Every other network has learned from fold k's tiles, and what it
says of their neighbours among the test tiles would leak their masks: the fold's score would rise, the real one not.
"""

import numpy as np
import pandas as pd

from pipeline.salt.artifacts import Files, Origin, publish
from pipeline.salt.config import Pseudo
from pipeline.salt.tiles.cache import Cache


def sure_share(probs: np.ndarray, how: Pseudo) -> np.ndarray:
    """(N,) share of the pixels of each tile whose probability is below how.low or above how.high; probs (N, H, W)."""
    parts = np.array_split(probs, max(len(probs) // 1024, 1))
    return np.concatenate([((part < how.low) | (part > how.high)).mean(axis=(1, 2)) for part in parts])


def write(files: Files, fold: int, tiles: Cache, probs: np.ndarray, how: Pseudo, origin: Origin) -> int:
    """Publish the chosen tiles of fold k and return their number.

    probs  (M, 101, 101) of the test tiles, from fold k's network
    pseudo_tiles.csv: row (of the test tiles), id, confidence (share of sure pixels), coverage; pseudo_masks.npy: masks
    """
    share = sure_share(probs, how)
    rows = np.flatnonzero(share >= how.share)
    masks = probs[rows] > 0.5
    table = pd.DataFrame(
        {
            "row": rows,
            "id": tiles.test_tiles["id"].to_numpy()[rows],
            "confidence": share[rows].round(4),
            "coverage": masks.mean(axis=(1, 2)).round(6),
        }
    )
    publish(files.pseudo(fold, "tiles.csv"), origin, lambda tmp: table.to_csv(tmp, index=False))
    publish(files.pseudo(fold, "masks.npy"), origin, lambda tmp: np.save(tmp, masks))
    return len(rows)


def read(files: Files, fold: int, tiles: Cache) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images (n, 101, 101) uint8, masks (n, 101, 101) bool and ids of fold k's pseudo-labelled tiles."""
    table = pd.read_csv(files.pseudo(fold, "tiles.csv"), dtype={"row": int, "id": str})
    return tiles.test[table["row"].to_numpy()], np.load(files.pseudo(fold, "masks.npy")), table["id"].tolist()
