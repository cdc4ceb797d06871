"""Neighbours: all those whose borders match clearly are found, and no others."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import make_folds, prepare
from pipeline.salt import mosaic
from pipeline.salt.mosaic import groups, neighbours

ROWS, COLUMNS, SIDE = 5, 7, 101


@pytest.fixture(scope="module")
def section() -> np.ndarray:
    """(505, 707) float: noise smoothed over a few pixels, so that each border is distinctive."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(3).normal(size=(ROWS * SIDE, COLUMNS * SIDE)), (2, 2))


def cut(section: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles (35, 101, 101) uint8 of the section in random order, each with its own contrast; and the place (35, 2) of
    each."""
    rng = np.random.default_rng(seed)
    places = rng.permutation([(row, column) for row in range(ROWS) for column in range(COLUMNS)])
    tiles = []
    for row, column in places:
        tile = section[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        tile = (tile - tile.min()) / np.ptp(tile) * rng.uniform(100, 255)
        tiles.append(tile.astype(np.uint8))
    return np.array(tiles), places


def steps(pairs: list, places: np.ndarray) -> set[tuple]:
    """(place, step to the other tile) of pairs."""
    return {(tuple(places[p.first]), tuple(places[p.second] - places[p.first]), p.after) for p in pairs}


@pytest.mark.parametrize("seed", range(3))
def test_all_neighbours_of_a_section_are_found_and_no_others(section, seed):
    tiles, places = cut(section, seed)
    found = neighbours(tiles)
    right = {((r, c), (0, 1), "right") for r in range(ROWS) for c in range(COLUMNS - 1)}
    below = {((r, c), (1, 0), "below") for r in range(ROWS - 1) for c in range(COLUMNS)}
    assert steps(found, places) == right | below and len(found) == len(right | below)
    assert set(groups(len(tiles), found)) == {0}


def test_nothing_is_found_where_no_tile_has_its_neighbour(section):
    tiles, places = cut(section, 0)
    apart = tiles[places.sum(axis=1) % 2 == 0]  # the white squares of a chess board
    assert neighbours(apart) == [] and groups(len(apart), []).tolist() == list(range(len(apart)))


def test_black_and_flat_tiles_and_single_ones_have_no_neighbours(section):
    tiles, _ = cut(section, 0)
    flat = np.zeros((6, SIDE, SIDE), np.uint8)
    flat[3:] = 80
    assert not {i for pair in neighbours(np.concatenate([tiles, flat])) for i in pair[:2]} & set(range(35, 41))
    assert neighbours(flat) == [] and neighbours(tiles[:1]) == [] and neighbours(tiles[:0]) == []


def test_a_picture_that_is_there_twice_is_with_its_neighbours_both_times(section):
    """It would be its own best rival, and so have no clear match."""
    tiles, _ = cut(section, 0)
    n, found = len(tiles), neighbours(tiles)
    both = neighbours(np.concatenate([tiles, tiles[3:5]]))
    assert {pair[:3] for pair in both} == {pair[:3] for pair in found} | {(3, n, "same"), (4, n + 1, "same")}
    assert {*groups(n + 2, both)} == {0}


@pytest.mark.parametrize("at_once", [1, 7, 34])
def test_blocks_of_the_matrix_give_what_the_whole_gives(section, at_once, monkeypatch):
    tiles, _ = cut(section, 1)
    whole = neighbours(tiles[:30])
    monkeypatch.setattr(mosaic, "ROWS_AT_ONCE", at_once)
    blocks = neighbours(tiles[:30])
    assert [pair[:3] for pair in blocks] == [pair[:3] for pair in whole] and len(whole) > 20
    assert [pair.clearness for pair in blocks] == pytest.approx([pair.clearness for pair in whole], rel=1e-3)


def test_groups_by_hand():
    pairs = [mosaic.Pair(4, 1, "right", 9.0), mosaic.Pair(1, 3, "below", 9.0), mosaic.Pair(5, 2, "right", 9.0)]
    assert groups(7, pairs).tolist() == [0, 1, 2, 1, 1, 2, 3]


def test_the_picture_shows_pairs_put_together(section):
    tiles, _ = cut(section, 0)
    pairs = neighbours(tiles)
    sheet = mosaic.sheet(tiles, pairs, rows=2, columns=3)
    assert sheet.shape == (2 * (SIDE + 8) + 2 * (2 * SIDE + 8), 3 * (2 * SIDE + 8)) and sheet.dtype == np.uint8
    first = sheet[:SIDE, : 2 * SIDE]
    assert any(
        np.array_equal(first, np.concatenate([tiles[pair.first], tiles[pair.second]], axis=1))
        for pair in pairs
        if pair.after == "right"
    )
    assert (mosaic.sheet(tiles, []) == 255).all()


def test_folds_of_the_sample_keep_the_tiles_of_a_section_together(empty):
    """Its sections are cut into 3 x 4 tiles, but not all tiles are in the sample, and not all borders are clear."""
    scheme = ("--set=folds.scheme=mosaic", "--set=sample.train=60", "--set=sample.test=20")
    printed = empty(prepare, make_folds, extra=scheme)
    run = empty.parse(*scheme)
    found = pd.read_csv(run.files.neighbours("csv"), dtype={"first": str, "second": str})
    fold = pd.read_csv(run.files.folds, dtype={"id": str}).set_index("id")["fold"]
    both = found[found["first"].isin(fold.index) & found["second"].isin(fold.index)]
    assert len(both) > 10 and set(found["after"]) == {"right", "below"} and (found["clearness"] >= mosaic.CLEARLY).all()
    assert (fold[both["first"]].to_numpy() == fold[both["second"]].to_numpy()).all()
    assert f"{len(found)} pairs of neighbours" in printed and "scheme mosaic" in printed
    with Image.open(run.files.neighbours("png")) as picture:
        assert picture.size == (6 * 210, 4 * 109 + 4 * 210)
    assert "fresh" in empty(make_folds, extra=scheme)
