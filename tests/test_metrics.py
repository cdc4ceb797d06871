"""The score against a definition in exact fractions, and numbers worked out by hand."""

import csv
import os
from fractions import Fraction
from pathlib import Path

import hypothesis.extra.numpy as some
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from pipeline.salt import metrics, rle

PAIRS = some.arrays(bool, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 8)))


def _by_definition(pred: np.ndarray, truth: np.ndarray) -> float:
    a, b = ({tuple(pixel) for pixel in np.argwhere(mask).tolist()} for mask in (pred, truth))
    if not a and not b:
        return 1.0
    hits = [Fraction(len(a & b), len(a | b)) > Fraction(percent, 100) for percent in range(50, 100, 5)]
    return sum(hits) / len(hits)


@settings(deadline=None)
@given(PAIRS)
def test_scores_are_those_of_the_definition_in_numpy_and_in_torch(pair):
    pred, truth = pair
    expected = [_by_definition(p, t) for p, t in zip(pred, truth, strict=True)]
    assert metrics.tile_scores(pred, truth).tolist() == expected
    scores = metrics.tile_scores(torch.from_numpy(pred), torch.from_numpy(truth))
    np.testing.assert_array_equal(scores.numpy(), np.float32(expected))
    assert metrics.meanap(pred, truth) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    "shared, pred_only, truth_only, score",
    [
        (5, 0, 0, 1.0),  # identical
        (0, 0, 0, 1.0),  # both empty
        (0, 3, 0, 0.0),  # salt where there is none
        (0, 0, 3, 0.0),  # none where there is salt
        (0, 2, 2, 0.0),  # beside each other
        (1, 1, 0, 0.0),  # IoU 1/2 does not exceed 0.50
        (11, 9, 0, 0.1),  # IoU 0.55 exceeds 0.50, not itself
        (3, 2, 0, 0.2),  # IoU 0.60 exceeds 0.50 and 0.55
        (7, 2, 1, 0.4),  # IoU 0.70
        (4, 0, 1, 0.6),  # IoU 0.80 exceeds 0.50 .. 0.75
        (19, 1, 0, 0.9),  # IoU 0.95 exceeds all but itself
        (96, 4, 0, 1.0),  # IoU 0.96 exceeds all ten
    ],
)
def test_score_by_hand(shared, pred_only, truth_only, score):
    pred, truth = np.zeros((2, 1, 10, 10), dtype=bool)
    pred.flat[: shared + pred_only] = True
    truth.flat[:shared] = True
    truth.flat[shared + pred_only : shared + pred_only + truth_only] = True
    assert metrics.tile_scores(pred, truth).tolist() == [score]
    both = shared + pred_only + truth_only
    assert metrics.iou(pred, truth).tolist() == [shared / both if both else 1.0]


def test_an_iou_equal_to_a_threshold_does_not_pass_it():
    union = 20 * np.arange(1, 2600)  # up to a tile of 228 x 228
    for k in range(10, 20):
        intersection = union // 20 * k
        assert (metrics.score_of_counts(intersection, union) == (k - 10) / 10).all()
        assert (metrics.score_of_counts(intersection + 1, union) >= (k - 9) / 10).all()


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_an_image_may_have_more_pixels_than_a_twentieth_of_what_32_bits_count(kind):
    masks = kind(np.ones((1, 10_400, 10_400), bool))  # 20 times as many do not fit
    assert metrics.tile_scores(masks, masks).tolist() == [1]


def test_an_empty_prediction_scores_the_share_of_empty_tiles():
    truth = np.zeros((8, 101, 101), dtype=bool)
    truth[3:, 50, 50] = True
    assert metrics.meanap(np.zeros_like(truth), truth) == 3 / 8
    assert metrics.meanap(np.ones_like(truth), truth) == 0


def test_an_empty_prediction_on_the_competition_tiles():
    if "SALT_TILES" not in os.environ:
        pytest.skip("SALT_TILES is not set: the folder with the competition's train.csv")
    with open(Path(os.environ["SALT_TILES"]) / "train.csv", newline="") as file:
        codes = [row["rle_mask"] for row in csv.DictReader(file)]
    truth = np.stack([rle.decode(code, (101, 101)) for code in codes])
    assert metrics.meanap(np.zeros_like(truth), truth) == codes.count("") / len(codes)


@settings(deadline=None)
@given(PAIRS)
def test_overlap_is_what_scikit_learn_has(pair):
    theirs = {
        "dice": sklearn.f1_score,
        "iou": sklearn.jaccard_score,
        "precision": sklearn.precision_score,
        "recall": sklearn.recall_score,
    }
    pred, truth = (masks.reshape(len(masks), -1) for masks in pair)
    of_tiles = metrics.overlap((pred & truth).sum(1), pred.sum(1), truth.sum(1))
    together = metrics.overlap((pred & truth).sum(), pred.sum(), truth.sum())
    for name, function in theirs.items():
        expected = [function(t, p, zero_division=0) if (t | p).any() else 1 for p, t in zip(pred, truth, strict=True)]
        np.testing.assert_allclose(of_tiles[name], expected)
        if (pred | truth).any():
            assert together[name] == pytest.approx(function(truth.ravel(), pred.ravel(), zero_division=0))
    np.testing.assert_allclose(of_tiles["iou"], metrics.iou(*pair))


def test_overlap_of_parts_of_a_tile_is_that_of_its_pixels():
    pixels = np.array([3, 0, 0, 0]), np.array([4, 5, 0, 0]), np.array([6, 0, 7, 0])
    parts = metrics.overlap(*(area / (9 * 8) for area in pixels))
    for name, expected in [("dice", 6 / 10), ("iou", 3 / 7), ("precision", 3 / 4), ("recall", 3 / 6)]:
        np.testing.assert_allclose(parts[name], [expected, 0, 0, 1])


def test_a_score_on_tensors_is_a_tensor_and_waits_for_nothing():
    masks = torch.empty(3, 8, 8, dtype=torch.bool, device="meta")  # holds no data: reading any would raise
    assert metrics.meanap(masks, masks).shape == ()
    assert metrics.tile_scores(masks, masks).shape == (3,)


def test_no_tiles_have_no_scores():
    none = np.zeros((0, 5, 5), bool)
    assert metrics.tile_scores(none, none).shape == (0,)
    assert metrics.tile_scores(torch.from_numpy(none), torch.from_numpy(none)).shape == (0,)
