"""Compare runs: the settings that differ, their results, and a paired test on the tiles that all runs predicted.

The test is one of random signs (Fisher's permutation test for pairs): if two runs were equally good, each tile's
difference could just as well have the opposite sign. It tests the mean, which is what Kaggle scores, and keeps ties;
Wilcoxon's signed ranks would discard ties and test a median of the rest. Since scores are multiples of 0.1, the
distribution over all 2^N choices of signs is computed, not sampled, so p is exact and always the same.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.salt.folds import class_label, coverage_class
from pipeline.salt.reporting import figures, html

SEEDS = 0.012  # the most that another seed alone has changed a run's score; EXPERIMENTS.md


def paired(first: np.ndarray, second: np.ndarray) -> dict:
    """Test how two runs' scores (N,) of the same tiles differ, second - first.

    Returns tiles (N), mean, se (standard error, None for a single tile), better and worse (numbers of tiles that gain
    or lose), and p of the random-sign test, in (0, 1], two-sided.
    """
    tenths = np.rint(10 * (np.asarray(second, float) - first)).astype(int)
    return {
        "tiles": len(tenths),
        "mean": float(tenths.mean() / 10),
        "se": float(tenths.std(ddof=1) / 10 / np.sqrt(len(tenths))) if len(tenths) > 1 else None,
        "better": int((tenths > 0).sum()),
        "worse": int((tenths < 0).sum()),
        "p": random_signs(tenths),
    }


def random_signs(differences: np.ndarray) -> float:
    """Share of all 2^N choices of signs for which the sum of the integers (N,) is at least as far from 0 as it is.

    The distribution of the sum is the Fourier transform of its characteristic function, prod cos(w |d|); accurate to
    1e-12, the smallest value returned.
    """
    sizes, counts = np.unique(np.abs(differences), return_counts=True)
    largest = int(sizes @ counts)
    w = 2 * np.pi * np.arange(2 * largest + 1) / (2 * largest + 1)
    chance = np.fft.fft(np.prod(np.cos(np.outer(sizes, w)) ** counts[:, None], axis=0)).real / len(w)
    sums = np.fft.fftfreq(len(w), 1 / len(w)).round().astype(int)  # 0, 1 .. largest, -largest .. -1
    return float(np.clip(chance[np.abs(sums) >= abs(int(np.sum(differences)))].sum(), 1e-12, 1))


def in_words(first: str, second: str, test: dict) -> str:
    """Explain a `paired` result in sentences."""
    if not test["better"] + test["worse"]:
        return f"{second} scores the same as {first} on each of the {test['tiles']:,} tiles."
    times = test["p"] * 1000
    often = f"{times:.0f} of 1,000 cases" if times >= 1 else "less than 1 of 1,000 cases"
    verdict = (
        "Chance between tiles does not explain this" if test["p"] < 0.05 else "This is within the chance between tiles"
    )
    return (
        f"{second} scores {abs(test['mean']):.4f} {'more' if test['mean'] >= 0 else 'less'} than {first} on the same "
        f"{test['tiles']:,} tiles: more on {test['better']:,}, less on {test['worse']:,}, the same on the rest. "
        f"{verdict}: if both were equally good, so that each tile's difference could just as well have the opposite "
        f"sign, the mean would be this far from 0 in {often}."
    )


ON_TOP = (
    f"Chance between trainings comes on top of that: another seed alone has moved a run by up to {SEEDS}, which no "
    "test on a single training of each run can show. Tiles cut from the same section are alike, so the true error is "
    "larger. To claim that one recipe is better, train each with three seeds (--set train.seed=...)."
)


def by_class(salt: np.ndarray, difference: np.ndarray) -> list[dict]:
    """Tiles, mean difference and its standard error for each class of salt share that occurs, as scores.per_class."""
    groups = pd.Series(difference).groupby(coverage_class(salt))
    return [
        {
            "class": class_label(number),
            "tiles": len(of_class),
            "mean": float(of_class.mean()),
            "se": float(of_class.std(ddof=1) / np.sqrt(len(of_class))) if len(of_class) > 1 else 0.0,
        }
        for number, of_class in groups
    ]


def numbers(results: Sequence[dict]) -> list[tuple[str, list[str]]]:
    """Rows (label, value for each run) of the numbers in scores.json and of `memory` (peak, GiB); '' if unknown."""

    def row(value, form: str = "{:.4f}") -> list[str]:
        values = [value(each) for each in results]
        return ["" if v is None else form.format(v) for v in values]

    folds = sorted({fold["fold"] for each in results for fold in each["folds"]})
    rows = [
        ("out of fold", row(lambda r: r["out_of_fold"]["score"])),
        ("  of tiles", row(lambda r: r["out_of_fold"]["tiles"], "{:,}")),
        *(
            (f"  fold {k}", row(lambda r, k=k: next((f["score"] for f in r["folds"] if f["fold"] == k), None)))
            for k in folds
        ),
        ("test", row(lambda r: r["test"] and r["test"]["score"])),
        ("threshold", row(lambda r: r["threshold"], "{:g}")),
        ("training, seconds", row(lambda r: r["seconds"], "{:,.0f}")),
        ("peak memory, GiB", row(lambda r: r["memory"], "{:.2f}")),
        ("on", row(lambda r: f"{r['host']}: {r['device']}", "{}")),
    ]
    return [(what, values) for what, values in rows if any(values)]  # 'test' is empty for Kaggle's: truth is unknown


def changed_settings(results: Sequence[dict]) -> list[tuple[str, list[str]]]:
    """Rows (name, value for each run) of the settings in which the runs differ, named as in --set."""
    settings = [{"profile": each["profile"], **each["settings"]} for each in results]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = [(name, [str(each.get(name, "")) for each in settings]) for name in names]
    return [(name, values) for name, values in rows if len({*values}) > 1]


def extremes(table: pd.DataFrame, difference: np.ndarray, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the largest gains and those with the largest losses, up to `count` each; ties are sorted by id.

    difference  (N,) second run's score - first's, of each row;  rows without a difference are in neither
    """
    tenths = pd.Series(np.rint(10 * difference), index=table.index)
    gains = table.assign(size=-tenths)[tenths > 0].sort_values(["size", "id"])
    losses = table.assign(size=tenths)[tenths < 0].sort_values(["size", "id"])
    return gains.head(count).drop(columns="size"), losses.head(count).drop(columns="size")


def render(names: Sequence[str], rows: dict, notes: Sequence[str], pairs: Sequence[dict]) -> str:
    """The HTML of the page, which loads nothing else.

    rows   'numbers' and 'settings', as returned by `numbers` and `changed_settings`
    notes  sentences on what the runs do not have in common
    pairs  for each run but the first: second, test, words, classes, scores, and `extremes` as pairs of `html.pictures`,
           the first run's and the second's
    """
    charts = [
        {
            "classes": figures.differences(pair["classes"], names[0], pair["second"]),
            "scores": figures.score_pairs(pair["scores"], names[0], pair["second"]),
        }
        for pair in pairs
    ]
    template = html.templates().get_template("compare.html.jinja")
    return template.render(names=names, **rows, notes=notes, pairs=pairs, charts=charts, on_top=ON_TOP)
