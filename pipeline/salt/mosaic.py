"""Neighbouring tiles: which tiles were cut side by side from the same section, found by comparing their borders.

Random folds train on the neighbours of validation tiles, which flatters their score; folds of whole groups do not.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 0.75  # least correlation; in a small set, the best match of a tile without neighbours has no rival
CLEARLY = 2.5  # the next best match is this many times as far from a perfect one
ROWS_AT_ONCE = 1024  # of the matrix of all pairs: 90 MB for 22,000 tiles


class Pair(NamedTuple):
    """Two neighbours: rows of the tiles, and how many times clearer their match is than the next best.

    after  "right" or "below": place of the second; "same": the same picture
    """

    first: int
    second: int
    after: str
    clearness: float


def neighbours(images: np.ndarray, clearly: float = CLEARLY) -> list[Pair]:
    """Pairs of tiles (N, H, W) uint8 grey that continue one another, right and below, or are the same picture.

    Each tile's last two lines are extrapolated by one, which is correlated with the first line of every other tile; the
    same is done backwards, and the two averaged. Correlation is used as each tile's contrast was stretched on its own.
    Two tiles are neighbours if each is the other's best match, that match is good, and the next best of either is
    `clearly` times as far from a correlation of 1: that smooth tiles match says little, a rich tile's only match much.
    """
    rows: dict[bytes, int] = {}  # content -> its first row only: copies would be each other's best rivals
    pairs = [
        Pair(first, i, "same", math.inf)
        for i, image in enumerate(images)
        if (first := rows.setdefault(hashlib.sha256(image).digest(), i)) < i and np.ptp(image)
    ]
    once = np.fromiter(rows.values(), int)
    if len(once) < 2:
        return pairs
    for after, lines in (("right", images), ("below", images.transpose(0, 2, 1))):
        first, second, before_last, last = (lines[:, :, i][once].astype(np.float32) for i in (0, 1, -2, -1))
        drawn_on = _normed(2 * last - before_last), _normed(last)
        continued = _normed(first), _normed(2 * first - second)
        matches = ((int(once[i]), int(once[j]), clear) for i, j, clear in _clear_matches(drawn_on, continued))
        pairs += [Pair(i, j, after, clear) for i, j, clear in matches if clear >= clearly]
    return pairs


def groups(n: int, pairs: Sequence[Pair] | np.ndarray) -> np.ndarray:
    """(n,) int: number of each tile's group, the tiles that pairs join, in the order in which groups first appear.

    pairs  from `neighbours`, or a table (P, 2) of rows of the tiles
    """
    i, j = np.array([pair[:2] for pair in pairs], int).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]


def sheet(images: np.ndarray, pairs: list[Pair], rows: int = 4, columns: int = 6) -> np.ndarray:
    """(H', W') uint8: random pairs of neighbours; above, those side by side, below, those one above the other."""
    height, width = images.shape[1:3]
    lots, bands = np.random.RandomState(0), []
    for after, axis, each in (("right", 1, columns), ("below", 0, 2 * columns)):
        of_kind = [pair for pair in pairs if pair.after == after]
        cell = (2 - axis) * height + 8, columns * (2 * width + 8) // each
        band = np.full((rows * cell[0], each * cell[1]), 255, np.uint8)
        for place, chosen in enumerate(lots.permutation(len(of_kind))[: rows * each]):
            both = np.concatenate([images[i] for i in of_kind[chosen][:2]], axis=axis)
            top, left = place // each * cell[0], place % each * cell[1]
            band[top : top + both.shape[0], left : left + both.shape[1]] = both
        bands.append(band)
    return np.concatenate(bands)


def _normed(lines: np.ndarray) -> np.ndarray:
    """Lines (N, L) minus their mean, scaled to length 1; a line of one grey becomes 0 and matches nothing."""
    lines = lines - lines.mean(1, keepdims=True)
    length = np.linalg.norm(lines, axis=1, keepdims=True)
    return np.divide(lines, length, out=np.zeros_like(lines), where=length > 1e-3)


def _clear_matches(ends: tuple, starts: tuple) -> Iterator[tuple[int, int, float]]:
    """(i, j, clearness) where end i and start j, (N, L) unit vectors, are each other's best match."""
    n = len(ends[0])
    best, of_row = np.zeros(n, int), np.full((n, 2), -1.0)  # the two highest correlations of each end
    back, of_column = np.zeros(n, int), np.full((n, 2), -1.0)  # and of each start
    for start in range(0, n, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, n))
        similar = sum(end[rows] @ begin.T for end, begin in zip(ends, starts, strict=True)) / len(ends)
        similar[np.arange(len(rows)), rows] = -1  # a tile does not follow itself
        best[rows], of_row[rows] = similar.argmax(1), np.partition(similar, -2, axis=1)[:, -2:]
        found = similar.max(0)
        back = np.where(found > of_column[:, 1], rows[similar.argmax(0)], back)
        highest = np.partition(similar, -2, axis=0)[-2:].T if len(rows) > 1 else similar.T
        of_column = np.sort(np.concatenate([of_column, highest], axis=1), axis=1)[:, -2:]
    for i in np.flatnonzero(back[best] == np.arange(n)):
        next_best = max(of_row[i, 0], of_column[best[i], 0])
        if of_row[i, 1] > ALIKE:
            yield int(i), int(best[i]), float((1 - next_best) / max(1 - of_row[i, 1], 1e-6))
