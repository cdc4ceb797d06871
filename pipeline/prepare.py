"""Decode every tile once, and check the data.

    python -m pipeline.prepare                       data/, Kaggle's mount, or the built-in sample
    python -m pipeline.prepare --data DIR            a folder with Kaggle's zips, or the same unpacked
    python -m pipeline.prepare --data DIR --set tiles.side=128 --set tiles.stride=64      your own images, cut

reads   train.zip, test.zip (or train/, test/), train.csv, depths.csv, sample_submission.csv; or images/, masks/, test/
writes  data/cache/<source>/images.npy masks.npy test.npy tiles.csv; data/sample/ if there is no data
On Kaggle it first links the files of this run from the attached outputs of earlier sessions.
"""

from pathlib import Path

from pipeline.salt import cli, disk, kaggle, stages
from pipeline.salt.disk import display_path
from pipeline.salt.product import up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache, competition, folder


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    print(f"profile  {run.profile.name}: {run.profile.about} ({run.reason})")
    for out, count in (kaggle.adopt(run.files) if kaggle.on_kaggle() else {}).items():
        print(f"earlier  {out}: {count} files of run {run.files.run} are used from there")
    products = stages.tiles(run)
    if up_to_date(stages.decoded(run), run.force):
        return
    if run.own_data and run.data:
        tiles, remarks = folder.read(run.data, run.profile.tiles)
    else:
        tiles, remarks = competition.read(run.data or make_sample(run))
    for remark in remarks:
        print(f"note     {remark}")
    with disk.making(products["tiles.csv"].path):
        cache.write(tiles, run.files, products["tiles.csv"].origin(), remarks=remarks)
    print(
        f"prepared {display_path(products['tiles.csv'].path.parent)}: {len(tiles.train_images)} tiles with a mask, "
        f"{len(tiles.test_images)} to predict"
    )


def make_sample(run: Run) -> Path:
    """Generate the built-in tiles as files in Kaggle's layout, and return their folder."""
    from pipeline.salt.tiles import synthetic

    folder, numbers = run.files.sample, run.profile.sample
    print(
        f"sample   making tiles in {display_path(folder)}; for the real ones (with a Kaggle account that has "
        f"accepted the rules):\n         {competition.DOWNLOAD} -p data/ && unzip data/{competition.SLUG}.zip -d data/"
    )
    with disk.making(folder):
        synthetic.make_sample(folder, numbers.train, numbers.test, numbers.seed)
    return folder


if __name__ == "__main__":
    cli.start(main)
