"""Every model passes through all stages."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from pipeline import make_folds, predict, prepare, submit, train
from pipeline.salt.models import MODELS

SETTINGS = ["train.size=64", "train.epochs=1", "train.batch=8", "folds.k=3", "submit.threshold=search"]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_and_predicts_at_64_px(model, made_once, tmp_path):
    flags = [
        "--profile",
        "baseline",
        "--data",
        str(made_once),
        "--out",
        str(tmp_path),
        "--weights",
        "none",
        "--model",
        model,
        "--encoder",
        "test_resnet",
        *(f"--set={setting}" for setting in SETTINGS),
    ]
    for stage in (prepare, make_folds, train, predict, submit):
        stage.main(flags)
    made = tmp_path / "folds" / "baseline"
    history = pd.read_csv(made / "fold_0" / "64.csv")
    assert history["epoch"].tolist() == [1, 2] and np.isfinite(history).all(axis=None)
    assert all(w.isfinite().all() for w in load_file(made / "fold_0" / "64.safetensors").values())
    held_out = pd.read_csv(made / "folds.csv")["fold"].to_numpy() == 0
    oof, test = np.load(made / "oof.npy"), np.load(tmp_path / "submissions" / "baseline" / "test.npy")
    assert oof.shape == (24, 101, 101) and test.shape == (8, 101, 101)
    assert np.isnan(oof[~held_out]).all() and ((oof[held_out] >= 0) & (oof[held_out] <= 1)).all()
    assert oof[held_out].std() > 0 and ((test >= 0) & (test <= 1)).all()
    assert json.loads((tmp_path / "submissions" / "baseline" / "submission.csv.gz.json").read_text())
