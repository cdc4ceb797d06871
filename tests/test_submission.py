"""The file Kaggle scores: two rules, run lengths, the same bytes each time."""

import gzip

import numpy as np
import pandas as pd
import pytest

from pipeline.salt import rle, submission
from pipeline.salt.errors import InputError


def some(n: int = 6, seed: int = 0) -> np.ndarray:
    """(N, 101, 101) bool; the first is empty."""
    found = np.random.default_rng(seed).random((n, 101, 101)) > 0.6
    found[0] = False
    return found


IDS = ["f0", "a1", "00001", "1e5", "NA", "c3"]  # not sorted; text that pandas would take for numbers or for nothing


@pytest.mark.parametrize("threshold", [0.5, 0.34, 0.3, 0.7])
def test_a_pixel_is_salt_strictly_above_the_threshold(threshold):
    just = np.float16(threshold)
    probs = np.full((1, 101, 101), just, np.float16)
    probs[0, 0, 0], probs[0, 0, 1] = np.nextafter(just, np.float16(1)), np.nextafter(just, np.float16(0))
    found = submission.masks(probs, float(just))
    assert found.dtype == bool and np.argwhere(found[0]).tolist() == [[0, 0]]


def test_tiles_are_cut_alike_wherever_they_stand():
    """More tiles than are taken at once."""
    probs = np.random.default_rng(0).random((submission.TILES_AT_ONCE + 3, 11, 11)).astype(np.float16)
    np.testing.assert_array_equal(submission.masks(probs, 0.5), probs > 0.5)


def test_rules_are_off_unless_asked_for():
    probs = np.ones((2, 101, 101), np.float16)
    assert submission.masks(probs, 0.5).all()


def test_a_black_tile_is_left_empty():
    probs = np.full((3, 101, 101), 0.9, np.float16)
    probs[:, 0, 0] = 0
    found = submission.masks(probs, 0.5, black=np.array([False, True, False]))
    assert not found[1].any() and found[0].sum() == found[2].sum() == 10200


def test_a_full_mask_becomes_empty_and_one_pixel_less_does_not():
    probs = np.ones((2, 101, 101), np.float16)
    probs[1, 50, 50] = 0.5
    found = submission.masks(probs, 0.5, full_empty=True)
    assert not found[0].any() and found[1].sum() == 10200


def test_both_rules_together_and_the_probabilities_are_left_alone():
    probs = np.ones((3, 101, 101), np.float16)
    probs[2, 0, 0] = 0
    before = probs.copy()
    found = submission.masks(probs, 0.5, black=np.array([True, False, False]), full_empty=True)
    assert found.any(axis=(1, 2)).tolist() == [False, False, True] and np.array_equal(probs, before)


def test_the_file_says_what_it_was_given(tmp_path):
    masks = some()
    submission.write(tmp_path / "s.csv.gz", IDS, masks)
    lines = gzip.decompress((tmp_path / "s.csv.gz").read_bytes()).decode().split("\n")
    assert lines[0] == "id,rle_mask" and lines[-1] == "" and len(lines) == 8
    assert [line.split(",")[0] for line in lines[1:-1]] == IDS
    assert lines[1] == "f0,", "an empty mask is an empty field"
    for line, mask in zip(lines[1:-1], masks, strict=True):
        np.testing.assert_array_equal(rle.decode(line.split(",")[1]), mask)


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
    with pytest.raises(InputError, match="run lengths of tile a1 do not give its mask back"):
        submission.write(tmp_path / "s.csv.gz", IDS, some())


def test_no_tiles(tmp_path):
    submission.write(tmp_path / "s.csv.gz", [], np.zeros((0, 101, 101), bool))
    assert submission.read((tmp_path / "s.csv.gz").read_bytes()).empty
