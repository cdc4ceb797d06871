"""The report's pictures: charts as inline SVG, tiles as PNG with outlines in SVG.

A chart takes its colours from the report's CSS (currentColor, --soft and --line), so it reads in light and dark mode.
"""

import base64
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

# Ten colours that stay apart for colour-blind readers too. Source: Petroff 2021, https://arxiv.org/abs/2107.02270
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")

INK, SOFT, LINE = "#010203", "#010204", "#010205"  # placeholders, replaced by CSS when the SVG is written
CSS = {INK: "currentColor", SOFT: "var(--soft)", LINE: "var(--line)"}
STYLE: dict[Any, Any] = {  # Any: matplotlib's types know every key by its name
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "figure.figsize": (5.2, 3.2),
    "figure.constrained_layout.use": True,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "legend.frameon": False,
}


def colour(fold: int) -> str:
    return COLOURS[fold % len(COLOURS)]


@matplotlib.rc_context(STYLE)
def fold_scores(folds: list[dict], mean: float, references: dict[str, float]) -> str:
    """SVG of the out-of-fold score of each fold, its best and last epoch, their mean, and references.

    folds  as scores.per_fold gives them;  references  label -> score
    """
    figure, ax = _axes("fold", "score")
    at, ends = range(len(folds)), [list(fold["phases"].values())[-1] for fold in folds]
    ax.axhline(mean, color=INK, linewidth=1, label=f"mean {mean:.4f}")
    ax.scatter(
        at, [end["best"]["score"] for end in ends], marker="^", facecolor="none", edgecolor=INK, label="best epoch"
    )
    ax.scatter(at, [end["last"]["score"] for end in ends], marker="_", s=90, color=INK, label="last epoch")
    ax.scatter(
        at,
        [fold["score"] for fold in folds],
        s=60,
        color=[colour(fold["fold"]) for fold in folds],
        zorder=3,
        label="out of fold",
    )
    ax.set_xticks(at, [str(fold["fold"]) for fold in folds])
    ax.set_xlim(-0.6, len(folds) - 0.4)
    for score in references.values():
        ax.axhline(score, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    low, high = ax.get_ylim()
    below = -1.0
    for label, score in sorted(references.items(), key=lambda item: item[1]):
        below = max(score, below + (high - low) / 16)  # labels of neighbouring lines keep their distance
        ax.annotate(
            f"{label} {score:.4f}",
            (1, below),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=SOFT,
        )
    figure.legend(loc="outside upper left", ncols=4, fontsize=9, handletextpad=0.3, columnspacing=1)
    each = ", ".join(f"fold {fold['fold']} {fold['score']:.4f}" for fold in folds)
    return _svg(figure, f"Out-of-fold scores: {each}; mean {mean:.4f}.")


@matplotlib.rc_context(STYLE)
def learning_curves(histories: dict[int, dict[str, pd.DataFrame]], what: str) -> str:
    """SVG of the loss (what='loss') or score (what='score') per epoch, a colour a fold, the phases in a row."""
    figure, ax = _axes("epoch", what)
    lines: dict[str, dict[str, Any]]
    lines = {"loss": {"train_loss": (0, (2, 1.5)), "valid_loss": "-"}, "score": {"meanap": "-"}}
    for fold, phases in histories.items():
        before = 0
        for history in phases.values():
            for column, style in lines[what].items():
                ax.plot(
                    before + history["epoch"],
                    history[column],
                    linestyle=style,
                    color=colour(fold),
                    linewidth=1.4,
                    marker="." if len(history) == 1 else "",
                )
            if what == "score":
                best = history.loc[history["meanap"].idxmax()]
                ax.plot(before + best["epoch"], best["meanap"], "o", color=colour(fold), markersize=5)
            before += len(history)
    before = 0
    for i, (phase, history) in enumerate(next(iter(histories.values())).items()):
        if i:
            ax.axvline(before + 0.5, color=SOFT, linewidth=1, linestyle=":")
        ax.annotate(
            phase,
            (before + 0.5, 1),
            xytext=(4, 2),
            fontsize=9,
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=SOFT,
        )
        before += len(history)
    ax.set_xlim(0.5, before + 0.5)
    ax.xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, f"The {what} of every fold over the epochs of all phases; the table of folds has the numbers.")


@matplotlib.rc_context(STYLE)
def thresholds(scores: dict[float, float], chosen: float) -> str:
    """SVG of the score against the threshold, the chosen one marked."""
    figure, ax = _axes("threshold on the probability", "out-of-fold score")
    ax.axvline(chosen, color=SOFT, linewidth=1, linestyle=":")
    ax.plot(list(scores), list(scores.values()), color=COLOURS[0], marker=".")
    ax.plot(chosen, scores[chosen], "o", color=COLOURS[2], markersize=8)
    ax.annotate(
        f"{chosen:g}: {scores[chosen]:.4f}",
        (chosen, 0),
        xycoords=("data", "axes fraction"),
        xytext=(6, 8),
        textcoords="offset points",
    )
    return _svg(figure, f"Score against threshold; at the chosen {chosen:g} it is {scores[chosen]:.4f}.")


@matplotlib.rc_context(STYLE)
def classes(rows: list[dict]) -> str:
    """SVG of the mean score of each class of salt share, with its number of tiles; rows: see scores.per_class."""
    figure, ax = _axes("salt in the tile: none, or up to … % of it", "mean score")
    bars = ax.bar(
        [row["class"].removeprefix("to ").removesuffix(" %") for row in rows],
        [row["score"] for row in rows],
        color=COLOURS[0],
        width=0.75,
    )
    ax.bar_label(bars, [f"{row['tiles']:,}" for row in rows], fontsize=9, color=SOFT, padding=2)
    ax.set_ylim(0, 1.05)
    return _svg(
        figure,
        "Mean score by salt share: "
        + ", ".join(f"{row['class']} {row['score']:.2f} ({row['tiles']} tiles)" for row in rows)
        + ".",
    )


def png(image: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 -> data URI."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def outline(mask: np.ndarray) -> str:
    """SVG path along the edges between salt and not, in px; what lies outside the tile is not salt. (H, W) bool."""
    framed = np.pad(mask, 1)
    across = _runs(framed[1:, 1:-1] != framed[:-1, 1:-1])
    down = _runs((framed[1:-1, 1:] != framed[1:-1, :-1]).T)
    return "".join([*(f"M{a} {y}H{b}" for y, a, b in across), *(f"M{x} {a}V{b}" for x, a, b in down)])


def _runs(edges: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, start, end) of each run of True."""
    changes = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(changes == 1), np.nonzero(changes == -1)
    return zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)


def _axes(x: str, y: str):
    figure = Figure()
    ax = figure.add_subplot(xlabel=x, ylabel=y)
    ax.tick_params(length=0)
    return figure, ax


def _svg(figure: Figure, words: str) -> str:
    """The figure as an <svg> element that says `words` to who cannot see it; it loads nothing and shares no id."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": words}):  # ids that no other chart has, the same in every run
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    for mark, ink in CSS.items():
        text = text.replace(mark, ink)
    return text.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)
