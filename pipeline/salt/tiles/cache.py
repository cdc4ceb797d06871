"""The decoded tiles on disk: plain arrays that any number of processes map into memory."""

import numpy as np
import pandas as pd

from pipeline.salt.artifacts import Origin, discard, publish
from pipeline.salt.errors import InputError
from pipeline.salt.run import Files
from pipeline.salt.tiles import Tiles

NAMES = ("images.npy", "masks.npy", "test.npy", "tiles.csv")


def write(tiles: Tiles, files: Files, origin: Origin, **extra) -> None:
    """Publish the arrays, then tiles.csv, which says that they are whole; extra: JSON values for its sidecar."""
    arrays = {"images.npy": tiles.train_images, "masks.npy": tiles.train_masks, "test.npy": tiles.test_images}
    if tiles.test_truth is not None:
        arrays["truth.npy"] = tiles.test_truth
    else:
        discard(files.cache("truth.npy"))
    for name, array in arrays.items():
        with publish(files.cache(name), origin) as tmp:
            np.save(tmp, array)
    with publish(files.cache("tiles.csv"), origin, **extra) as tmp:
        tiles.table.to_csv(tmp, index=False)


def read(files: Files) -> Tiles:
    """The tiles that `write` published, memory-mapped. InputError if they are not there."""
    for name in NAMES:
        if not files.cache(name).exists():
            raise InputError(f"{files.cache(name)} is missing; run python -m pipeline.prepare first, same --data")
    images, masks, test = (np.load(files.cache(name), mmap_mode="r") for name in NAMES[:3])
    # ids are text, whatever they look like: "0000000002", "12345e6789", "NA"
    table = pd.read_csv(
        files.cache("tiles.csv"),
        dtype={"id": str, "image": str},
        keep_default_na=False,
        na_values={"coverage": [""], "z": [""]},
    )
    truth = files.cache("truth.npy")
    return Tiles(images, masks, test, table, np.load(truth, mmap_mode="r") if truth.exists() else None)
