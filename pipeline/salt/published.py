"""Read what a run has published: folds, predictions, histories, scores, each checked against what its reader needs."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.salt import artifacts, door, stages
from pipeline.salt.config import Phase
from pipeline.salt.product import Product
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles


def read_folds(run: Run, tiles: Tiles) -> pd.DataFrame:
    """folds.csv: id, fold, coverage, z, in the order of tiles.train_table. InputError if its ids are not."""
    product = stages.folds(run)
    table = _read_rows(product, tiles.train_table, {"fold": int})
    if not table["fold"].between(0, run.profile.folds.k - 1).all():
        raise door.unfit(product.path, product.maker, f"has folds other than 0 to {run.profile.folds.k - 1}")
    return table


def read_neighbours(run: Run) -> pd.DataFrame:
    """neighbours.csv: first and second, the ids of two tiles; no rows unless the scheme is mosaic."""
    for product in stages.neighbours(run)[:1]:
        product.require()
        return door.table(product.path, product.maker, {"first": str, "second": str})
    return pd.DataFrame({"first": [], "second": []}, dtype=str)


def read_predictions(run: Run, tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """oof.npy and test.npy, memory-mapped: (N, H, W), (M, H, W) float16; in oof NaN for tiles of folds not run."""
    oof, test = stages.predictions(run)
    for product in (oof, test):
        product.require()
    held_out = read_folds(run, tiles)["fold"].isin(run.folds).to_numpy()
    return (
        door.probabilities(oof.path, oof.maker, tiles.train_images.shape[:3], held_out),
        door.probabilities(test.path, test.maker, tiles.test_images.shape[:3], np.ones(len(tiles.test_images), bool)),
    )


def read_disagreement(run: Run, tiles: Tiles) -> pd.DataFrame:
    """disagreement.csv: id and disagreement, in the order of tiles.test_table. InputError if its ids are not."""
    return _read_rows(stages.disagreement(run), tiles.test_table, {"disagreement": float})


def _read_rows(product: Product, tiles: pd.DataFrame, columns: dict[str, type]) -> pd.DataFrame:
    """A table of id and these columns. InputError unless it has one row for each of these tiles, in their order."""
    product.require()
    table = door.table(product.path, product.maker, {"id": str} | columns)
    if table["id"].tolist() != tiles["id"].tolist():
        raise door.unfit(product.path, product.maker, "does not have the tiles' ids, each once, in their order")
    return table


def read_history(run: Run, fold: int, phase: Phase) -> pd.DataFrame:
    """History of fold k in this phase, one row per epoch, with the columns of training.callbacks.EpochLog."""
    product = stages.trained(run, fold, phase)["history"]
    product.require()
    numbers = ("train_loss", "valid_loss", "meanap", "lr", "seconds", "tiles_per_second", "memory")
    history = door.table(product.path, product.maker, {"epoch": int} | dict.fromkeys(numbers, float))
    if history["epoch"].tolist() != [*range(1, len(history) + 1)] or not len(history):
        raise door.unfit(product.path, product.maker, "does not have a row for each epoch, from 1 on")
    return history


def trained_file(run: Run, fold: int, phase: Phase, epoch: str = "best") -> Path:
    """Path of fold k's weights, checked; their other settings may differ, and the tiles may be missing: for tools."""
    product = stages.trained(run, fold, phase)[epoch]
    artifacts.check(product.path, product.maker, hashed=True)
    settings = (artifacts.read_sidecar(product.path) or {})["settings"]
    of_fold, of_phase = settings.get("fold"), settings.get("train", {}).get("phase", {}).get("name")
    if (of_fold, of_phase) != (fold, phase.name):
        raise door.unfit(product.path, product.maker, f"holds the weights of fold {of_fold}, phase {of_phase}")
    return product.path


def read_scores(run: Run) -> dict:
    """scores.json."""
    product = stages.report(run)[0]
    product.require()
    return door.values(product.path, product.maker, {"out_of_fold": dict, "folds": list})
