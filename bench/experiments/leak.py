"""How much random folds flatter: one recipe trained on them and on folds of whole mosaics, compared tile by tile.

    python -m bench.experiments.leak --data DIR --weights DIR --seed 0

Random folds, the article's (kfold) or by coverage, train on tiles that continue a validation tile;
`folds.scheme=mosaic` keeps such tiles together. Five folds of each, the lean U-Net at 64 px for six epochs: twenty
minutes of one core per scheme. Resumable.

writes  bench/results/leak.json: one entry per seed and scheme, with the score of each tile
"""

import argparse
import json

import numpy as np
import torch

from bench.experiments.ablation import DIGITS, VARIANTS, held_out_masks, prepared_run, profile_of
from bench.harness.records import RESULTS, machine_name, provenance
from pipeline.salt import cli
from pipeline.salt.device import pick_device
from pipeline.salt.metrics import tile_scores
from pipeline.salt.mosaic import neighbours
from pipeline.salt.overrides import changed
from pipeline.salt.published import read_folds
from pipeline.salt.tiles import cache
from pipeline.train import train_fold

FILE = RESULTS / "leak.json"
SCHEMES = ("mosaic", "kfold", "coverage")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", metavar="DIR", default="sample", help="folder with Kaggle's files")
    parser.add_argument("--weights", metavar="DIR", help="folder with ImageNet weights, or 'none'")
    parser.add_argument("--out", metavar="DIR", default="folds/leak", help="where trainings are kept")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    records = json.loads(FILE.read_text()) if FILE.exists() else []
    for scheme in SCHEMES:
        if any((record["seed"], record["scheme"]) == (args.seed, scheme) for record in records):
            print(f"known    {scheme}, seed {args.seed}")
            continue
        records.append(measure(scheme, args))
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    print(table([record for record in records if record["seed"] == args.seed]))


def measure(scheme: str, args: argparse.Namespace) -> dict:
    """Train all folds of the scheme, and score each tile out of fold at 101 px."""
    profile = changed(profile_of(VARIANTS["base"], "screen", args.seed), f"folds.scheme={scheme}")
    run = prepared_run(f"{scheme}-{args.seed}", args, profile)
    tiles = cache.read(run.files)
    scores = np.zeros(len(tiles.train_images))
    for fold in range(profile.folds.k):
        train_fold(run, fold, profile.train.last)
        rows, masks, _ = held_out_masks(run, fold, "last")
        scores[rows] = tile_scores(masks, tiles.train_masks[rows])
    torn = torn_apart(
        np.concatenate([tiles.train_images, tiles.test_images]), read_folds(run, tiles)["fold"].to_numpy()
    )
    return {
        "seed": args.seed,
        "scheme": scheme,
        "recipe": "base, screen",
        "machine": machine_name(pick_device()),
        **provenance(),
        "torn_apart": np.flatnonzero(torn).tolist(),
        "scores": "".join(DIGITS[round(10 * s)] for s in scores),
    }


def torn_apart(images: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N,) bool: labelled tiles with a neighbour in another fold; images: of these, then of the test tiles."""
    torn = np.zeros(len(fold), bool)
    for first, second, *_ in neighbours(images):
        if max(first, second) < len(fold) and fold[first] != fold[second]:
            torn[[first, second]] = True
    return torn


def table(records: list[dict]) -> str:
    """Markdown: mean scores with each kind of random folds and with mosaics, their difference, its standard error."""
    scores = {record["scheme"]: np.array([DIGITS.index(d) / 10 for d in record["scores"]]) for record in records}
    lines = ["| folds | tiles | | score | by mosaics | flattered by |", "|---|---|--:|--:|--:|--:|"]
    for record in records:
        if record["scheme"] == "mosaic":
            continue
        torn = np.isin(np.arange(len(record["scores"])), record["torn_apart"])
        for name, rows in (("neighbour in another fold", torn), ("others", ~torn), ("all", torn | True)):
            a, b = scores[record["scheme"]][rows], scores["mosaic"][rows]
            error = (a - b).std(ddof=1) / len(a) ** 0.5
            lines.append(
                f"| {record['scheme']} | {name} | {len(a)} | {a.mean():.4f} | {b.mean():.4f} "
                f"| {(a - b).mean():+.4f} ± {error:.4f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.start(main)
