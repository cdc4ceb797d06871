"""Read your own folds from a csv (id, fold), and check every row."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.salt.errors import InputError
from pipeline.salt.tiles import files
from pipeline.salt.tiles.files import Faults


def read(path: Path, tiles: pd.DataFrame, k: int) -> np.ndarray:
    """(N,) folds 0..k-1 of the labelled tiles; rows name tiles, or images that were cut. InputError lists faults."""
    if not path.is_file():
        raise InputError(f"folds.file={path}: {files.not_a_file(path) or 'there is no such file'}")
    faults, ids = Faults(), tiles["image" if "image" in tiles else "id"]
    rows, folds = files.csv_rows(path, "fold", faults), {}
    for name, text in rows.items():
        try:
            if not 0 <= (fold := files.whole_number(text)) < k:
                raise ValueError
            folds[name] = fold
        except ValueError:
            fault = f"has the fold {text[:40]!r}; with folds.k={k}, a fold must be 0 to {k - 1}"
            faults.add(path.name, fault, name)
    if rows:
        for name in sorted({*ids} - rows.keys()):
            faults.add(path.name, "has no row, but every labelled image needs one", name)
        for name in sorted(rows.keys() - {*ids}):
            faults.add(path.name, "is not a labelled image; remove its row", name)
    for fold in sorted({*range(k)} - {*folds.values()} if rows else ()):
        faults.add(path.name, f"has no image in fold {fold}; with folds.k={k}, each fold from 0 to {k - 1} needs one")
    faults.raise_if_any(path.parent)
    return ids.map(folds).to_numpy()
