"""Kaggle's run-length code in both directions, against a pixel-by-pixel encoder, and every way to get it wrong."""

import csv
import os
from pathlib import Path

import hypothesis.extra.numpy as some
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.salt import parts, rle

SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 7))


def test_the_example_of_the_competition_page():
    # "1 3 10 5" is said there to mean the pixels 1, 2, 3, 10, 11, 12, 13, 14. Down the columns of a 4 x 4 tile these
    # are column 0, rows 0-2; column 2, rows 1-3; column 3, rows 0-1.
    mask = np.array([[1, 0, 0, 1], [1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 1, 0]], dtype=bool)
    assert rle.encode(mask[None]) == ["1 3 10 5"]
    np.testing.assert_array_equal(rle.decode("1 3 10 5", (4, 4)), mask)


def test_a_batch_of_the_masks_at_the_edges():
    empty, full, corners, second_column = np.zeros((4, 101, 101), dtype=bool)
    full[:] = True
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    second_column[:, 1] = True
    # Column-major pixel of row r, column c: 101 c + r + 1. (100, 0) -> 101, (0, 100) -> 10101, (100, 100) -> 10201.
    assert rle.encode(np.stack([empty, full, corners, second_column, full])) == [
        "",
        "1 10201",
        "1 1 101 1 10101 1 10201 1",
        "102 101",
        "1 10201",
    ]


@settings(deadline=None)
@given(SHAPES.flatmap(lambda shape: some.arrays(bool, shape)))
def test_codes_are_those_of_a_walk_over_the_pixels_and_decode_to_the_mask(masks):
    codes = rle.encode(masks)
    assert codes == [_walk(mask) for mask in masks]
    for code, mask in zip(codes, masks, strict=True):
        np.testing.assert_array_equal(rle.decode(code, mask.shape), mask)


def test_tiles_do_not_mix_where_one_part_ends_and_the_next_begins(monkeypatch):
    monkeypatch.setattr(parts, "PIXELS", 10 * 9)
    masks = np.random.default_rng(0).random((21, 3, 3)) < 0.5
    assert rle.encode(masks) == [_walk(mask) for mask in masks]


def test_large_masks_get_no_table_of_all_numbers(monkeypatch):
    masks = np.random.default_rng(0).random((5, 20, 30)) < 0.5
    codes = rle.encode(masks)
    monkeypatch.setattr(rle, "TABLE", 599)
    assert rle.encode(masks) == codes == [_walk(mask) for mask in masks]


def test_runs_that_touch_are_valid():
    np.testing.assert_array_equal(rle.decode("1 2 3 1", (2, 2)), [[True, True], [True, False]])


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("1", "odd count"),
        ("1 2 3", "odd count"),
        ("a 2", "not a list of whole numbers"),
        ("1 2.0", "not a list of whole numbers"),
        ("0 3", "start below 1"),
        ("-4 3", "start below 1"),
        ("3 0", "length below 1"),
        ("3 -1", "length below 1"),
        ("1 5 5 2", "overlaps or precedes"),
        ("9 2 1 1", "overlaps or precedes"),
        ("10201 2", "out of range"),
        ("10202 1", "out of range"),
        ("1 99999999999999999999", "out of range"),
    ],
)
def test_a_wrong_code_is_refused_in_words(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        rle.decode(text, (101, 101))


def test_every_code_of_the_competition_round_trips():
    if "SALT_TILES" not in os.environ:
        pytest.skip("SALT_TILES is not set: the folder with the competition's train.csv")
    with open(Path(os.environ["SALT_TILES"]) / "train.csv", newline="") as file:
        codes = [row["rle_mask"] for row in csv.DictReader(file)]
    assert rle.encode(np.stack([rle.decode(code, (101, 101)) for code in codes])) == codes


def _walk(mask: np.ndarray) -> str:
    runs, previous = [], False
    height, width = mask.shape
    for number in range(height * width):
        salt = mask[number % height, number // height]
        if salt and not previous:
            runs.append([number + 1, 0])
        if salt:
            runs[-1][1] += 1
        previous = salt
    return " ".join(f"{start} {length}" for start, length in runs)
