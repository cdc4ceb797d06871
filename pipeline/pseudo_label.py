"""Choose the test tiles that each fold's model is sure of; `train --pseudo` then learns from them too.

    python -m pipeline.pseudo_label --add-phase pseudo=true,epochs=20,lr=5e-4
    python -m pipeline.train --pseudo --add-phase pseudo=true,epochs=20,lr=5e-4

reads   folds/<run>/fold_<k>/<phase before>.safetensors, data/cache/<source>/test.npy; with folds.scheme=mosaic also
        folds/<run>/neighbours.csv: a model must not learn from neighbours of the tiles its fold holds out
writes  folds/<run>/fold_<k>/pseudo_tiles.csv (row, id, confidence, coverage), pseudo_masks.npy
Does nothing if no phase of the profile learns from pseudo-labels. On Ctrl-C or SIGTERM it finishes its batch and saves,
and likewise when --max-hours H is over, with exit status 75; the same command resumes (from pseudo_masks.resume).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.salt import artifacts, cli, disk, mosaic, published, stages, stopping
from pipeline.salt.errors import Stopped
from pipeline.salt.launch import fan_out
from pipeline.salt.product import up_to_date
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles, cache


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv)
    if not any(phase.pseudo for phase in run.profile.train.phases):
        print(f"skipped  pseudo_label: no phase of run {run.files.run} learns from pseudo-labels")
        return
    run.refuse_forced_sessions()
    to_do = [fold for fold in run.folds if not up_to_date(stages.pseudo_labels(run, fold), run.force)]

    def label_folds(folds) -> None:
        from pipeline.salt.device import enough_memory

        for fold in folds:
            with (
                disk.making(stages.pseudo_labels(run, fold)[-1].path),
                enough_memory(f"fold {fold}", "predict.batch", run.profile.predict.batch),
                stopping.noting() as signalled,
            ):

                def stop(done: str) -> None:
                    stopping.stop_if_asked(done, signalled(), run.is_late())

                try:
                    label_fold(run, fold, stop)
                except Stopped as e:
                    alone = f", with only this fold: --force --fold {fold}" * run.force
                    raise Stopped(f"{e}{alone}", e.status) from e
                stop(f"fold {fold} is labelled")

    fan_out("pipeline.pseudo_label", run, {f"fold {fold}": (fold,) for fold in to_do}, label_folds)


def label_fold(run: Run, fold: int, stop: Callable[[str], object] = lambda done: None) -> None:
    """Make the pseudo-labels of one fold; `stop` is that of predict_to_file."""
    from pipeline.salt.inference import inference_settings, predict_to_file
    from pipeline.salt.training import checkpoints, pseudo

    profile, tiles, products = run.profile, cache.read(run.files), stages.pseudo_labels(run, fold)
    labeller = profile.train.labeller
    trained = stages.trained(run, fold, labeller)[profile.predict.checkpoint].file()
    model = checkpoints.load(trained, checkpoints.build(profile.model))
    origin, state = products[-1].origin(), run.files.resume_of(products[-1].path)
    with disk.temporary(trained.with_name("pseudo_probs.npy")) as probs:
        predict_to_file(
            probs,
            tiles.test_images,
            [(model, np.arange(len(tiles.test_images)))],
            f"fold {fold}",
            inference_settings(profile, labeller),
            resume=state,
            origin=origin,
            stop=stop,
        )
        n = pseudo.write(
            run.files,
            fold,
            tiles,
            np.load(probs, mmap_mode="r", allow_pickle=False),
            profile.pseudo,
            origin,
            beside(run, fold, tiles),
        )
    artifacts.discard(state)
    print(
        f"labelled {disk.display_path(products[-1].path)}: {n} of {len(tiles.test_images)} test tiles are sure "
        f"enough for fold {fold}"
    )


def beside(run: Run, fold: int, tiles: Tiles) -> np.ndarray:
    """(M,) bool: the test tiles that a chain of known neighbours joins to a tile of fold k."""
    ids, pairs = pd.Index(tiles.table["id"]), published.read_neighbours(run)
    rows = np.stack([ids.get_indexer(pairs[name]) for name in ("first", "second")], axis=1)
    group, n = mosaic.groups(len(ids), rows), len(tiles.train_table)
    held_out = (published.read_folds(run, tiles)["fold"] == fold).to_numpy()
    return np.isin(group[n:], group[:n][held_out])


if __name__ == "__main__":
    cli.start(main)
