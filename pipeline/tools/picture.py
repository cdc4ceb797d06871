"""Draw tiles of a run as a grid for a page or a talk: image, truth, probability and predicted mask.

    python -m pipeline.tools.picture --profile demo
    python -m pipeline.tools.picture --profile demo --tiles 4 --to docs/images/tiles.png

reads   folds/<run>/oof.npy, submissions/<run>/submission.csv.gz (its threshold), data/cache/<source>/
Each tile is predicted by the model that never saw it. Tiles are chosen by their share of salt, from 0 to 0.9,
whatever their scores.
"""

import argparse
from pathlib import Path

import numpy as np

from pipeline.salt import cli, disk, published, stages
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tiles", type=int, default=6, help="how many (default: 6)")
        parser.add_argument("--to", type=Path, metavar="FILE", help="where the PNG goes (default: <run>.png)")

    run, args = cli.parse(__doc__, argv, add, cli.RUN_FLAGS)
    from pipeline.salt.reporting import figures, scores

    threshold, tiles = stages.submission(run).sidecar()["threshold"], cache.read(run.files)
    probs, table = published.read_predictions(run, tiles)[0], tiles.train_table
    predictions = scores.Predictions(tiles.train_images, probs, tiles.train_masks, threshold, run.profile.submit)
    known = table[np.isfinite(probs[:, 0, 0]) & ~table["black"]].sort_values("id")
    if not 1 <= args.tiles <= len(known):
        raise InputError(
            f"--tiles {args.tiles}: take 1 to {len(known)}, the number of tiles that the run has predicted"
        )
    shares = known["coverage"].to_numpy() - np.linspace(0, 0.9, args.tiles)[:, None]
    chosen = known.iloc[np.abs(shares).argmin(axis=1)]
    picture = figures.grid(
        {
            "image": tiles.train_images[chosen.index],
            "truth": tiles.train_masks[chosen.index],
            "probability": probs[chosen.index],
            "mask": predictions.masks(chosen),
        }
    )
    path = args.to or Path(f"{run.files.run}.png")
    with disk.replacing(path) as tmp:
        picture.save(tmp, "PNG", optimize=True)
    print(f"drawn    {path}")


if __name__ == "__main__":
    cli.start(main)
