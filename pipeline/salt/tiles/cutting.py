"""Cut images into square tiles, find tiles that share pixels, and reassemble predicted tiles into images.

A table of cut tiles has the columns image, top and left: which image a tile was cut from, and where, in px.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.salt.tiles import Tiles


def corners(height: int, width: int, side: int, stride: int) -> list[tuple[int, int]]:
    """(top, left) of each tile in an image, row by row; the last tile of a row or column ends at the border."""

    def starts(length: int) -> list[int]:
        return [*range(0, length - side, stride), length - side]

    return [(top, left) for top in starts(height) for left in starts(width)]


def sharing_pixels(table: pd.DataFrame, chosen: np.ndarray, side: int) -> np.ndarray:
    """(N,) bool: the tiles that are not chosen but share a pixel with a chosen one.

    table  N cut tiles of `side` px;  chosen  (N,) bool
    """
    shared = np.zeros(len(table), bool)
    corner = table[["top", "left"]].to_numpy()
    for rows in table.groupby("image").indices.values():
        covered = np.zeros(corner[rows].max(axis=0) + side, bool)
        for top, left in corner[rows[chosen[rows]]]:
            covered[top : top + side, left : left + side] = True
        for row in rows[~chosen[rows]]:
            top, left = corner[row]
            shared[row] = covered[top : top + side, left : left + side].any()
    return shared


def whole_images(tiles: Tiles, oof: np.ndarray, test: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(name, (h, w) float32 probabilities) of each image that has a tile to predict.

    oof, test  (N, H, W) and (M, H, W) probabilities of the tiles, NaN where no model predicted
    Overlapping tiles are averaged; labelled parts of an image are out of fold; pixels without a prediction are NaN.
    """
    parts = [
        (table.groupby("image").indices, table[["top", "left"]].to_numpy(), probs)
        for table, probs in ((tiles.train_table, oof), (tiles.test_table, test))
    ]
    for name in sorted(set(tiles.test_table["image"])):
        found = [(*corner[row], probs[row]) for rows, corner, probs in parts for row in rows.get(name, [])]
        size = np.max([(top + len(tile), left + tile.shape[1]) for top, left, tile in found], axis=0)
        total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
        for top, left, tile in found:
            part = slice(top, top + len(tile)), slice(left, left + tile.shape[1])
            known = ~np.isnan(tile)
            total[part] += np.where(known, tile, 0)
            count[part] += known
        with np.errstate(invalid="ignore"):  # 0 / 0 where no model predicted
            yield name, total / count
