"""Decode every tile once, and check the data.

    python -m pipeline.prepare                       data/, Kaggle's mount, or the built-in sample
    python -m pipeline.prepare --data DIR            a folder with Kaggle's zips, or the same unpacked

reads   train.zip, test.zip (or train/, test/), train.csv, depths.csv, sample_submission.csv
writes  data/cache/<source>/images.npy masks.npy test.npy tiles.csv; data/sample/ where there is no data
"""

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.tiles import cache, competition


def main(argv: list[str] | None = None) -> None:
    run, _ = command.parse(__doc__, argv)
    print(f"profile  {run.profile.name}: {run.profile.about} ({run.why})")
    origin = lineage.cache(run)
    tiles_csv = run.files.cache("tiles.csv")
    if all(artifacts.is_fresh(run.files.cache(name), origin) for name in cache.NAMES) and not run.force:
        artifacts.say_fresh(tiles_csv)
        return
    folder = run.data
    if folder is None:
        folder = run.files.sample
        print(
            f"sample   making tiles in {artifacts.shown(folder)}; for the real ones (with a Kaggle account that has "
            "accepted the rules):\n"
            f"         {competition.DOWNLOAD} -p data/ && unzip data/{competition.SLUG}.zip -d data/"
        )
        numbers = run.profile.sample
        from pipeline.salt.tiles import synthetic as sample

        with artifacts.writing(folder):
            sample.make_sample(folder, numbers.train, numbers.test, numbers.seed)
    tiles = competition.read(folder)
    for note in tiles.notes:
        print(f"note     {note}")
    cache.write(tiles, run.files, origin)
    print(
        f"prepared {artifacts.shown(tiles_csv.parent)}: {len(tiles.images)} tiles with a mask, "
        f"{len(tiles.test)} to predict"
    )


if __name__ == "__main__":
    command.start(main)
