"""Splits the labelled tiles into folds: a partition that is the same on every machine."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.salt.errors import InputError


def split(tiles: pd.DataFrame, scheme: str, k: int = 10, seed: int = 42) -> np.ndarray:
    """Fold (N,) 0..k-1 of each row, by a scheme of SCHEMES; a group of tiles stays in one fold.

    tiles  with the columns the scheme needs; cut tiles have image and left, from which `groups` follow; else the
           scheme mosaic needs group
    """
    if "image" in tiles:
        names, group = np.unique(groups(tiles, k), return_inverse=True)
    elif scheme == "mosaic":
        names, group = np.unique(tiles["group"], return_inverse=True)
    else:
        return SCHEMES[scheme](tiles, k, seed)
    if len(names) < k:
        raise InputError(
            f"{k} folds of {len(names)} groups (neighbours, images, or strips of image columns) are too many: lower "
            "folds.k, or tiles.stride"
        )
    each = tiles.groupby(group)
    table = pd.DataFrame(
        {"id": names, "coverage": each["coverage"].mean(), "z": each["z"].first(), "black": each["black"].all()}
    )
    return SCHEMES[scheme](table, k, seed)[group]


def groups(tiles: pd.DataFrame, k: int) -> np.ndarray:
    """Name (N,) of each tile's group, which stays in one fold: its image or, with fewer images than k, a strip of it.

    A strip is a run of tile columns. Tiles of neighbouring strips may share pixels; training leaves those out
    (tiles.cutting.sharing_pixels).
    """
    names = tiles["image"].to_numpy(dtype=object, copy=True)
    strips = -(-k // tiles["image"].nunique())
    if strips > 1:
        for rows in tiles.groupby("image").indices.values():
            columns, column = np.unique(tiles["left"].to_numpy()[rows], return_inverse=True)
            names[rows] = [f"{names[rows[0]]}/{number:05}" for number in column * strips // len(columns)]
    return names


def kfold(tiles: pd.DataFrame, k: int = 10, seed: int = 42) -> np.ndarray:
    """Fold (N,) 0..k-1 of each row, by scikit-learn's shuffled KFold; tiles: unique `id`s, sorted."""
    from sklearn.model_selection import KFold  # takes two seconds, which --help is spared

    _check(tiles, k)
    fold = np.empty(len(tiles), dtype=np.int64)
    for number, (_, held_out) in enumerate(KFold(k, shuffle=True, random_state=seed).split(tiles)):
        fold[held_out] = number
    return fold


def coverage(tiles: pd.DataFrame, k: int = 10, seed: int = 42) -> np.ndarray:
    """Fold (N,) 0..k-1 of each row, with salt share, black tiles and depth spread evenly over the folds.

    Tiles in order of (coverage class, black, z, id) are assigned k at a time, one to each fold in random order.
    tiles: unique `id`s, sorted; `coverage` in [0, 1]; `z`, the depth; `black` bool.
    """
    _check(tiles, k)
    z, black = tiles["z"].to_numpy(), tiles["black"].to_numpy()
    _, group = np.unique(2 * coverage_class(tiles["coverage"]) + black, return_inverse=True)
    snake = np.where(group % 2, -z, z)  # up, then down: a round that spans two groups stays at one depth
    order = np.lexsort((snake, group))  # ties stay in order of id
    rng = np.random.RandomState(seed)  # numpy guarantees this generator's stream for good, not default_rng's
    rounds = [rng.permutation(k) for _ in range(0, len(tiles), k)]
    fold = np.empty(len(tiles), dtype=np.int64)
    fold[order] = np.concatenate(rounds)[: len(tiles)]
    return fold


def coverage_class(coverage: np.ndarray | pd.Series) -> np.ndarray:
    """Class 0..10 of salt shares in [0, 1]: 0 is no salt, c is a share in ((c - 1) / 10, c / 10]."""
    return np.ceil(np.asarray(coverage) * 10).astype(np.int64)


def class_label(number: int) -> str:
    """'none' of class 0, 'to 10 %' of class 1."""
    return f"to {10 * number} %" if number else "none"


def _check(tiles: pd.DataFrame, k: int) -> None:
    if not 2 <= k <= len(tiles):
        raise InputError(f"{k} folds of {len(tiles)} tiles are not possible: choose from 2 to the number of tiles")
    if not tiles["id"].is_unique:
        twice = tiles.loc[tiles["id"].duplicated(), "id"].iloc[0]
        raise InputError(f"tile {twice} is listed twice, but belongs to one fold: remove one of the two")
    if not tiles["id"].is_monotonic_increasing:
        raise InputError("the tiles are not sorted by id, so folds would depend on their order: sort them")


SCHEMES: dict[str, Callable[[pd.DataFrame, int, int], np.ndarray]] = {
    "kfold": kfold,
    "coverage": coverage,
    "mosaic": coverage,  # of groups of neighbours, see `split`
}
