"""Deal the training tiles out to folds, once and for all.

    python -m pipeline.make_folds
    python -m pipeline.make_folds --force --set folds.scheme=coverage     deal anew

reads   data/cache/<source>/tiles.csv
writes  folds/<profile>/folds.csv: id, fold, coverage, z
"""

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.errors import InputError
from pipeline.salt.folds import SCHEMES
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    run, _ = command.parse(__doc__, argv)
    origin, path = lineage.folds(run), run.files.folds
    if artifacts.is_fresh(path, origin) and not run.force:
        artifacts.say_fresh(path)
        return
    if (told := artifacts.differences(path, origin)) and not run.force:
        raise InputError(
            f"{artifacts.shown(path)} was dealt otherwise ({'; '.join(told)}), and networks may have been "
            "trained on it; --force deals anew, --out or another --profile keeps it"
        )
    how = run.profile.folds
    tiles = cache.read(run.files).train_tiles
    table = tiles[["id", "coverage", "z"]].copy()
    table.insert(1, "fold", SCHEMES[how.scheme](tiles, how.k, how.seed))
    artifacts.publish(path, origin, lambda tmp: table.to_csv(tmp, index=False))
    sizes = table["fold"].value_counts()
    print(
        f"dealt    {artifacts.shown(path)}: {how.k} folds of {sizes.min()} to {sizes.max()} tiles, "
        f"scheme {how.scheme}, seed {how.seed}"
    )


if __name__ == "__main__":
    command.start(main)
