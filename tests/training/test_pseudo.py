"""Pseudo-labels: which tiles are sure enough, whose they are, and that a training really gets them."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline import make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.artifacts import Files, Origin
from pipeline.salt.config import PSEUDO, Pseudo
from pipeline.salt.tiles.cache import Cache
from pipeline.salt.training import pseudo

FLAGS = [
    "--data",
    "sample",
    "--profile",
    "demo",
    *(
        word
        for setting in (
            "sample.train=24",
            "sample.test=8",
            "run_folds=2",
            "workers=1",
            "folds.k=2",
            "train.64.size=32",
            "train.96.size=48",
            "train.batch=6",
            "train.epochs=1",
            "model.options.width=8",
            "train.precision=fp32",
            "pseudo.use=true",
            "pseudo.epochs=1",
            "pseudo.share=0.0",
        )
        for word in ("--set", setting)
    ),
]


def test_the_share_of_sure_pixels_by_hand():
    probs = np.full((3, 1, 10), 0.5, np.float16)
    probs[1, 0, :9] = 0.1  # nine of ten below 0.2
    probs[2, 0] = [0.9] * 5 + [0.05] * 5
    assert pseudo.sure_share(probs, Pseudo()).tolist() == pytest.approx([0, 0.9, 1])
    assert pseudo.sure_share(np.full((1, 2, 2), 0.8), Pseudo()).tolist() == [0], "0.8 itself is not sure"


def test_sure_tiles_come_back_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    test = rng.integers(0, 255, (6, 101, 101), np.uint8)
    tiles = pd.DataFrame({"id": [f"1e{i}" for i in range(6)], "split": "test"})  # ids that look like numbers
    cache = Cache(test[:0], test[:0] > 0, test, tiles)
    probs = np.full((6, 101, 101), 0.5, np.float16)
    probs[[1, 4], :60], probs[[1, 4], 60:] = 0.95, 0.01
    files = Files(tmp_path, "sample", "demo")
    assert pseudo.write(files, 3, cache, probs, Pseudo(), Origin({}, {})) == 2
    images, masks, ids = pseudo.read(files, 3, cache)
    np.testing.assert_array_equal(images, test[[1, 4]])
    np.testing.assert_array_equal(masks, probs[[1, 4]] > 0.5)
    assert ids == ["1e1", "1e4"]
    table = pd.read_csv(files.pseudo(3, "tiles.csv"), dtype={"id": str})
    assert table["row"].tolist() == [1, 4] and table["confidence"].tolist() == [1, 1]
    assert table["coverage"].tolist() == pytest.approx([60 / 101] * 2, abs=1e-5)


def test_where_no_tile_is_sure_there_are_none(tmp_path):
    test = np.zeros((3, 101, 101), np.uint8)
    cache = Cache(test[:0], test[:0] > 0, test, pd.DataFrame({"id": ["a", "b", "c"], "split": "test"}))
    files = Files(tmp_path, "sample", "demo")
    assert pseudo.write(files, 0, cache, np.full((3, 101, 101), 0.5, np.float16), Pseudo(), Origin({}, {})) == 0
    images, masks, ids = pseudo.read(files, 0, cache)
    assert images.shape == masks.shape == (0, 101, 101) and masks.dtype == bool and ids == []


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Both sizes trained, labels chosen, the last step trained with them, and reported."""
    out = tmp_path_factory.mktemp("pseudo")
    for stage, more in [
        (prepare, []),
        (make_folds, []),
        (train, []),
        (pseudo_label, []),
        (train, ["--pseudo"]),
        (predict, []),
        (submit, []),
        (report, []),
    ]:
        stage.main([*FLAGS, "--out", str(out), *more])
    return out


def test_labels_of_a_fold_come_from_its_own_network_alone(out):
    run, _ = command.parse("", [*FLAGS, "--out", str(out)])
    for fold in (0, 1):
        inputs = set(lineage.pseudo_labels(run, fold).inputs)
        assert inputs == {f"fold_{fold}/48.last.safetensors", "cache/test.npy"}
        assert not {f"fold_{1 - fold}"} & {name.split("/")[0] for name in lineage.checkpoint(run, fold, PSEUDO).inputs}


def test_the_last_step_is_what_predicts(out):
    run, _ = command.parse("", [*FLAGS, "--out", str(out)])
    assert {f"fold_{k}/pseudo.last.safetensors" for k in (0, 1)} <= set(lineage.predictions(run).inputs)
    assert "pseudo" in json.loads(run.files.result("scores.json").read_text())["sizes"]


def test_training_gets_the_labelled_tiles_and_validation_does_not(out):
    from pipeline.salt.training.fold import set_up_fold

    run, _ = command.parse("", [*FLAGS, "--out", str(out)])
    start = set_up_fold(run, 0, PSEUDO)
    labelled = set(pd.read_csv(run.files.pseudo(0, "tiles.csv"), dtype={"id": str})["id"])
    assert len(labelled) == 8, "with a share of 0 every test tile is sure enough"
    assert labelled < set(start.dls.train.ids) and not labelled & set(start.dls.valid.ids)
    assert len(start.dls.train.ids) == 12 + 8 and start.weights == run.files.checkpoint(0, 48)


def test_a_lost_table_is_made_again(out, capsys):
    table = Files(out, "sample", "demo").pseudo(0, "tiles.csv")
    before = table.read_text()
    table.unlink()
    pseudo_label.main([*FLAGS, "--out", str(out)])
    assert table.read_text() == before and "labelled" in capsys.readouterr().out


def test_a_profile_without_them_says_so_and_does_nothing(tmp_path, capsys):
    for stage, more in [(pseudo_label, []), (train, ["--pseudo"])]:
        stage.main(["--data", "sample", "--out", str(tmp_path), "--profile", "demo", *more])
        assert capsys.readouterr().out.startswith("skipped")
    assert not list(tmp_path.iterdir())
