"""Comparisons of runs: the paired test against enumeration and SciPy, the page against an HTML parser."""

import contextlib
import io
import itertools
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline import make_folds, predict, report, submit, train
from pipeline.salt import artifacts, published, stages
from pipeline.salt.errors import InputError
from pipeline.salt.metrics import tile_scores
from pipeline.salt.reporting import comparison
from pipeline.salt.run import joined
from pipeline.tools import compare

# ---- the test of random signs


@pytest.mark.parametrize("differences", [[1, 2, 3], [5, -5, 0, 0], [10, 10, 9, -1, 4, 0, 7, -3], [0, 0], [1], [-2] * 9])
def test_p_is_the_share_of_all_signs(differences):
    sums = [np.dot(signs, differences) for signs in itertools.product([-1, 1], repeat=len(differences))]
    expected = np.mean([abs(s) >= abs(sum(differences)) for s in sums])
    assert comparison.random_signs(np.array(differences)) == pytest.approx(expected, abs=1e-12)


def test_p_of_equal_sizes_is_the_sign_test():
    differences = np.array([3] * 40 + [-3] * 22 + [0] * 100)
    assert comparison.random_signs(differences) == pytest.approx(stats.binomtest(40, 62).pvalue, abs=1e-12)


def test_p_of_many_tiles_is_scipys_permutation_test_and_the_same_each_time():
    rng = np.random.default_rng(3)
    first = rng.integers(0, 11, 700) / 10
    moved = rng.choice([-0.3, -0.1, 0, 0.1, 0.3, 0.5], 700, p=[0.05, 0.15, 0.58, 0.15, 0.05, 0.02])
    second = np.clip(first + moved, 0, 1).round(1)
    p = comparison.paired(first, second)["p"]
    drawn = stats.permutation_test(
        (second, first), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert p == pytest.approx(drawn.pvalue, abs=0.01) and 0.1 < p < 0.9
    assert p == comparison.paired(first, second)["p"] == comparison.paired(second, first)["p"]


def test_p_keeps_its_promise_where_nothing_differs():
    """At most a twentieth of 400 pairs of equally good runs have p below .05."""
    rng, ps = np.random.default_rng(1), []
    for _ in range(400):
        difference = rng.choice([-0.5, -0.1, 0, 0.1, 0.5], 300, p=[0.05, 0.15, 0.6, 0.15, 0.05])
        ps.append(comparison.paired(np.full(300, 0.5), 0.5 + difference)["p"])
    assert 0.025 < np.mean(np.array(ps) < 0.05) < 0.08


def test_a_pair_by_hand():
    # differences 0, .2, -.1, .3: mean .1, deviation of a sample sqrt((.01 + .01 + .04 + .04) / 3) = .18257
    test = comparison.paired(np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.5, 0.7, 0.4, 0.8]))
    assert (test["tiles"], test["better"], test["worse"]) == (4, 2, 1)
    assert test["mean"] == pytest.approx(0.1) and test["se"] == pytest.approx(0.18257 / 2, abs=1e-5)
    # sums of +-2 +-1 +-3: |6| twice, |4| twice, |2| twice, 0 twice; as far as 4: four of eight
    assert test["p"] == pytest.approx(0.5)
    assert comparison.paired(np.array([0.5]), np.array([0.6]))["se"] is None


def test_words_say_what_chance_explains():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 9, 500) / 10
    same, better = first.copy(), (first + 0.1 * (rng.random(500) < 0.3)).round(1)
    assert "the same as a on each of the 500 tiles" in comparison.in_words("a", "b", comparison.paired(first, same))
    words = comparison.in_words("a", "b", comparison.paired(first, better))
    assert "does not explain" in words and "less than 1 of 1,000" in words and "more than a" in words
    noise = first.copy()
    noise[:3] = (first[:3] + [0.1, -0.1, 0.1]).round(1)
    words = comparison.in_words("a", "b", comparison.paired(first, noise))
    assert "within the chance" in words and "more on 2, less on 1" in words and "in 1000 of 1,000" in words


def test_settings_that_differ_and_those_that_one_run_does_not_have():
    one = {"profile": "demo", "settings": {"train.lr": 0.1, "train.64.size": 64, "model.name": "a"}}
    other = {"profile": "demo", "settings": {"train.lr": 0.1, "train.96.size": 96, "model.name": "b"}}
    assert comparison.changed_settings([one, other]) == [
        ("train.64.size", ["64", ""]),
        ("model.name", ["a", "b"]),
        ("train.96.size", ["", "96"]),
    ]
    assert comparison.changed_settings([one, one]) == []


def test_the_tiles_that_differ_most_come_first_and_equal_ones_never():
    table = pd.DataFrame({"id": list("aecdbf")}, index=range(7, 13))
    difference = np.array([0.5, 0.9, 0.7, 0.1, 0.9, 0.4]) - 0.5
    gains, losses = comparison.extremes(table, difference, 2)
    assert (gains["id"].tolist(), losses["id"].tolist()) == (["b", "e"], ["d", "f"])
    assert gains.index.tolist() == [11, 8] and len(comparison.extremes(table, difference, 9)[0]) == 3


# ---- the command


@pytest.fixture
def two_runs(tiny):
    """'demo', and 'short' with other epochs and only one of the two folds."""
    for folder in ("folds", "submissions"):
        shutil.copytree(tiny.out / folder / "demo", tiny.out / folder / "short")
    flags = ("--run=short", "--set=train.48.epochs=2", "--set=submit.threshold=0.4", "--fold=0")
    tiny(train, predict, submit, report, extra=(*flags, "--force"))
    return tiny


def compared(run, *names: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        compare.main([*names, "--data=sample", f"--out={run.out}"])
    return printed.getvalue()


def test_two_runs_are_compared(two_runs):
    printed = compared(two_runs, "demo", "short")
    run, [short] = two_runs.parse(), stages.recorded(two_runs.parse(), ["short"])
    truth, own = np.load(run.files.cache("masks.npy")), {}
    tiles = pd.read_csv(run.files.cache("tiles.csv"))[:25]
    some = (pd.read_csv(run.files.folds)["fold"] == 0).to_numpy()
    for name, threshold in (("demo", 0.5), ("short", 0.4)):
        probs = np.load(two_runs.out / "folds" / name / "oof.npy")
        mask = (probs > np.float16(threshold)) & (probs.max((1, 2), keepdims=True) > np.float16(0.6))
        mask &= ~mask.all((1, 2), keepdims=True) & ~tiles["black"].to_numpy()[:, None, None]
        own[name] = tile_scores(mask, truth)[some]
    difference = (own["short"] - own["demo"]).round(1)
    se = difference.std(ddof=1) / np.sqrt(some.sum())
    assert f"short - demo: {difference.mean():+.4f} ± {se:.4f}, p = " in printed
    assert f"more on {(difference > 0).sum()}, less on {(difference < 0).sum()}" in printed or not difference.any()

    lines = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    rows = {what: values for what, *values in lines}
    both = [published.read_scores(each) for each in (run, short)]
    assert rows["out of fold"] == [f"{each['out_of_fold']['score']:.4f}" for each in both]
    assert rows["of tiles"] == ["25", str(some.sum())] and rows["train.48.epochs"] == ["1", "2"]
    assert rows["submit.threshold"] == rows["threshold"] == ["0.5", "0.4"]
    assert rows["fold 1"] == [f"{both[0]['folds'][1]['score']:.4f}"], "short has no fold 1"
    memory = [pd.read_csv(path)["memory"].max() for path in two_runs.out.glob("folds/demo/fold_*/[0-9]*.csv")]
    assert rows["peak memory, GiB"][0] == f"{max(memory):.2f}"
    assert (
        "The runs predicted different tiles" in printed
        and "up to 0.012" in printed
        and "The folds differ" not in printed
    )


def test_the_page_says_the_same_and_loads_nothing(two_runs):
    from test_report import Report  # beside this file

    printed = compared(two_runs, "demo", "short")
    path = two_runs.out / "submissions" / "compare-demo+short.html"
    page = Report()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.loads and all(load.startswith(("data:image/png;base64,", "#")) for load in page.loads)
    assert len(set(page.ids)) == len(page.ids) and all(picture["alt"] for picture in page.pictures)
    assert ["train.48.epochs", "1", "2"] in page.rows and ["", "demo", "short"] in page.rows
    shown = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    rows = {what: values for what, *values in shown}
    for what in ("out of fold", "of tiles", "fold 0", "training, seconds", "peak memory, GiB", "submit.threshold"):
        assert [what, *rows[what]] in page.rows, what
    [line] = [line for line in printed.splitlines() if line.startswith("short - demo: ")]
    assert line.split()[3] in page.words and "Chance between trainings comes on top" in page.words
    sidecar = json.loads(artifacts.sidecar_of(path).read_text())
    assert {"demo/scores.json", "short/scores.json", "demo/oof.npy"} <= sidecar["inputs"].keys()
    assert printed.rstrip().endswith("compare-demo+short.html")


def test_three_runs_each_against_the_first(two_runs):
    for folder in ("folds", "submissions"):
        shutil.copytree(two_runs.out / folder / "demo", two_runs.out / folder / "again")
    two_runs(report, extra=("--run=again", "--force"))
    printed = compared(two_runs, "demo", "short", "again")
    assert "short - demo: " in printed and "again - demo: +0.0000 ± 0.0000, p = 1\n" in printed
    assert (two_runs.out / "submissions" / "compare-demo+short+again.html").exists()


@pytest.mark.parametrize(
    "names, words",
    [
        (["demo"], "name at least two runs"),
        (["demo", "demo"], "name at least two runs, each once"),
        (["demo", "missing"], "run missing has no report below .*; finish it first"),
        (["demo", "../x"], "a run's name becomes a folder"),
    ],
)
def test_what_cannot_be_compared_is_said(tiny, names, words):
    with pytest.raises(InputError, match=words):
        compared(tiny, *names)
    assert not [*tiny.out.glob("submissions/compare*")]


def test_a_run_that_has_changed_since_its_report_is_named_with_what_to_do(two_runs):
    two_runs(submit, extra=("--run=short", "--set=train.48.epochs=2", "--set=submit.threshold=0.3", "--fold=0"))
    said = r"run short has changed since its report: .*submit.threshold 0.3 -> 0.4.*\./run_all.sh --run short"
    with pytest.raises(InputError, match=said):
        compared(two_runs, "demo", "short")


def test_names_that_are_too_long_together_are_said():
    with pytest.raises(InputError, match="too long for one file name"):
        joined(["a" * 100, "b" * 101])


def test_runs_of_other_tiles_are_not_compared(tiny, made_once):
    with pytest.raises(InputError, match="run demo used other tiles than tiny; name its tiles"):
        compare.main(["demo", "x", f"--data={made_once}", f"--out={tiny.out}"])


def test_other_folds_are_said(two_runs):
    flags = ("--run=split", "--set=folds.seed=1", "--set=train.epochs=1")
    two_runs(make_folds, train, predict, submit, report, extra=flags)
    assert "The folds differ: the models that predict a tile" in compared(two_runs, "demo", "split")
