"""Pictures for the report: charts as inline SVG, tiles as PNG with outlines in SVG.

Charts take their colours from the report's CSS (currentColor, --soft and --line), so they suit light and dark mode.
"""

import base64
import html
import io
import re
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

# Colours that colour-blind readers can also tell apart. Source: Petroff 2021, https://arxiv.org/abs/2107.02270
BLUE, ORANGE, RED, GREY = "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2"
HEAT, OPACITY = (216, 27, 96), 150  # colour of the probability layer, and its opacity (of 255) at probability 1
KINDS = {"missed": BLUE, "invented": ORANGE, "shape": GREY}  # kinds of error

# Longest side of a picture in px, largest PNG or outline in bytes: even with noise, the page stays below 2 MB.
LONGEST, HEAVIEST = 128, 12_000

INK, SOFT, LINE = "#010203", "#010204", "#010205"  # placeholders, replaced by the CSS colours in `_svg`
CSS = {INK: "currentColor", SOFT: "var(--soft)", LINE: "var(--line)"}
STYLE: dict[Any, Any] = {  # Any, because matplotlib types each key by its name
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


@matplotlib.rc_context(STYLE)
def fold_scores(folds: list[dict], mean: float, references: dict[str, float]) -> str:
    """SVG of each fold's score out of fold and at its best and last epoch, with the mean and reference scores.

    folds  as returned by scores.per_fold;  mean  of the out-of-fold scores;  references  label -> score
    """
    figure, ax = _axes("fold", "score")
    at, ends = range(len(folds)), [list(fold["phases"].values())[-1] for fold in folds]
    ax.axhline(mean, color=INK, linewidth=1, label=f"mean {mean:.4f}")
    ax.scatter(
        at, [end["best"]["score"] for end in ends], marker="^", facecolor="none", edgecolor=INK, label="best epoch"
    )
    ax.scatter(at, [end["last"]["score"] for end in ends], marker="_", s=90, color=INK, label="last epoch")
    ax.scatter(at, [fold["score"] for fold in folds], s=60, color=BLUE, zorder=3, label="out of fold")
    ax.set_xticks(at, [str(fold["fold"]) for fold in folds])
    ax.set_xlim(-0.6, len(folds) - 0.4)
    for score in references.values():
        ax.axhline(score, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)))
    low, high = ax.get_ylim()
    below = -1.0
    for label, score in sorted(references.items(), key=lambda item: item[1]):
        below = max(score, below + (high - low) / 16)  # so that the labels of close lines do not overlap
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
def curves(histories: dict[int, dict[str, pd.DataFrame]], y: str, columns: dict[str, str]) -> str:
    """SVG of history columns per epoch, one phase after the other: mean, range and (thin) each of the folds.

    histories  fold -> phase -> what callbacks.EpochLog records;  columns  column -> its name in the legend
    If scores of several folds are drawn, the fold with the lowest score at the end of a phase is labelled.
    """
    figure, ax = _axes("epoch", y)
    before = 0
    phases = list(next(iter(histories.values())))
    for i, phase in enumerate(phases):
        for (column, label), colour in zip(columns.items(), (BLUE, ORANGE), strict=False):
            table = pd.DataFrame({fold: each[phase].set_index("epoch")[column] for fold, each in histories.items()})
            epochs, marker = before + table.index, "." if len(table) == 1 else ""
            if len(histories) > 1:
                ax.fill_between(epochs, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.2, linewidth=0)
                ax.plot(epochs, table, color=colour, linewidth=0.6, alpha=0.55, marker=marker)
            ax.plot(epochs, table.mean(axis=1), color=colour, linewidth=2, marker=marker, label="" if i else label)
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
        before += len(table)
        if len(histories) > 1 and "meanap" in columns:
            lowest = table.iloc[-1].idxmin()
            ax.annotate(
                f"fold {lowest}",
                (before, table[lowest].iloc[-1]),
                xytext=(0, -4),
                textcoords="offset points",
                fontsize=9,
                ha="right",
                va="top",
                color=SOFT,
            )
    if len(columns) > 1:
        figure.legend(loc="outside upper left", ncols=len(columns), fontsize=9, handletextpad=0.5, columnspacing=1)
    ax.set_xlim(0.5, before + 0.5)
    ax.xaxis.get_major_locator().set_params(integer=True)
    last = table.mean(axis=1).iloc[-1]
    words = f"{y} per epoch of the phases {', '.join(phases)}, mean and range of {len(histories)} folds"
    return _svg(figure, f"{words}; in the last epoch {columns[column]} is {last:.4g}.")


@matplotlib.rc_context(STYLE)
def thresholds(scores: dict[float, float], chosen: float) -> str:
    """SVG of the score against the threshold, with the chosen threshold marked."""
    figure, ax = _axes("threshold on the probability", "out-of-fold score")
    ax.axvline(chosen, color=SOFT, linewidth=1, linestyle=":")
    ax.plot(list(scores), list(scores.values()), color=BLUE, marker=".")
    ax.plot(chosen, scores[chosen], "o", color=RED, markersize=8)
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
    """SVG of the mean score and number of tiles in each class of salt share; rows: see scores.per_class."""
    figure, ax = _axes("salt in the tile: none, or up to … % of it", "mean score")
    bars = ax.bar(_class_names(rows), [row["score"] for row in rows], color=BLUE, width=0.75)
    ax.bar_label(bars, [f"{row['tiles']:,}" for row in rows], fontsize=9, color=SOFT, padding=2)
    ax.set_ylim(0, 1.05)
    return _svg(
        figure,
        "Mean score by salt share: "
        + ", ".join(f"{row['class']} {row['score']:.2f} ({row['tiles']} tiles)" for row in rows)
        + ".",
    )


@matplotlib.rc_context(STYLE)
def losses(rows: list[dict]) -> str:
    """SVG of the score lost in each class of salt share, by kind of error; rows: see scores.per_class."""
    figure, ax = _axes("salt in the tile: none, or up to … % of it", "part of the score that is lost")
    names, bottom = _class_names(rows), np.zeros(len(rows))
    totals = {kind: sum(row["lost"][kind] for row in rows) for kind in KINDS}
    for kind, colour in KINDS.items():
        part = np.array([row["lost"][kind] for row in rows])
        label = f"{'wrong shape' if kind == 'shape' else kind} {totals[kind]:.4f}"
        ax.bar(names, part, bottom=bottom, color=colour, width=0.75, label=label)
        bottom += part
    figure.legend(loc="outside upper left", ncols=3, fontsize=9, handletextpad=0.5, columnspacing=1)
    each = ", ".join(f"{row['class']} {part:.4f}" for row, part in zip(rows, bottom, strict=True))
    return _svg(figure, f"Part of the score that is lost, by salt share: {each}.")


@matplotlib.rc_context(STYLE)
def differences(rows: list[dict], first: str, second: str) -> str:
    """SVG of the second run's gain over the first in each class of salt share; rows: see comparison.by_class."""
    figure, ax = _axes("salt in the tile: none, or up to … % of it", f"{second} - {first}, mean score")
    colours = [BLUE if row["mean"] >= 0 else ORANGE for row in rows]
    labels = _class_names(rows)
    ax.bar(labels, [row["mean"] for row in rows], color=colours, width=0.75)
    ax.errorbar(labels, [row["mean"] for row in rows], [row["se"] for row in rows], fmt="none", ecolor=INK, capsize=3)
    ax.axhline(0, color=SOFT, linewidth=1)
    for label, row in zip(labels, rows, strict=True):
        ax.annotate(
            f"{row['tiles']:,}",
            (label, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=9,
            color=SOFT,
        )
    each = ", ".join(f"{row['class']} {row['mean']:+.3f} ({row['tiles']} tiles)" for row in rows)
    return _svg(figure, f"{second} - {first} by salt share: {each}.")


@matplotlib.rc_context(STYLE)
def score_pairs(scores: np.ndarray, first: str, second: str) -> str:
    """SVG of the two runs' scores (N, 2) of each tile, as dots whose area is the number of tiles."""
    figure, ax = _axes(f"score with {first}", f"score with {second}")
    pairs, counts = np.unique(np.rint(10 * scores).astype(int), axis=0, return_counts=True)
    change = np.sign(pairs[:, 1] - pairs[:, 0])
    ax.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    area = np.maximum(600 * counts / counts.max(), 4)
    for side, colour in ((change > 0, BLUE), (change < 0, ORANGE), (change == 0, GREY)):
        ax.scatter(*(pairs[side].T / 10), s=area[side], color=colour, alpha=0.75, linewidth=0)
    ax.set(xlim=(-0.08, 1.08), ylim=(-0.08, 1.08))
    ax.grid(True, axis="both")
    equal = int(counts[pairs[:, 0] == pairs[:, 1]].sum())
    return _svg(figure, f"Scores of {len(scores)} tiles with {first} and with {second}; {equal} have the same.")


def reduced(tile: np.ndarray) -> np.ndarray:
    """The tile (H, W, ...), reduced to every n-th pixel if its longer side is over LONGEST px."""
    n = -(-max(tile.shape[:2]) // LONGEST)
    return np.asarray(tile[::n, ::n])


def picture(image: np.ndarray) -> str:
    """An image (H, W) or (H, W, 3) uint8 as a data URI: PNG, or JPEG if the PNG would be too large."""
    png = _data_uri(image, "PNG", optimize=True)
    return png if len(png) <= HEAVIEST * 4 / 3 else _data_uri(image, "JPEG", quality=80)


def heat(probs: np.ndarray) -> str:
    """Probabilities (H, W) in [0, 1] as data URI of a one-colour PNG to overlay a tile, more opaque where higher."""
    levels = 16  # 4 bits a pixel
    layer = Image.fromarray((np.nan_to_num(probs.astype(np.float32)) * (levels - 1)).round().astype(np.uint8))
    layer.putpalette(HEAT * levels)
    return _data_uri(
        layer, "PNG", optimize=True, bits=4, transparency=bytes(OPACITY * i // (levels - 1) for i in range(levels))
    )


def grid(rows: dict[str, np.ndarray]) -> Image.Image:
    """Tiles side by side, one row per name: images (n, H, W) or (n, H, W, 3) uint8, masks bool, probabilities float.

    Probabilities are coloured with viridis, from dark at 0 to yellow at 1.
    """
    viridis = matplotlib.colormaps["viridis"]
    gap, left = 4, 84  # px between tiles, px for the names at the left
    cells = [[reduced(tile) for tile in tiles] for tiles in rows.values()]
    height, width = cells[0][0].shape[:2]
    size = left + len(cells[0]) * (width + gap) - gap, len(cells) * (height + gap) - gap
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for row, (name, tiles) in enumerate(zip(rows, cells, strict=True)):
        top = row * (height + gap)
        draw.text((2, top + height // 2), name, "black", font, "lm")
        for column, tile in enumerate(tiles):
            shown = viridis(tile.astype(float), bytes=True)[..., :3] if tile.dtype.kind == "f" else tile
            picture.paste(Image.fromarray(shown), (left + column * (width + gap), top))
    return picture


def outline(mask: np.ndarray, scale: int = 1) -> str:
    """SVG path, in px, along the edges of the salt in a mask (H, W) bool; outside the tile there is no salt.

    If the path would be too long, every second pixel is left out; scale: px of the tile per pixel of this mask.
    """
    framed = np.pad(mask, 1)
    across = [edge * scale for edge in _runs(framed[1:, 1:-1] != framed[:-1, 1:-1])]
    down = [edge * scale for edge in _runs((framed[1:-1, 1:] != framed[1:-1, :-1]).T)]
    path = "".join([*(f"M{a} {y}H{b}" for y, a, b in across), *(f"M{x} {a}V{b}" for x, a, b in down)])
    return path if len(path) <= HEAVIEST else outline(mask[::2, ::2], 2 * scale)


def _runs(edges: np.ndarray) -> np.ndarray:
    """(n, 3): row, start and end of each run of True."""
    changes = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, ends) = np.nonzero(changes == 1), np.nonzero(changes == -1)
    return np.stack([rows, starts, ends], axis=1)


def _data_uri(image: np.ndarray | Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


def _class_names(rows: list[dict]) -> list[str]:
    """Short names of the classes of salt share, for an axis: 'none', '10', '20' ..."""
    return [row["class"].removeprefix("to ").removesuffix(" %") for row in rows]


def _axes(x: str, y: str):
    figure = Figure()
    ax = figure.add_subplot(xlabel=x, ylabel=y)
    ax.tick_params(length=0)
    return figure, ax


def _svg(figure: Figure, words: str) -> str:
    """The figure as an <svg> element with `words` for screen readers; it loads nothing and shares no id with others."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": words}):  # makes ids unique to this chart, and equal in every run
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    rounded = re.compile(r"(\d+\.\d)\d+")  # to a tenth of a point: invisible, and halves the size
    text = re.sub(r' d="[^"]*"', lambda d: rounded.sub(r"\1", d.group()), text)
    for mark, ink in CSS.items():
        text = text.replace(mark, ink)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words)}" ', 1)
