"""Windows and their blending: weights sum to 1, no seams, every pixel covered, memory independent of the rows."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.salt.sections.windows import axis, blend, regroup


def blended(image: np.ndarray, window: tuple[int, int], logits) -> np.ndarray:
    return np.concatenate([*blend(lambda top, bottom: image[top:bottom], image.shape[:2], window, logits)])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(2, 300))
def test_windows_cover_every_pixel_and_their_weights_sum_to_one(length, side):
    starts, weights = axis(length, side)
    total = np.zeros(max(length, side))
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + side] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (weights > 0).all() and starts[0] == 0
    assert len(starts) == 1 or starts[-1] == length - side
    assert (np.diff(starts) <= max(side // 2, 1)).all(), "neighbours overlap by half"


def test_the_weights_of_windows_of_even_side_are_hanns():
    # half a window apart, sin^2 and cos^2 sum to 1 as they are: nothing is left to correct
    starts, weights = axis(40, 8)
    assert starts.tolist() == [*range(0, 33, 4)]
    np.testing.assert_allclose(weights[3], np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.integers(2, 40))
def test_a_model_that_looks_at_each_pixel_alone_leaves_no_seam(height, width, high, wide):
    image = noise(height, width)
    np.testing.assert_allclose(blended(image, (high, wide), lambda x: x / 16 - 3), image / 16 - 3, atol=1e-4)


def test_a_constant_is_that_constant_everywhere():
    logits = blended(noise(203, 157), (101, 101), lambda x: np.full(x.shape, -2.5, np.float32))
    assert logits.shape == (203, 157) and np.abs(logits + 2.5).max() < 1e-5


def test_what_two_windows_disagree_on_fades_from_one_to_the_other():
    calls = []

    def by_turns(windows):
        calls.append(len(windows))
        return np.arange(len(windows), dtype=np.float32)[:, None, None] * np.ones(windows.shape, np.float32)

    row = blended(noise(20, 50), (20, 20), by_turns)[0]  # windows at 0, 10, 20, 30 say 0, 1, 2, 3
    assert calls == [4] and row[0] == 0 and row[-1] == 3
    assert (np.diff(row) >= 0).all() and np.diff(row).max() < 0.2, "where a seam would jump by 1"


def test_a_window_is_seen_as_it_lies_in_the_picture():
    image, seen = noise(30, 45), []

    def spy(windows):
        seen.append(windows)
        return np.zeros(windows.shape[:3], np.float32)

    blended(image, (10, 16), spy)
    tops, lefts = axis(30, 10).starts, axis(45, 16).starts
    assert len(seen) == len(tops)
    for top, windows in zip(tops, seen, strict=True):
        for left, window in zip(lefts, windows, strict=True):
            assert np.array_equal(window, image[top : top + 10, left : left + 16])


@pytest.mark.parametrize("shape", [(5, 7), (5, 40), (40, 7), (1, 1), (5, 7, 3)])
def test_a_picture_smaller_than_a_window_is_mirrored(shape):
    image, seen = noise(*shape), []

    def spy(windows):
        seen.append(windows)
        return (windows if windows.ndim == 3 else windows[..., 0]).astype(np.float32)

    logits = blended(image, (16, 16), spy)
    np.testing.assert_allclose(logits, image if image.ndim == 2 else image[..., 0], atol=1e-3)
    pad = [(0, max(16 - n, 0)) for n in shape[:2]] + [(0, 0)] * (len(shape) - 2)
    assert np.array_equal(seen[0][0], np.pad(image, pad, mode="symmetric")[:16, :16])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 12))
def test_regrouped_rows_are_the_same_rows(heights, height):
    rows = np.arange(sum(heights))[:, None]
    bands = [*regroup(iter(np.split(rows, np.cumsum(heights)[:-1])), height)] if heights else []
    assert np.array_equal(np.concatenate([rows[:0], *bands]), rows)
    assert all(len(band) == height for band in bands[:-1]) and all(0 < len(band) <= height for band in bands)


def test_memory_does_not_grow_with_rows():
    def peak(height: int) -> int:
        """Peak bytes that NumPy holds while a picture is segmented whose rows are generated on demand."""
        tracemalloc.start()
        rows = lambda top, bottom: np.zeros((bottom - top, 3000), np.uint8)  # noqa: E731
        done = sum(len(band) for band in blend(rows, (height, 3000), (101, 101), lambda x: x.astype(np.float32)))
        assert done == height
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    low, high = peak(1000), peak(8000)
    assert high < low * 1.02 < 40e6, (low, high)
