"""Split the training tiles into folds, once and for all.

    python -m pipeline.make_folds
    python -m pipeline.make_folds --force --set folds.scheme=coverage     split anew
    python -m pipeline.make_folds --set folds.file=my.csv --set folds.k=4      by your own csv: id, fold 0..3

With folds.file the folds are those of your own csv: id, fold 0 .. folds.k-1.

reads   data/cache/<source>/tiles.csv
writes  folds/<run>/folds.csv: id, fold, coverage, z
"""

from pathlib import Path

from pipeline.salt import artifacts, cli, stages
from pipeline.salt.folds import split
from pipeline.salt.tiles import cache, own_folds


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    product, settings = stages.folds(run), run.profile.folds
    stages.keep([product], run.force)  # models may have been trained on it
    if stages.up_to_date([product], run.force):
        return
    with artifacts.making(product.path):
        tiles = cache.read(run.files).train_table
        table = tiles[["id", "coverage", "z"]].copy()
        if settings.file:
            fold, how = own_folds.read(Path(settings.file), tiles, settings.k), f"by {settings.file}"
        else:
            fold = split(tiles, settings.scheme, settings.k, settings.seed)
            how = f"scheme {settings.scheme}, seed {settings.seed}"
        table.insert(1, "fold", fold)
        with artifacts.publish(product.path, product.origin(), profile=run.profile.name) as tmp:
            table.to_csv(tmp, index=False)
    sizes = table["fold"].value_counts()
    print(
        f"split    {artifacts.display_path(product.path)}: {settings.k} folds of {sizes.min()} to {sizes.max()} tiles, "
        + how
    )


if __name__ == "__main__":
    cli.start(main)
