"""Tiles: read Kaggle's or your own, generate synthetic ones; check, cache, resize, augment and batch them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Tiles:
    """A data set: N labelled (train) tiles and M test tiles, decoded. The arrays may be read-only memory maps.

    train_images  (N, H, W) uint8 grey, or (N, H, W, 3) RGB; H and W are those of the set, 101 for Kaggle's
    train_masks   (N, H, W) bool, True where there is salt
    test_images   (M, H, W) or (M, H, W, 3) uint8, like train_images
    table         id, split ('train' or 'test'), z (depth, NaN where unknown), coverage (salt share in [0, 1], NaN for
                  test), black (bool): N train rows sorted by id, then M test rows in the order of the submission
    test_truth    (M, H, W) bool masks of the test tiles if they are known (generated tiles), else None
    """

    train_images: np.ndarray
    train_masks: np.ndarray
    test_images: np.ndarray
    table: pd.DataFrame
    test_truth: np.ndarray | None = None

    @property
    def train_table(self) -> pd.DataFrame:
        """The rows of the table that describe train_images and train_masks."""
        return self.table[self.table["split"] == "train"].reset_index(drop=True)

    @property
    def test_table(self) -> pd.DataFrame:
        """The rows of the table that describe test_images and test_truth."""
        return self.table[self.table["split"] == "test"].reset_index(drop=True)
