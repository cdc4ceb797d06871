"""fastai's own methods on our Learner and loaders: dls.test_dl, predict, get_preds, validate, export ..."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Recorder, load_learner
from matplotlib import pyplot as plt

from pipeline.salt.config import PROFILES, Model, Phase
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints
from pipeline.salt.training.learner import build_learner

SIZE = 64
TRAIN = replace(PROFILES["demo"].train, precision="fp32")
PHASE = Phase(size=SIZE, batch=8, epochs=1, lr=1e-3)


@pytest.fixture
def learn(drawn, tmp_path):
    """24 training tiles, 12 validation tiles."""
    torch.manual_seed(0)
    model = checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": 8}))
    folds = pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})
    dls = get_data(0, folds, SIZE, 8, tiles=drawn, stats=(model.encoder.mean, model.encoder.std))
    learn = build_learner(model, dls, PHASE, TRAIN, [Recorder()], path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        yield learn


def probs_of(learn, tiles: np.ndarray) -> torch.Tensor:
    """Computed without the Learner: (n, 1, 101, 101)."""
    return to_tile(logits_of(learn, tiles), tiles.shape[1:]).sigmoid()


def logits_of(learn, tiles: np.ndarray) -> torch.Tensor:
    """(n, 1, S, S)."""
    learn.model.eval()
    x, *nothing = learn.dls.test_dl(list(tiles), bs=len(tiles)).one_batch()
    assert not nothing, "test tiles have no masks"
    with torch.no_grad():
        return learn.model(x)


def test_get_preds_gives_every_tile_in_order_and_its_mask(learn, drawn):
    preds, masks = learn.get_preds()
    torch.testing.assert_close(preds, probs_of(learn, drawn.train_images[::3]), atol=1e-4, rtol=0)
    np.testing.assert_array_equal(masks[:, 0].numpy() > 0.5, drawn.train_masks[::3])
    train_preds, train_masks = learn.get_preds(ds_idx=0)  # not a whole number of batches would be left out
    assert len(train_preds) == len(train_masks) == 24


def test_get_preds_of_other_tiles(learn, drawn):
    preds, masks = learn.get_preds(dl=learn.dls.test_dl(list(drawn.test_images)))
    torch.testing.assert_close(preds, probs_of(learn, drawn.test_images), atol=1e-4, rtol=0)
    assert masks is None or not len(masks)


def test_tta_turns_what_it_has_seen_mirrored_back(learn, drawn):
    probs, masks = learn.tta()
    images = drawn.train_images[::3]
    mirrored_back = logits_of(learn, np.ascontiguousarray(images[..., ::-1])).flip(-1)
    expected = to_tile((logits_of(learn, images) + mirrored_back) / 2, images.shape[1:]).sigmoid()
    torch.testing.assert_close(probs, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(probs, learn.get_preds()[0], atol=1e-3), "two views are not one"
    np.testing.assert_array_equal(masks[:, 0].numpy() > 0.5, drawn.train_masks[::3])


def test_validate_gives_the_loss_of_the_validation_tiles(learn):
    [of_the_fit] = learn.final_record[1:]  # by fastai's Recorder: training loss, validation loss
    assert learn.validate() == [pytest.approx(of_the_fit, abs=1e-4)]
    learn.remove_cb(learn.recorder)
    del learn.final_record
    assert learn.validate() == [pytest.approx(of_the_fit, abs=1e-4)]


def test_predict_one_tile(learn, drawn):
    mask, decoded, preds = learn.predict(drawn.test_images[2])
    torch.testing.assert_close(preds, probs_of(learn, drawn.test_images[2:3])[0], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(mask, preds[0] > 0.5)
    assert mask.dtype == bool and mask.ndim == 2 and decoded.shape[-2:] == mask.shape
    image, *_ = learn.predict(drawn.test_images[2], with_input=True)
    assert image.shape == (SIZE, SIZE) and 0 <= image.min() < image.max() <= 1


def test_show_results_draws_truth_and_prediction(learn):
    def outlines() -> set[tuple]:
        drawn_axes = [ax for ax in plt.gcf().axes if ax.images]
        assert len(drawn_axes) == 5 and all(ax.get_title().startswith("salt ") for ax in drawn_axes)
        return {tuple(c.get_edgecolor()[0]) for ax in drawn_axes for c in ax.collections if len(c.get_edgecolor())}

    learn.show_results(max_n=5)
    assert 1 <= len(outlines()) <= 2  # one if the model finds no salt at all
    batch = learn.dls.valid.one_batch()
    learn.dls.valid.show_results(batch, batch[1].flip(-1), max_n=5)
    assert len(outlines()) == 2
    plt.close("all")


def test_new_keeps_the_tiles_and_the_settings(learn):
    train = learn.dls.new()  # of the training loader
    assert train.augment == learn.dls.train.augment and train.dataset is learn.dls.train.dataset and train.shuffle
    assert learn.dls.new(bs=5, shuffle=False, drop_last=False).one_batch()[0].shape == (5, 3, SIZE, SIZE)
    assert [len(x) for x, _ in learn.dls.valid.new(bs=7)] == [7, 5]


@pytest.mark.filterwarnings("ignore:load_learner")
def test_an_exported_learner_predicts_the_same_and_carries_no_tiles(learn, drawn, tmp_path):
    _, _, before = learn.predict(drawn.test_images[0])
    learn.export("model.pkl")
    assert len(learn.dls.train.dataset) == 24, "the learner at hand keeps its tiles"
    again = load_learner(tmp_path / "model.pkl")
    assert len(again.dls.train.dataset) == len(again.dls.valid.dataset) == 0
    with again.no_bar(), again.no_logging():
        torch.testing.assert_close(again.predict(drawn.test_images[0])[2], before)
