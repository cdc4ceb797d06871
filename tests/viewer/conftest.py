"""Fixtures: galleries of drawn tiles, and of the tiny run."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from pipeline.salt.config import Submit
from pipeline.salt.viewer import gallery as viewer
from pipeline.salt.viewer.gallery import Gallery, Split, count


@pytest.fixture(scope="session")
def gallery(finished) -> Gallery:
    return viewer.load(finished[0].parse())


@pytest.fixture(scope="session")
def drawn_gallery() -> Callable[..., Gallery]:
    """draw(height, width, colours, truth): small tiles of every kind, with ids as an attacker would choose them."""
    return draw


def draw(height: int = 7, width: int = 5, colours: int = 3, truth: bool = False) -> Gallery:
    rng = np.random.default_rng(0)
    shape = (6, height, width)
    images = rng.integers(1, 256, (*shape, colours)[: 4 if colours > 1 else 3], dtype=np.uint8)
    probs = rng.random(shape).astype(np.float16)
    masks = (probs > 0.5) ^ (rng.random(shape) < 0.1)
    probs[1], masks[2], probs[3] = 1, False, 0
    probs[4] *= np.float16(0.7)
    splits = {"oof": Split(images, probs, masks), "test": Split(images[::-1], probs[::-1], masks if truth else None)}
    rows = [0, 1, 2, 4, 5]
    table = pd.DataFrame(
        {
            "id": ["<img src=x onerror=alert(1)>", "../../etc/passwd", "&amp;\"'", "#tile=1", "a b%20c", *"uvwxyz"],
            "split": ["oof"] * 5 + ["test"] * 6,
            "row": [*rows, *range(6)],
            "fold": [0, 0, 1, 1, 1, *[np.nan] * 6],
            "z": [100, 200, 300, np.nan, 500, *range(6)],
            "black": [True] + [False] * 10,
            "disagreement": [np.nan] * 5 + [0.1] * 6,
        }
    )
    thresholds = (0.25, 0.5, 0.75)
    counts, uncertainty = count(splits, table, thresholds)
    table["uncertainty"], table["coverage"] = (
        uncertainty,
        np.where(counts.salt < 0, np.nan, counts.salt / counts.pixels),
    )
    return Gallery("<b>run</b>", "about", splits, table, counts, thresholds, 1, Submit())
