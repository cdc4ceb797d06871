"""Ensemble weights: which are tried, which are chosen, and an unbiased score."""

import contextlib
import io
import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline import make_folds, predict, report, submit, train
from pipeline.salt import artifacts, ensemble, parts, rle, stages, submission
from pipeline.salt.config import Submit
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import tile_scores


def probabilities(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(0.25 + 0.5 * truth + rng.normal(0, noise, truth.shape), 0, 1).astype(np.float16)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """(60, 12, 12) bool: rectangles; every fifth tile is empty."""
    rng, masks = np.random.default_rng(0), np.zeros((60, 12, 12), bool)
    for i in range(60):
        if i % 5:
            top, left = rng.integers(0, 6, 2)
            masks[i, top : top + rng.integers(3, 7), left : left + rng.integers(3, 7)] = True
    return masks


@pytest.mark.parametrize("runs, count", [(2, 11), (3, 66 + 1), (4, 286 + 1)])  # and thirds, quarters: no tenths
def test_all_tenths_and_equal_weights_are_tried_once_each(runs, count):
    tried = ensemble.choices(runs, [0.3, 0.5])
    weights = {choice.weights for choice in tried}
    assert len(tried) == 2 * len(weights) == 2 * count
    assert all(sum(each) == pytest.approx(1) and min(each) >= 0 for each in weights)
    assert tried[0] == ((1 / runs,) * runs, 0.5) and tried[1] == ((1 / runs,) * runs, 0.3)
    assert {weights for weights in itertools.permutations((1.0, *[0.0] * (runs - 1)))} <= weights


def test_a_blend_is_the_weighted_mean_and_one_run_alone_stays_what_it_is(truth):
    a, b = probabilities(truth, 0.2, 1), probabilities(truth, 0.2, 2)
    assert np.array_equal(ensemble.blend([a, b], (1.0, 0.0)), a) and ensemble.blend([a, b], (0.0, 1.0)).dtype == a.dtype
    np.testing.assert_allclose(
        ensemble.blend([a, b], (0.3, 0.7)), 0.3 * a.astype(float) + 0.7 * b.astype(float), atol=3e-4
    )


def test_scores_are_those_of_the_masks_that_would_be_submitted(truth, monkeypatch):
    monkeypatch.setattr(parts, "PIXELS", 7 * truth[0].size)
    probs = [probabilities(truth, 0.3, 1), probabilities(truth, 0.2, 2), probabilities(truth, 0.4, 3)]
    table = pd.DataFrame({"black": np.arange(60) % 11 == 1}).iloc[5:50]  # some of the tiles
    tried = ensemble.choices(3, [0.4, 0.5])
    tenths = ensemble.score_choices(table, probs, truth, Submit(), tried)
    for i in (0, 1, 50, len(tried) - 1):
        mean = sum(w * p.astype(np.float64) for w, p in zip(tried[i].weights, probs, strict=True))
        salt = mean.astype(np.float16) > np.float16(tried[i].threshold)
        salt[np.arange(60) % 11 == 1] = False
        np.testing.assert_array_equal(tenths[i], np.rint(10 * tile_scores(salt, truth)[5:50]))


def test_independent_errors_cancel_and_a_wrong_run_gets_no_weight(truth):
    table = pd.DataFrame({"black": np.zeros(60, bool)})
    tried = ensemble.choices(2, [0.5])
    good, other = probabilities(truth, 0.3, 1), probabilities(truth, 0.3, 2)
    tenths = ensemble.score_choices(table, [good, other], truth, Submit(), tried)
    alone = {choice.weights: row.mean() for choice, row in zip(tried, tenths, strict=True)}
    assert tenths[ensemble.best(tenths)].mean() > 1.2 * max(alone[1.0, 0.0], alone[0.0, 1.0])
    wrong = probabilities(~truth, 0.3, 3)
    tenths = ensemble.score_choices(table, [good, wrong], truth, Submit(), tried)
    assert tried[ensemble.best(tenths)].weights[0] >= 0.9
    same = ensemble.score_choices(table, [good, good], truth, Submit(), tried)
    assert tried[ensemble.best(same)].weights == (0.5, 0.5), "of equals, equal weights"


def test_nested_scores_a_fold_with_what_was_chosen_without_it():
    # Two choices, three folds of two tiles. Sums: 27 and 27, so the first is chosen on all.
    tenths = np.array([[9, 9, 0, 0, 5, 4], [0, 0, 9, 9, 4, 5]], np.uint8)
    folds = np.array([0, 0, 1, 1, 2, 2])
    assert ensemble.best(tenths) == 0
    # Without fold 0: 9 against 27, the second; without fold 1 the first; without fold 2 18 against 18, the first.
    assert ensemble.nested(tenths, folds).tolist() == [0, 0, 0, 0, 5, 4]


def test_of_pure_noise_the_nested_score_does_not_flatter():
    """Of 200 equally good choices, the best one looks better on all tiles; its nested score is the mean again."""
    rng, flattered, honest = np.random.default_rng(0), [], []
    for _ in range(20):
        tenths = rng.integers(0, 11, (200, 300)).astype(np.uint8)
        flattered.append(tenths[ensemble.best(tenths)].mean())
        honest.append(ensemble.nested(tenths, np.arange(300) % 5).mean())
    assert np.mean(flattered) > 5.4 and abs(np.mean(honest) - 5) < 0.1


# ---- the command


@pytest.fixture
def two_runs(tiny):
    """Runs 'demo' and 'other' on the same folds; the out-of-fold predictions of 'other' are much better."""
    first = tiny.parse()
    for folder in ("folds", "submissions"):
        shutil.copytree(tiny.out / folder / "demo", tiny.out / folder / "other")
    second = tiny.parse("--run=other")
    truth = [np.load(first.files.cache(name)) for name in ("masks.npy", "truth.npy")]
    for product, mask in zip(stages.predictions(second), truth, strict=True):
        with artifacts.publish(product.path, product.origin()) as tmp:
            np.save(tmp, probabilities(mask, 0.22, 5))
    tiny(submit, report, extra=("--run=other",))
    return tiny


def joined(run, *extra: str, names=("demo", "other")) -> str:
    """Output of `python -m pipeline.submit --run A --run B`, as typed, without the flags of a single run."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        submit.main(["--data=sample", f"--out={run.out}", *(f"--run={name}" for name in names), *extra])
    return printed.getvalue()


def test_two_runs_are_joined(two_runs):
    printed = joined(two_runs)
    path = two_runs.out / "submissions" / "demo+other" / "submission.csv.gz"
    made = json.loads(artifacts.sidecar_of(path).read_text())
    scores, weights = made["out_of_fold"], made["weights"]
    for name in ("demo", "other"):
        of_run = json.loads((two_runs.out / "submissions" / name / "scores.json").read_text())["out_of_fold"]
        assert scores["runs"][name] == pytest.approx(of_run["score"], abs=1e-6)
    assert sum(weights.values()) == pytest.approx(1) and scores["chosen"] >= max(scores["runs"].values()) - 1e-9
    assert scores["chosen"] >= scores["equal"] and scores["tiles"] == 25
    for number in (scores["nested"], scores["chosen"], *scores["runs"].values()):
        assert f"{number:.4f}" in printed

    run = two_runs.parse()
    test = [np.load(two_runs.out / "submissions" / name / "test.npy") for name in ("demo", "other")]
    mean = sum(weights[name] * p.astype(np.float32) for name, p in zip(("demo", "other"), test, strict=True))
    tiles = pd.read_csv(run.files.cache("tiles.csv"))
    black = tiles["black"][tiles["split"] == "test"].to_numpy()
    expected = submission.masks(mean.astype(np.float16), 0.5, run.profile.submit, black)
    table = submission.read(path.read_bytes())
    assert table["rle_mask"].tolist() == rle.encode(expected)
    assert table["id"].tolist() == tiles["id"][tiles["split"] == "test"].astype(str).tolist()


def test_it_is_up_to_date_until_a_run_changes(two_runs):
    first, again = joined(two_runs), joined(two_runs)
    scores = [line for line in first.splitlines() if not line.startswith("submit")]
    assert again.startswith("fresh") and again.splitlines()[1:] == scores and len(scores) == 3
    searched = joined(two_runs, "--set=submit.threshold=search")
    assert not searched.startswith("fresh")
    assert joined(two_runs, "--set=submit.threshold=search").startswith("fresh")


@pytest.mark.parametrize(
    "names, extra, words",
    [
        (("demo", "demo"), (), "an ensemble needs different runs"),
        (("demo", "missing"), (), "run missing has no report below"),
        (("demo", "../demo"), (), "a run's name becomes a folder"),
        (("demo", "other"), ("--set=train.lr=1e-3",), "only submit.* can be changed"),
        (("demo", "other"), ("--fold=0",), "--fold cannot change several finished runs"),
        (("demo", "other"), ("--add-phase=size=128",), "--add-phase cannot change several finished runs"),
    ],
)
def test_what_cannot_be_joined_is_said(two_runs, names, extra, words):
    with pytest.raises(InputError) as e:
        joined(two_runs, *extra, names=names)
    assert words in str(e.value) and "\n" not in str(e.value)
    assert not [*two_runs.out.glob("submissions/*+*")]


def test_runs_of_other_folds_are_refused(two_runs):
    two_runs(
        make_folds, train, predict, submit, report, extra=("--run=split", "--set=folds.seed=1", "--set=train.epochs=1")
    )
    with pytest.raises(InputError, match="demo and split have different folds: .*; give both the same"):
        joined(two_runs, names=("demo", "split"))


def test_a_run_whose_report_is_out_of_date_is_refused(two_runs):
    run = two_runs.parse("--run=other")
    oof = stages.predictions(run)[0]
    with artifacts.publish(oof.path, oof.origin()) as tmp:
        np.save(tmp, np.zeros((25, 101, 101), np.float16))
    with pytest.raises(InputError, match="oof.npy changed"):
        joined(two_runs)


def test_weights_are_found_on_the_tiles_that_all_runs_predict(untrained):
    """Run a has folds 0 and 1 of three, run b all: fold 2's tiles, NaN in a, count for neither."""
    one_epoch = ("--set=folds.k=3", "--set=train.epochs=1")
    shutil.rmtree(untrained.out / "folds")
    for name, folds in (("a", 2), ("b", 3), ("c", 1)):
        extra = (f"--run={name}", f"--set=run_folds={folds}", *one_epoch)
        untrained(make_folds, train, predict, submit, report, extra=extra)
    printed = joined(untrained, names=("a", "b"))
    path = untrained.out / "submissions" / "a+b" / "submission.csv.gz"
    scores = artifacts.read_sidecar(path)["out_of_fold"]
    fold = pd.read_csv(untrained.out / "folds/a/folds.csv")["fold"]
    assert scores["tiles"] == (fold < 2).sum() < 25 and all(np.isfinite([scores["nested"], *scores["runs"].values()]))
    assert f"{scores['nested']:.4f}" in printed
    with pytest.raises(InputError, match="runs a and c have fewer than two folds in common"):
        joined(untrained, names=("a", "c"))


def test_no_other_stage_takes_two_runs(tiny):
    with pytest.raises(InputError, match=r"--run is given 2 times \(a, b\).*pipeline.submit takes several"):
        tiny.parse("--run=a", "--run=b")
