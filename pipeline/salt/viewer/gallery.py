"""The data behind the viewer: the tiles of a run with their numbers, pixels, and scores at every threshold."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.salt import artifacts, published, stages
from pipeline.salt.config import Submit
from pipeline.salt.door import ONE
from pipeline.salt.folds import coverage_class
from pipeline.salt.metrics import score_of_counts
from pipeline.salt.parts import slices
from pipeline.salt.progress import progress_bar
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache

THRESHOLDS = tuple(k / 100 for k in range(1, 100))
NUMBERS = np.arange(2**16, dtype=np.uint16).view(np.float16)  # all float16s, indexed by their bits; in [0, 1] ascending


@dataclass(frozen=True)
class Split:
    """Arrays of the out-of-fold tiles, or of the test tiles; they may be memory maps.

    images  (N, H, W) grey or (N, H, W, 3) RGB uint8;  probs  (N, H, W) float16 in [0, 1]
    truth   (N, H, W) bool, None if unknown
    """

    images: np.ndarray
    probs: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class Counts:
    """Numbers of pixels in N tiles, from which scores at T thresholds follow at once.

    found  (N, T) int32 pixels with a probability above each threshold;  hits  (N, T) int32 those of them that are salt
    salt   (N,) int32 pixels of salt in truth, -1 if unknown;  pixels  all pixels of one tile
    """

    found: np.ndarray
    hits: np.ndarray
    salt: np.ndarray
    pixels: int


@dataclass(frozen=True)
class Gallery:
    """The tiles of a run, as the viewer needs them.

    name, about  of the run
    splits       the arrays of 'oof' and 'test'
    tiles        one row per tile: id, split, row (in the split's arrays), fold, z, coverage, black, disagreement,
                 uncertainty (mean over the pixels of 4 p (1 - p), in [0, 1]); NaN where unknown
    counts       of these tiles at `thresholds`, which ascend;  start  index of the submission's threshold
    rules        which masks a submission leaves empty; its `peak`, if there is one, is among the thresholds
    """

    name: str
    about: str
    splits: dict[str, Split]
    tiles: pd.DataFrame
    counts: Counts
    thresholds: tuple[float, ...]
    start: int
    rules: Submit

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, channels) of an image."""
        height, width, *channels = self.splits["test"].images.shape[1:]
        return height, width, *(channels or [1])

    def scores(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and predicted shares, both (N,), of the masks that a submission would have at thresholds[index].

        scores  in [0, 1], NaN where truth is unknown;  predicted  share of pixels, in [0, 1]
        """
        counts, found = self.counts, self.counts.found[:, index]
        empty = self.tiles["black"].to_numpy() & self.rules.black_empty
        empty = empty | (self.rules.full_empty & (found == counts.pixels))
        if self.rules.peak:
            empty = empty | (counts.found[:, self.thresholds.index(self.rules.peak)] == 0)
        found, hits = (np.where(empty, 0, some) for some in (found, counts.hits[:, index]))
        scores = score_of_counts(hits, found + counts.salt.clip(0) - hits)
        return np.where(counts.salt < 0, np.nan, scores), found / counts.pixels

    def pooled(self, scores: np.ndarray) -> dict[str, float | None]:
        """Mean of `scores` over each split, rounded as in scores.json; None if truth is unknown."""
        of_split = {split: scores[(self.tiles["split"] == split).to_numpy()] for split in self.splits}
        return {
            split: round(float(own.mean()), 6) if len(own) and np.isfinite(own).all() else None
            for split, own in of_split.items()
        }

    def pixels(self, indices: list[int]) -> bytes:
        """Bytes of these tiles: all probabilities (little-endian float16), all images, then all truths (0 or 1)."""
        rows = self.tiles["row"].to_numpy()[indices]
        splits = [self.splits[split] for split in self.tiles["split"].to_numpy()[indices]]
        probs = [split.probs[row].astype("<f2").tobytes() for split, row in zip(splits, rows, strict=True)]
        images = [split.images[row].tobytes() for split, row in zip(splits, rows, strict=True)]
        truths = [
            bytes(self.counts.pixels) if split.truth is None else split.truth[row].tobytes()
            for split, row in zip(splits, rows, strict=True)
        ]
        return b"".join([*probs, *images, *truths])


def load(run: Run) -> Gallery:
    """The gallery of a predicted run; every probability is read once. InputError if `predict` has not been run."""
    for product in stages.predictions(run):
        product.require()
    tiles = cache.read(run.files)
    folds, (oof, test) = published.read_folds(run, tiles), published.read_predictions(run, tiles)
    splits = {
        "oof": Split(tiles.train_images, oof, tiles.train_masks),
        "test": Split(tiles.test_images, test, tiles.test_truth),
    }
    labelled = tiles.train_table.assign(split="oof", fold=folds["fold"])
    disagreement = published.read_disagreement(run, tiles)["disagreement"]
    unlabelled = tiles.test_table.assign(disagreement=disagreement)
    parts = (labelled[labelled["fold"].isin(run.folds)], unlabelled)
    table = pd.concat([part.rename_axis("row").reset_index() for part in parts], ignore_index=True)
    rules, submitted = run.profile.submit, stages.submission(run)
    sidecar = (artifacts.read_sidecar(submitted.path) if submitted.is_fresh() else None) or {}
    threshold = sidecar.get("threshold", rules.threshold)
    threshold = 0.5 if isinstance(threshold, str) else threshold  # 'search', but there is no submission yet
    thresholds = tuple(sorted({*THRESHOLDS, threshold, rules.peak or threshold}))
    counts, uncertainty = count(splits, table, thresholds)
    coverage = np.where(counts.salt < 0, np.nan, counts.salt / counts.pixels)
    return Gallery(
        name=run.files.run,
        about=f"profile {run.profile.name}, tiles of {run.files.source}",
        splits=splits,
        tiles=table.assign(coverage=coverage, uncertainty=uncertainty),
        counts=counts,
        thresholds=thresholds,
        start=thresholds.index(threshold),
        rules=rules,
    )


def count(splits: dict[str, Split], table: pd.DataFrame, thresholds: tuple[float, ...]) -> tuple[Counts, np.ndarray]:
    """Counts of the tiles in `table` (split, row), and each tile's mean over the pixels of 4 p (1 - p), (N,)."""
    exceeded = np.array([t < NUMBERS for t in thresholds]).sum(axis=0, dtype=np.uint8)  # thresholds below each float16
    p = np.where(NUMBERS <= 1, NUMBERS, 0.5).astype(np.float32).clip(0)  # NaN counts as most uncertain
    spread = 4 * p * (1 - p)
    levels = len(thresholds) + 1
    parts = []
    with progress_bar(len(table), "counting") as bar:
        for name, rows in table.groupby("split", sort=False)["row"]:
            split = splits[name]
            for part in slices(len(rows), split.probs.shape[1:]):
                some = rows.iloc[part].to_numpy()
                bits = np.asarray(split.probs[some]).view(np.uint16).reshape(len(some), -1)
                truth = np.zeros(bits.shape, bool) if split.truth is None else split.truth[some].reshape(bits.shape)
                group = (2 * np.arange(len(some))[:, None] + truth) * levels + exceeded[bits]
                histogram = np.bincount(group.ravel(), minlength=2 * len(some) * levels).reshape(-1, 2, levels)
                above = histogram[..., ::-1].cumsum(axis=-1)[..., ::-1].astype(np.int32)
                salt = np.full(len(some), -1, np.int32) if split.truth is None else above[:, 1, 0]
                parts.append((above.sum(axis=1)[:, 1:], above[:, 1, 1:], salt, spread[bits].mean(axis=1)))
                bar.update(len(some))
    found, hits, salt, uncertainty = (np.concatenate(part) for part in zip(*parts, strict=True))
    height, width = splits["oof"].probs.shape[1:]
    return Counts(found, hits, salt, height * width), uncertainty


def first_bits(threshold: float) -> int:
    """Bits of the smallest float16 in [0, 1] that is above `threshold`; if there is none, the bits of 1, plus one."""
    above = NUMBERS[: ONE + 1] > threshold
    return int(above.argmax()) if above.any() else ONE + 1


def salt_classes(coverage: pd.Series) -> pd.Series:
    """Class 0..10 of each tile's salt share, as in the report; NaN if unknown."""
    return pd.Series(coverage_class(coverage.fillna(0)), coverage.index).where(coverage.notna())
