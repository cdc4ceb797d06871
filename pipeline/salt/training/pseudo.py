"""Pseudo-labels: test tiles that a model is sure of become training tiles, fold by fold.

Labels for fold k come from fold k's model alone. Every other model has learned from fold k's tiles, and its predictions
for their neighbours among the test tiles would leak their masks: the fold's score would rise, the real one would not.
"""

import numpy as np
import pandas as pd

from pipeline.salt import door
from pipeline.salt.artifacts import Origin, publish
from pipeline.salt.config import Pseudo
from pipeline.salt.parts import slices
from pipeline.salt.run import Files
from pipeline.salt.tiles import Tiles


def sure_share(probs: np.ndarray, rule: Pseudo) -> np.ndarray:
    """(N,) share of each tile's pixels whose probability is below rule.low or above rule.high; probs (N, H, W)."""
    share = np.empty(len(probs))
    for part in slices(len(probs), probs.shape[1:]):
        share[part] = ((probs[part] < rule.low) | (probs[part] > rule.high)).mean(axis=(1, 2))
    return share


def write(
    files: Files, fold: int, tiles: Tiles, probs: np.ndarray, rule: Pseudo, origin: Origin, beside: np.ndarray
) -> int:
    """Publish the table and the masks of fold k's chosen tiles, and return their number.

    probs   (M, H, W) of the test tiles, from fold k's model
    beside  (M,) bool: test tiles that lie beside fold k's tiles and are therefore not chosen
    The table has row (of the test tiles), id, confidence (share of sure pixels) and coverage.
    """
    share = sure_share(probs, rule)
    rows = np.flatnonzero((share >= rule.share) & ~beside)
    masks = probs[rows] > 0.5
    table = pd.DataFrame(
        {
            "row": rows,
            "id": tiles.test_table["id"].to_numpy()[rows],
            "confidence": share[rows].round(4),
            "coverage": masks.mean(axis=(1, 2)).round(6),
        }
    )
    with publish(files.pseudo(fold, "tiles.csv"), origin) as tmp:
        table.to_csv(tmp, index=False)
    with publish(files.pseudo(fold, "masks.npy"), origin) as tmp:
        np.save(tmp, masks)
    return len(rows)


def read(files: Files, fold: int, tiles: Tiles) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images (n, H, W) or (n, H, W, 3) uint8, masks (n, H, W) bool and ids of fold k's pseudo-labelled tiles.

    InputError for a file that is missing, damaged or does not fit the tiles.
    """
    path, maker = files.pseudo(fold, "tiles.csv"), f"pseudo_label --fold {fold}"
    table = door.table(path, maker, {"row": int, "id": str})
    rows, ids = table["row"].to_numpy(), table["id"].tolist()
    if not table["row"].between(0, len(tiles.test_images) - 1).all() or ids != tiles.test_table["id"][rows].tolist():
        raise door.unfit(path, maker, "does not match the test tiles")
    masks = door.array(files.pseudo(fold, "masks.npy"), maker, np.bool_, (len(rows), *tiles.test_images.shape[1:3]))
    return tiles.test_images[rows], np.array(masks), ids
