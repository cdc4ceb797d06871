"""Folds: a partition, the same on every machine, and balanced as documented."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold

from pipeline.salt.errors import InputError
from pipeline.salt.folds import SCHEMES, coverage, coverage_class, kfold, split


@pytest.fixture
def tiles() -> pd.DataFrame:
    """1,003 tiles with the competition's properties: 39% without salt, some of those black, depths of 50 to 959."""
    rng = np.random.RandomState(1)
    n = 1003
    share = np.where(rng.random_sample(n) < 0.39, 0, rng.randint(1, 10201, n) / 10201)
    return pd.DataFrame(
        {
            "id": [f"{i:010x}" for i in np.sort(rng.permutation(2**20)[:n])],
            "coverage": share,
            "z": rng.randint(50, 960, n),
            "black": (share == 0) & (rng.random_sample(n) < 0.05),
        }
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("k", [2, 7, 10])
def test_every_tile_is_in_one_fold_and_sizes_differ_by_one_at_most(scheme, k, tiles):
    sizes = np.bincount(SCHEMES[scheme](tiles, k, 42), minlength=k)
    assert len(sizes) == k and sizes.sum() == len(tiles) and np.ptp(sizes) <= 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_folds_depend_on_the_seed_and_on_nothing_else(scheme, tiles):
    fold = SCHEMES[scheme](tiles, 10, 42)
    np.random.seed(7)
    np.testing.assert_array_equal(SCHEMES[scheme](tiles.copy(), 10, 42), fold)
    assert (SCHEMES[scheme](tiles, 10, 43) != fold).mean() > 0.5
    relabelled = tiles.set_index(pd.Index(range(5000, 5000 + len(tiles))))
    np.testing.assert_array_equal(SCHEMES[scheme](relabelled, 10, 42), fold)


def test_kfold_is_scikit_learns():
    tiles = pd.DataFrame({"id": [f"{i:02}" for i in range(20)]})
    for number, (_, held_out) in enumerate(KFold(10, shuffle=True, random_state=42).split(np.arange(20))):
        assert np.flatnonzero(kfold(tiles) == number).tolist() == sorted(held_out.tolist())
    # np.random.RandomState(42).permutation(20) begins 0 17 15 1 8 5 11 3: fold 0 is {0, 17}, fold 1 {1, 15}, and so on.
    assert kfold(tiles).tolist() == [0, 1, 5, 3, 7, 2, 9, 8, 2, 6, 8, 3, 7, 5, 9, 1, 4, 0, 4, 6]


def test_coverage_by_hand():
    # Order: no salt and not black, e above a; black, c; a tenth, f; full, d and b. Assigned two at a time, so each of
    # (e, a), (c, f), (d, b) is split between the folds.
    tiles = pd.DataFrame(
        {
            "id": list("abcdef"),
            "coverage": [0, 1, 0, 1, 0, 0.1],
            "z": [300, 500, 50, 400, 200, 60],
            "black": [False, False, True, False, False, False],
        }
    )
    for seed in range(20):
        a, b, c, d, e, f = coverage(tiles, 2, seed)
        assert {e, a} == {c, f} == {d, b} == {0, 1}


def test_coverage_spreads_classes_black_tiles_and_depth(tiles):
    tiles["fold"], tiles["class"] = coverage(tiles, 10, 42), coverage_class(tiles["coverage"])
    # A run of equal tiles is cut by at most two rounds that it shares with others: a fold can be two apart, not three.
    assert np.ptp(pd.crosstab(tiles["class"], tiles["fold"]).to_numpy(), axis=1).max() <= 2
    assert np.ptp(tiles.groupby("fold")["black"].sum()) <= 2
    by_chance = tiles.groupby(kfold(tiles))["z"].mean().std()
    assert tiles.groupby("fold")["z"].mean().std() < by_chance / 2


def test_coverage_folds_as_recorded(tiles):
    # Recorded with numpy 2.4: folds must come out the same with any other version.
    assert coverage(tiles, 10, 42)[:20].tolist() == [3, 7, 6, 8, 0, 6, 1, 9, 9, 8, 3, 1, 5, 7, 9, 6, 1, 3, 9, 7]


def test_classes_of_coverage():
    shares = np.array([0, 1 / 10201, 0.1, 1021 / 10201, 0.55, 10200 / 10201, 1])
    assert coverage_class(shares).tolist() == [0, 1, 1, 2, 6, 10, 10]
    assert coverage_class(pd.Series(shares)).tolist() == coverage_class(shares).tolist()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_impossible_folds_are_refused_in_words(scheme, tiles):
    for k in (1, 0, -3, len(tiles) + 1):
        with pytest.raises(InputError, match=f"{k} folds of 1003 tiles"):
            SCHEMES[scheme](tiles, k, 42)
    with pytest.raises(InputError, match="not sorted"):
        SCHEMES[scheme](tiles[::-1], 10, 42)
    with pytest.raises(InputError, match=f"{tiles['id'][5]} is listed twice"):
        SCHEMES[scheme](pd.concat([tiles[:6], tiles[5:]]), 10, 42)


def test_neighbours_are_in_one_fold_and_folds_stay_even(tiles):
    rng = np.random.RandomState(5)
    group = np.where(rng.random_sample(len(tiles)) < 0.3, rng.randint(0, 100, len(tiles)), 100 + np.arange(len(tiles)))
    fold = split(tiles.assign(group=group), "mosaic", 5, 42)
    assert pd.Series(fold).groupby(group).nunique().max() == 1 and set(fold) == {*range(5)}
    sizes = np.bincount(fold)
    assert np.ptp(sizes) < 0.1 * len(tiles) and not np.array_equal(fold, split(tiles, "coverage", 5, 42))
    with pytest.raises(InputError, match="5 folds of 2 groups"):
        split(tiles.assign(group=np.arange(len(tiles)) % 2), "mosaic", 5, 42)
