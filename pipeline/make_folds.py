"""Split the training tiles into folds, once per run.

    python -m pipeline.make_folds
    python -m pipeline.make_folds --force --set folds.scheme=coverage     split again, another way
    python -m pipeline.make_folds --set folds.file=my.csv --set folds.k=4      from your own csv: id, fold 0..3

folds.scheme=mosaic puts tiles that continue one another at their borders into one fold, also when only a test tile
links them: a tile predicted out of fold then has no neighbour among its model's training tiles.

reads   data/cache/<source>/tiles.csv; with mosaic also images.npy, test.npy
writes  folds/<run>/folds.csv: id, fold, coverage, z; with mosaic also neighbours.csv (first, second, after: right,
        below or same, clearness), and neighbours.png, a picture of some pairs
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
    product, settings, neighbours = stages.folds(run), run.profile.folds, stages.neighbours(run)
    if up_to_date([*neighbours, product], run.force):
        return
    with disk.making(product.path):
        decoded = cache.read(run.files)
        tiles = decoded.train_table
        table = tiles[["id", "coverage", "z"]].copy()
        if neighbours:
            images = grey_images(decoded)
            pairs = mosaic.neighbours(images)
            tiles["group"] = mosaic.groups(len(images), pairs)[: len(tiles)]
        if settings.file:
            fold, how = own_folds.read(Path(settings.file), tiles, settings.k), f"by {settings.file}"
        else:
            fold = split(tiles, settings.scheme, settings.k, settings.seed)
            how = f"scheme {settings.scheme}, seed {settings.seed}"
        table.insert(1, "fold", fold)
        csv = table.to_csv(index=False).encode()
        if not artifacts.holds(product.path, csv):
            keep_finished([product], run.force)  # models may have been trained on it
        for kind in ("csv", "png"):  # left by another scheme
            artifacts.discard(run.files.neighbours(kind))
        if neighbours:
            publish_neighbours(run, decoded.table["id"].to_numpy(), images, pairs)
        with artifacts.publish(product.path, product.origin(), profile=run.profile.name) as tmp:
            tmp.write_bytes(csv)
    sizes = table["fold"].value_counts()
    print(
        f"split    {disk.display_path(product.path)}: {settings.k} folds of {sizes.min()} to {sizes.max()} tiles, "
        + how
    )


def grey_images(tiles: Tiles) -> np.ndarray:
    """All tiles, train then test: (N + M, H, W) uint8."""
    images = np.concatenate([tiles.train_images, tiles.test_images])
    return images if images.ndim == 3 else images.mean(axis=-1).astype(np.uint8)


def publish_neighbours(run: Run, ids: np.ndarray, images: np.ndarray, pairs: list[mosaic.Pair]) -> None:
    """Publish the pairs of neighbours as a table and a picture, from images (N + M, H, W) uint8 and ids (N + M,)."""
    found = pd.DataFrame(pairs, columns=mosaic.Pair._fields)
    in_table, in_picture = stages.neighbours(run)
    with artifacts.publish(in_table.path, in_table.origin()) as tmp:
        found.assign(first=ids[found["first"]], second=ids[found["second"]]).to_csv(
            tmp, index=False, float_format="%.3g"
        )
    with artifacts.publish(in_picture.path, in_picture.origin()) as tmp:
        Image.fromarray(mosaic.sheet(images, pairs)).save(tmp, "PNG")
    groups = mosaic.groups(len(images), pairs).max(initial=-1) + 1
    print(
        f"mosaic   {disk.display_path(in_picture.path)}: {len(pairs)} pairs of neighbours join {len(images)} tiles "
        f"to {groups} groups"
    )


if __name__ == "__main__":
    cli.start(main)
