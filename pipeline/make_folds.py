"""Split the training tiles into folds, once and for all.

    python -m pipeline.make_folds
    python -m pipeline.make_folds --force --set folds.scheme=coverage     split anew
    python -m pipeline.make_folds --set folds.file=my.csv --set folds.k=4      by your own csv: id, fold 0..3

With folds.scheme=mosaic tiles that continue one another at their borders, test tiles among them, are in one fold: no
neighbour of a tile that is predicted out of fold has been trained on.

reads   data/cache/<source>/tiles.csv; with mosaic images.npy, test.npy
writes  folds/<run>/folds.csv: id, fold, coverage, z; with mosaic neighbours.csv (first, second, after: right, below or
        same, clearness), and neighbours.png with some of them, to look at
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.salt import artifacts, cli, disk, mosaic, stages
from pipeline.salt.folds import split
from pipeline.salt.product import keep_finished, up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles, cache, own_folds


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    product, settings, pairs = stages.folds(run), run.profile.folds, stages.neighbours(run)
    keep_finished([product], run.force)  # models may have been trained on it
    if up_to_date([*pairs, product], run.force):
        return
    with disk.making(product.path):
        for kind in ("csv", "png"):  # of another scheme
            artifacts.discard(run.files.neighbours(kind))
        decoded = cache.read(run.files)
        tiles = decoded.train_table
        table = tiles[["id", "coverage", "z"]].copy()
        if settings.file:
            fold, how = own_folds.read(Path(settings.file), tiles, settings.k), f"by {settings.file}"
        else:
            if pairs:
                tiles["group"] = group_neighbours(run, decoded)[: len(tiles)]
            fold = split(tiles, settings.scheme, settings.k, settings.seed)
            how = f"scheme {settings.scheme}, seed {settings.seed}"
        table.insert(1, "fold", fold)
        with artifacts.publish(product.path, product.origin(), profile=run.profile.name) as tmp:
            table.to_csv(tmp, index=False)
    sizes = table["fold"].value_counts()
    print(
        f"split    {disk.display_path(product.path)}: {settings.k} folds of {sizes.min()} to {sizes.max()} tiles, "
        + how
    )


def group_neighbours(run: Run, tiles: Tiles) -> np.ndarray:
    """The group (N + M,) of each tile, train then test; the pairs that join them are published."""
    images = np.concatenate([tiles.train_images, tiles.test_images])
    grey = images if images.ndim == 3 else images.mean(axis=-1).astype(np.uint8)
    pairs, ids = mosaic.neighbours(grey), tiles.table["id"].to_numpy()
    found = pd.DataFrame(pairs, columns=mosaic.Pair._fields)
    in_table, in_picture = stages.neighbours(run)
    with artifacts.publish(in_table.path, in_table.origin()) as tmp:
        found.assign(first=ids[found["first"]], second=ids[found["second"]]).to_csv(
            tmp, index=False, float_format="%.3g"
        )
    with artifacts.publish(in_picture.path, in_picture.origin()) as tmp:
        Image.fromarray(mosaic.sheet(grey, pairs)).save(tmp, "PNG")
    group = mosaic.groups(len(grey), pairs)
    print(
        f"mosaic   {disk.display_path(in_picture.path)}: {len(pairs)} pairs of neighbours join {len(grey)} tiles "
        f"to {group.max(initial=-1) + 1} groups"
    )
    return group


if __name__ == "__main__":
    cli.start(main)
