"""The submission file: its rules, run lengths, the same bytes each time."""

import gzip

import numpy as np
import pandas as pd
import pytest

from pipeline.salt import parts, rle, submission
from pipeline.salt.config import Submit
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import meanap


def some(n: int = 6, seed: int = 0) -> np.ndarray:
    """(N, 101, 101) bool; the first is empty."""
    masks = np.random.default_rng(seed).random((n, 101, 101)) > 0.6
    masks[0] = False
    return masks


IDS = ["f0", "a1", "00001", "1e5", "NA", "c3"]  # not sorted; text that pandas would take for numbers or for nothing
NO_RULES = Submit(black_empty=False, full_empty=False)


@pytest.mark.parametrize("threshold", [0.5, 0.34, 0.3, 0.7])
def test_a_pixel_is_salt_strictly_above_the_threshold(threshold):
    just = np.float16(threshold)
    probs = np.full((1, 101, 101), just, np.float16)
    probs[0, 0, 0], probs[0, 0, 1] = np.nextafter(just, np.float16(1)), np.nextafter(just, np.float16(0))
    masks = submission.masks(probs, float(just), NO_RULES, np.zeros(1, bool))
    assert masks.dtype == bool and np.argwhere(masks[0]).tolist() == [[0, 0]]


def test_without_its_rules_a_black_tile_and_a_full_mask_stay():
    probs = np.ones((2, 101, 101), np.float16)
    assert submission.masks(probs, 0.5, NO_RULES, np.ones(2, bool)).all()


def test_a_black_tile_is_left_empty():
    probs = np.full((3, 101, 101), 0.9, np.float16)
    probs[:, 0, 0] = 0
    masks = submission.masks(probs, 0.5, Submit(), np.array([False, True, False]))
    assert not masks[1].any() and masks[0].sum() == masks[2].sum() == 10200


def test_a_full_mask_becomes_empty_and_one_pixel_less_does_not():
    probs = np.ones((2, 101, 101), np.float16)
    probs[1, 50, 50] = 0.5
    masks = submission.masks(probs, 0.5, Submit(), np.zeros(2, bool))
    assert not masks[0].any() and masks[1].sum() == 10200


def test_both_rules_together_and_the_probabilities_are_left_alone():
    probs = np.ones((3, 101, 101), np.float16)
    probs[2, 0, 0] = 0
    before = probs.copy()
    masks = submission.masks(probs, 0.5, Submit(), np.array([True, False, False]))
    assert masks.any(axis=(1, 2)).tolist() == [False, False, True] and np.array_equal(probs, before)


def test_a_mask_without_a_pixel_above_the_peak_becomes_empty():
    peak = np.float16(0.6)
    probs = np.full((4, 9, 9), 0.1, np.float16)
    probs[:3, 2:5] = 0.55
    probs[1, 3, 3], probs[2, 8, 8] = peak, np.nextafter(peak, np.float16(1))
    rules, black = Submit(peak=float(peak)), np.zeros(4, bool)
    masks = submission.masks(probs, 0.5, rules, black)
    assert masks.sum(axis=(1, 2)).tolist() == [0, 0, 28, 0], "strictly above, as with the threshold"
    assert submission.masks(probs, 0.5, Submit(), black).sum(axis=(1, 2)).tolist() == [27, 27, 28, 0]
    for above in (0.6, 0.7):  # every pixel of such a mask exceeds the peak anyway
        np.testing.assert_array_equal(submission.masks(probs, above, rules, black), probs > above)
    assert not submission.masks(np.full((1, 9, 9), np.nan, np.float16), 0.5, rules, black[:1]).any()


def score_at(
    probs: np.ndarray, truth: np.ndarray, rules: Submit, black: np.ndarray | None = None
) -> dict[float, float]:
    table = pd.DataFrame({"black": np.zeros(len(probs), bool) if black is None else black})
    return submission.score_thresholds(table, probs, truth, rules)


def test_the_scores_of_thresholds_are_those_of_the_masks_that_would_be_submitted(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(parts, "PIXELS", 100 * 81)
    truth = rng.random((257, 9, 9)) < 0.5  # more than are scored at once
    probs = np.clip(0.1 + 0.5 * truth + rng.normal(0, 0.08, truth.shape), 0, 1).astype(np.float16)
    scores = score_at(probs, truth, Submit())
    black = np.zeros(len(probs), bool)
    expected = {k / 100: meanap(submission.masks(probs, k / 100, Submit(), black), truth) for k in range(30, 71, 2)}
    assert list(scores) == pytest.approx(list(expected))
    assert list(scores.values()) == pytest.approx(list(expected.values()), abs=1e-6)
    best = submission.best_threshold(scores)
    assert 0.3 <= best < 0.4 and scores[best] == max(scores.values())


def test_the_best_threshold_is_the_best_after_the_rules():
    # One tile is predicted 0.45 all over, though it has no salt; the other has salt at 0.40 beside rock at 0.35.
    # Before the rules, thresholds of 0.46 and more get the first right, and none below does: 0.36 and 0.38 get the
    # second. As the rules empty the full mask of the first, 0.36 and 0.38 get both.
    truth = np.zeros((2, 10, 10), bool)
    truth[1, 2:5] = True
    probs = np.where(truth, 0.40, 0.35).astype(np.float16)
    probs[0] = 0.45
    for rules, best, score in [(Submit(full_empty=False), 0.5, 0.5), (Submit(full_empty=True), 0.38, 1.0)]:
        scores = score_at(probs, truth, rules)
        assert (submission.best_threshold(scores), max(scores.values())) == (best, score)
    black = np.array([True, False])  # the same by the other rule
    assert submission.best_threshold(score_at(probs, truth, Submit(full_empty=False), black)) == 0.38


@pytest.mark.parametrize(
    "salt, rock, best",
    [
        (0.90, 0.10, 0.50),  # any threshold separates them
        (0.45, 0.10, 0.44),  # 0.30 .. 0.44 do
        (0.90, 0.55, 0.56),  # 0.56 .. 0.70 do
    ],
)
def test_of_equal_thresholds_the_one_nearest_a_half_is_taken(salt, rock, best):
    truth = np.zeros((2, 4, 4), dtype=bool)
    truth[:, 1:3] = True
    assert submission.best_threshold(score_at(np.where(truth, salt, rock).astype(np.float16), truth, Submit())) == best


def test_only_the_tiles_of_the_table_are_scored():
    truth = np.zeros((3, 4, 4), dtype=bool)
    truth[:, 1:3] = True
    probs = np.where(truth, 0.9, 0.1).astype(np.float16)
    probs[1] = np.nan  # a tile of a fold that was not trained
    table = pd.DataFrame({"black": [False, False]}, index=[0, 2])
    assert set(submission.score_thresholds(table, probs, truth, Submit(), [0.5, 0.6]).values()) == {1.0}


def test_the_submission_file_holds_the_given_masks(tmp_path):
    masks = some()
    submission.write(tmp_path / "s.csv.gz", IDS, masks)
    lines = gzip.decompress((tmp_path / "s.csv.gz").read_bytes()).decode().split("\n")
    assert lines[0] == "id,rle_mask" and lines[-1] == "" and len(lines) == 8
    assert [line.split(",")[0] for line in lines[1:-1]] == IDS
    assert lines[1] == "f0,", "an empty mask is an empty field"
    for line, mask in zip(lines[1:-1], masks, strict=True):
        np.testing.assert_array_equal(rle.decode(line.split(",")[1], (101, 101)), mask)


def test_pandas_and_kaggle_read_it(tmp_path):
    submission.write(tmp_path / "submission.csv.gz", IDS, some())
    table = pd.read_csv(tmp_path / "submission.csv.gz", dtype={"id": str}, keep_default_na=False)
    assert list(table) == ["id", "rle_mask"] and table["id"].tolist() == IDS and table["rle_mask"].iloc[0] == ""
    back = submission.read((tmp_path / "submission.csv.gz").read_bytes())
    assert back["id"].tolist() == IDS and back["rle_mask"].tolist() == rle.encode(some())


def test_the_same_masks_give_the_same_bytes_at_any_time_and_place(tmp_path, monkeypatch):
    submission.write(tmp_path / "a.csv.gz", IDS, some())
    monkeypatch.setattr("time.time", lambda: 2e9)
    submission.write(tmp_path / ".tmp-1-b.csv.gz", IDS, some())
    first = (tmp_path / "a.csv.gz").read_bytes()
    assert first == (tmp_path / ".tmp-1-b.csv.gz").read_bytes() and first[4:8] == bytes(4), "no time in the header"


def test_ids_that_do_not_come_back_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ids are not those of sample_submission\.csv"):
        submission.write(tmp_path / "s.csv.gz", [7, *IDS[1:]], some())


def test_a_run_length_that_does_not_give_the_mask_back_is_refused(tmp_path, monkeypatch):
    encode = rle.encode
    monkeypatch.setattr(rle, "encode", lambda masks: encode(masks.transpose(0, 2, 1)))  # rows first: a classic
    with pytest.raises(InputError, match="run lengths of tile a1 do not decode to its mask"):
        submission.write(tmp_path / "s.csv.gz", IDS, some())


def test_no_tiles(tmp_path):
    submission.write(tmp_path / "s.csv.gz", [], np.zeros((0, 101, 101), bool))
    assert submission.read((tmp_path / "s.csv.gz").read_bytes()).empty
