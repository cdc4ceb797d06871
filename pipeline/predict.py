"""Predict every tile: training tiles with the one model that never saw them, test tiles with the mean of all folds.

    python -m pipeline.predict
    python -m pipeline.predict --fold 0 --fold 3     with these folds only
    python -m pipeline.predict --engine ray          as one task of a Ray cluster

reads   folds/<run>/fold_<k>/<last phase>.safetensors, folds.csv, data/cache/<source>/
writes  folds/<run>/oof.npy, submissions/<run>/test.npy: float16 probabilities, NaN where no fold ran
        submissions/<run>/disagreement.csv: for each test tile, the share of pixels in which two folds' masks differ

The tiles are shared out among all GPUs. On Ctrl-C or SIGTERM it finishes its batch and saves; with --max-hours H it
stops by itself, after the batch in which time runs out, with exit status 75. The same command resumes (from oof.resume,
test.resume), and the result is the same as without a stop.
"""

import time

import numpy as np
import pandas as pd

from pipeline.salt import artifacts, cli, disk, published, stages, stopping
from pipeline.salt.launch import fan_out
from pipeline.salt.product import up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import cache


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    if not up_to_date([stages.disagreement(run), *stages.predictions(run)], run.force):
        fan_out("pipeline.predict", run, {"all folds": run.folds}, lambda folds: predict(run))


def predict(run: Run) -> None:
    """Write oof.npy, test.npy and disagreement.csv, predicted by run.folds."""
    from pipeline.salt.device import enough_memory
    from pipeline.salt.inference import inference_settings, predict_to_file
    from pipeline.salt.training import checkpoints

    tiles, profile = cache.read(run.files), run.profile
    folds = published.read_folds(run, tiles)["fold"].to_numpy()
    model = checkpoints.build(profile.model)

    def with_weights(fold: int):
        weights = stages.trained(run, fold, profile.train.last)[profile.predict.checkpoint]
        return checkpoints.load(weights.file(), model)

    oof, test = stages.predictions(run)
    for product in (oof, test):
        if changes := product.changes():
            print(f"note     {disk.display_path(product.path)} is made anew: {'; '.join(changes)}")
    with (
        disk.making(test.path),
        enough_memory("predict", "predict.batch", profile.predict.batch),
        stopping.noting() as signalled,
    ):

        def stop(done: str) -> None:
            stopping.stop_if_asked(done, signalled(), run.is_late())

        settings = inference_settings(profile, profile.train.last)
        for product, images, rows_of, title in [
            (oof, tiles.train_images, lambda fold: np.flatnonzero(folds == fold), "out of fold"),
            (test, tiles.test_images, lambda fold: np.arange(len(tiles.test_images)), "test tiles"),
        ]:
            if product is oof and oof.is_fresh() and (run.files.resume_of(test.path).exists() or not run.force):
                artifacts.print_fresh(oof.path)
                continue
            start, origin, state = time.perf_counter(), product.origin(), run.files.resume_of(product.path)
            jobs = ((with_weights(fold), rows_of(fold)) for fold in run.folds)
            with artifacts.publish(product.path, origin, batch=run.profile.predict.batch) as tmp:
                disagreement = predict_to_file(
                    tmp,
                    images,
                    jobs,
                    title,
                    settings,
                    count_votes=product is test,  # only one model predicts a training tile, so no two can disagree
                    resume=state,
                    origin=origin,
                    stop=stop,
                )
            artifacts.discard(state)
            count = np.isin(folds, run.folds).sum() if product is oof else len(images)
            print(
                f"predict  {disk.display_path(product.path)}: {count} tiles, folds {', '.join(map(str, run.folds))}, "
                f"{time.perf_counter() - start:.0f} s"
            )
        product = stages.disagreement(run)
        with artifacts.publish(product.path, product.origin()) as tmp:  # of the test tiles, predicted last
            pd.DataFrame({"id": tiles.test_table["id"], "disagreement": disagreement}).to_csv(tmp, index=False)
    stopping.stop_if_asked("all tiles are predicted", signalled(), late=False)


if __name__ == "__main__":
    cli.start(main)
