"""The decoded tiles on disk: plain arrays that any number of processes map into memory."""

import contextlib

import numpy as np

from pipeline.salt import door
from pipeline.salt.artifacts import Origin, discard, publish, read_sidecar
from pipeline.salt.errors import InputError
from pipeline.salt.run import Files
from pipeline.salt.tiles import Tiles

NAMES = ("images.npy", "masks.npy", "test.npy", "tiles.csv")
TRUTH = "truth.npy"  # only if the test tiles' masks are known
MAKER = "prepare"


def write(tiles: Tiles, files: Files, origin: Origin, **extra) -> None:
    """Publish the arrays, then tiles.csv, which marks them as complete; extra: JSON values for its sidecar."""
    arrays = {"images.npy": tiles.train_images, "masks.npy": tiles.train_masks, "test.npy": tiles.test_images}
    if tiles.test_truth is not None:
        arrays[TRUTH] = tiles.test_truth
    else:
        discard(files.cache(TRUTH))
    for name, array in arrays.items():
        with publish(files.cache(name), origin) as tmp:
            np.save(tmp, array)
    with publish(files.cache("tiles.csv"), origin, **extra, truth=tiles.test_truth is not None) as tmp:
        tiles.table.to_csv(tmp, index=False)


def has_truth(files: Files) -> bool:
    """Whether `write` published the test tiles' masks; the file itself may have been lost since."""
    with contextlib.suppress(InputError):  # `read` reports it
        return (read_sidecar(files.cache("tiles.csv")) or {}).get("truth", files.cache(TRUTH).exists())
    return False


def read(files: Files) -> Tiles:
    """The tiles that `write` published, memory-mapped. InputError if a file is missing, damaged or does not fit."""
    path = files.cache("tiles.csv")
    columns = {"id": str, "split": str, "z": object, "coverage": float, "black": bool}
    table = door.table(path, MAKER, columns, text=("image",))
    n, m = (table["split"] == "train").sum(), (table["split"] == "test").sum()
    if n + m != len(table) or not table["id"].is_unique:
        raise door.unfit(path, MAKER, "has tiles that are neither train nor test, or that are listed twice")
    images = door.array(files.cache("images.npy"), MAKER, np.uint8, (n, None, None))
    masks = door.array(files.cache("masks.npy"), MAKER, np.bool_, images.shape[:3])
    test = door.array(files.cache("test.npy"), MAKER, np.uint8, (m, *images.shape[1:]))
    truth = door.array(files.cache(TRUTH), MAKER, np.bool_, test.shape[:3]) if has_truth(files) else None
    return Tiles(images, masks, test, table, truth)
