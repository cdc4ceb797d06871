"""Pseudo-labels: which tiles are certain enough, whose model labels them, and that its training uses them."""

import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest

from pipeline import make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import inference, published, stages
from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Pseudo
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.run import Files
from pipeline.salt.tiles import Tiles, cache
from pipeline.salt.training import checkpoints, pseudo
from pipeline.salt.training.fold import set_up_fold
from pipeline.tools import doctor

LABELS = ("--add-phase=pseudo=true,size=48,epochs=1", "--set=pseudo.share=0.0")


def test_the_share_of_sure_pixels_by_hand():
    probs = np.full((3, 1, 10), 0.5, np.float16)
    probs[1, 0, :9] = 0.1  # nine of ten below 0.2
    probs[2, 0] = [0.9] * 5 + [0.05] * 5
    assert pseudo.sure_share(probs, Pseudo()).tolist() == pytest.approx([0, 0.9, 1])
    assert pseudo.sure_share(np.full((1, 2, 2), 0.8), Pseudo()).tolist() == [0], "0.8 itself is not sure"


def labelless(n: int, ids: list[str]) -> Tiles:
    """n test tiles of noise, no training tiles."""
    images = np.random.default_rng(0).integers(0, 255, (n, 101, 101), np.uint8)
    return Tiles(images[:0], images[:0] > 0, images, pd.DataFrame({"id": ids, "split": "test"}))


def written(files: Files, fold: int, tiles: Tiles, probs: np.ndarray) -> int:
    """Number of labels chosen from these probabilities."""
    return pseudo.write(files, fold, tiles, probs, Pseudo(), Origin({}, {}), np.zeros(len(probs), bool))


def test_sure_tiles_come_back_as_they_were_written(tmp_path):
    tiles = labelless(6, [f"1e{i}" for i in range(6)])  # ids that look like numbers
    probs = np.full((6, 101, 101), 0.5, np.float16)
    probs[[1, 4], :60], probs[[1, 4], 60:] = 0.95, 0.01
    files = Files(tmp_path, "sample", "demo")
    assert written(files, 3, tiles, probs) == 2
    images, masks, ids = pseudo.read(files, 3, tiles)
    np.testing.assert_array_equal(images, tiles.test_images[[1, 4]])
    np.testing.assert_array_equal(masks, probs[[1, 4]] > 0.5)
    assert ids == ["1e1", "1e4"]
    table = pd.read_csv(files.pseudo(3, "tiles.csv"), dtype={"id": str})
    assert table["row"].tolist() == [1, 4] and table["confidence"].tolist() == [1, 1]
    assert table["coverage"].tolist() == pytest.approx([60 / 101] * 2, abs=1e-5)


def test_where_no_tile_is_sure_there_are_none(tmp_path):
    tiles, files = labelless(3, ["a", "b", "c"]), Files(tmp_path, "sample", "demo")
    assert written(files, 0, tiles, np.full((3, 101, 101), 0.5, np.float16)) == 0
    images, masks, ids = pseudo.read(files, 0, tiles)
    assert images.shape == masks.shape == (0, 101, 101) and masks.dtype == bool and ids == []


@pytest.fixture(scope="module")
def labelled(finished, tmp_path_factory):
    """The tiny run with one more phase, which learns from pseudo-labels, and its output. Read-only."""
    run = type(finished[0])(shutil.copytree(finished[0].out, tmp_path_factory.mktemp("pseudo") / "out"))
    printed = run(train, pseudo_label, extra=LABELS)
    printed += run(train, extra=(*LABELS, "--pseudo"))
    return run, printed + run(predict, submit, report, extra=LABELS)


def test_a_phase_is_added_to_a_finished_run_and_nothing_is_trained_again(labelled):
    run, printed = labelled
    assert printed.count("fresh") == 4 and printed.count("labelled") == printed.count("trained") == 2
    assert all(product.is_fresh() for product in stages.report(run.parse(*LABELS)))


def test_the_last_phase_is_what_predicts(labelled, finished):
    run, _ = labelled
    names = set(stages.predictions(run.parse(*LABELS))[0].origin().inputs)
    assert {f"fold_{k}/pseudo.last.safetensors" for k in (0, 1)} <= names
    assert (run.out / "folds/demo/oof.npy").read_bytes() != (finished[0].out / "folds/demo/oof.npy").read_bytes()
    results = json.loads((run.out / "submissions/demo/scores.json").read_text())
    assert "pseudo" in json.dumps(results["folds"])


def test_training_gets_the_labelled_tiles_and_validation_does_not(labelled):
    run = labelled[0].parse(*LABELS)
    phase = run.profile.train.last
    assert phase.pseudo
    start = set_up_fold(run, 0, phase)
    labels = set(pd.read_csv(run.files.pseudo(0, "tiles.csv"), dtype={"id": str})["id"])
    assert len(labels) == 8, "with a share of 0 every test tile is sure enough"
    assert labels < set(start.dls.train.ids) and not labels & set(start.dls.valid.ids)
    own = (pd.read_csv(run.files.folds)["fold"] != 0).sum()
    assert len(start.dls.train.ids) == own + 8 and start.init_from == "48.safetensors"
    before = set_up_fold(run, 0, run.profile.train.labeller)
    assert len(before.dls.train.ids) == own and before.init_from == "32.safetensors"


def test_labels_are_those_of_the_epoch_and_the_size_that_predict(labelled, tmp_path, monkeypatch):
    run, loaded, sizes = type(labelled[0])(shutil.copytree(labelled[0].out, tmp_path / "out")), [], []
    load, to_file = checkpoints.load, inference.predict_to_file
    monkeypatch.setattr(checkpoints, "load", lambda path, model: loaded.append(path.name) or load(path, model))
    monkeypatch.setattr(
        inference, "predict_to_file", lambda *args, **kwargs: sizes.extend(args[-1].sizes) or to_file(*args, **kwargs)
    )
    larger = ("--add-phase=pseudo=true,size=56,epochs=1", "--set=pseudo.share=0.0", "--force")
    run(pseudo_label, extra=larger)
    assert loaded == ["48.last.safetensors"] * 2 and sizes == [48] * 2


def test_labelling_that_is_stopped_goes_on_where_it_was(labelled, tmp_path, monkeypatch):
    """Two batches, of 5 and 3 test tiles: a signal in the first, then a --max-hours session for each."""
    run = type(labelled[0])(shutil.copytree(labelled[0].out, tmp_path / "out"))
    files = [run.parse().files.pseudo(0, name) for name in ("tiles.csv", "masks.npy")]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    tile_logits = inference.tile_logits

    def signalled(*args):
        for batch in tile_logits(*args):
            signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="^fold 0, model 1, 5 tiles; the same") as e:
        patch.setattr(inference, "tile_logits", signalled)
        run(pseudo_label, extra=LABELS)
    assert e.value.status == 143 and not any(file.exists() for file in files)
    [finding] = doctor.states(run.parse(*LABELS))
    assert "pseudo_masks.resume: some tiles are predicted; to go on from there: python -m pipeline.ps" in finding.text
    with pytest.raises(InputError, match="leave one of them out"):
        run(pseudo_label, extra=(*LABELS, "--force", "--max-hours=8"))
    for done in ("fold 0, model 1, 8 tiles", "fold 0 is labelled"):
        with pytest.raises(Stopped, match=f"^{done}: the hours of --max-hours are over"):
            run(pseudo_label, extra=(*LABELS, "--max-hours=0"))
    assert [file.read_bytes() for file in files] == before and not [*run.out.rglob("*.resume*")]


def test_a_lost_table_is_made_again(labelled, tmp_path):
    run = type(labelled[0])(shutil.copytree(labelled[0].out, tmp_path / "out"))
    table = run.parse().files.pseudo(0, "tiles.csv")
    before = table.read_text()
    table.unlink()
    printed = run(pseudo_label, extra=LABELS)
    assert table.read_text() == before and printed.count("labelled") == printed.count("fresh") == 1


def test_other_weights_make_other_labels_and_the_old_ones_are_not_learned_from(labelled, tmp_path):
    run = type(labelled[0])(shutil.copytree(labelled[0].out, tmp_path / "out"))
    run(train, extra=(*LABELS, "--phase=48", "--fold=0", "--set=train.48.lr=1e-3", "--force"))
    extra = (*LABELS, "--fold=0", "--set=train.48.lr=1e-3")
    assert not run.parse().files.weights(0, run.parse(*LABELS).profile.train.last).exists(), "it came of other weights"
    with pytest.raises(InputError, match=r"pseudo_tiles\.csv was made with other settings .* pipeline\.pseudo_label"):
        run(train, extra=(*extra, "--pseudo"))
    assert "labelled" in run(pseudo_label, extra=extra) and "trained" in run(train, extra=(*extra, "--pseudo"))


def test_with_folds_of_mosaics_no_neighbour_of_a_fold_is_learned_from(empty):
    """60 + 40 tiles of sections, all certain enough; without the rule, a third of the pairs would be on both sides."""
    flags = (*LABELS, "--set=folds.scheme=mosaic", "--set=sample.train=60", "--set=sample.test=40")
    flags = (*flags, "--set=train.32.epochs=1")
    empty(prepare, make_folds, train, pseudo_label, extra=flags)
    run = empty.parse(*flags)
    pairs, test = published.read_neighbours(run), {*cache.read(run.files).test_table["id"]}
    assert len(pairs) > 20
    for fold in run.folds:
        dls = set_up_fold(run, fold, run.profile.train.last).dls
        trained, held_out = {*dls.train.ids}, {*dls.valid.ids}
        beside = [
            *zip(pairs["first"], pairs["second"], strict=True),
            *zip(pairs["second"], pairs["first"], strict=True),
        ]
        assert not [pair for pair in beside if pair[0] in held_out and pair[1] in trained]
        left_out = {other for one, other in beside if one in held_out and other in test}
        assert left_out and 0 < len(trained & test) <= 40 - len(left_out)
