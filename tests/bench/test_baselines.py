"""Both sides of every comparison compute the same. No test here depends on timing."""

import numpy as np
import pytest
import torch
from fastai.vision.core import imagenet_stats

from bench.baselines import article, bare_loop
from bench.baselines import losses as plain_losses
from bench.baselines import metric as plain_metric
from bench.baselines import rle as plain_rle
from bench.baselines.bare_loop import StepOptions
from bench.harness.tiles import random_masks
from bench.speed import inference, train_step
from pipeline.salt import losses, metrics, rle
from pipeline.salt.config import Augment
from pipeline.salt.models.unet_resnext50 import UnetResNext50
from pipeline.salt.tiles.loaders import TileDataset, TileLoader

CPU = torch.device("cpu")


def small_model() -> UnetResNext50:
    torch.manual_seed(0)
    return UnetResNext50("test_resnet", width=8)


def test_losses_scores_and_run_lengths_are_the_same():
    truth = random_masks(12, 33)
    pred = truth.roll(2, dims=-1)
    logits, masks = torch.randn(12, 1, 33, 33), truth[:, None].float()
    torch.testing.assert_close(losses.lovasz_hinge(logits, masks), plain_losses.lovasz_hinge(logits, masks))
    torch.testing.assert_close(losses.symmetric_lovasz(logits, masks), plain_losses.symmetric_lovasz(logits, masks))
    for plain in (plain_metric.meanap, plain_metric.meanap_by_histogram):
        assert metrics.meanap(pred, truth).item() == pytest.approx(plain(pred.numpy(), truth.numpy()))
    for plain in (plain_rle.encode, plain_rle.encode_by_pixel):
        assert rle.encode(truth.numpy()) == [plain(mask) for mask in truth.numpy()]


def test_both_loaders_give_a_model_the_same_tile(few):
    theirs = article.get_data(few.folder, set(few.ids[:8]), 128, 8, CPU, num_workers=0)
    ours = TileLoader(TileDataset(few.images[:8], few.masks[:8], few.ids[:8], 128), 8, imagenet_stats)
    (x, masks), (y, _) = theirs.valid.one_batch(), ours.one_batch()
    order = [few.ids.index(path.stem) for path in theirs.valid.items]
    # Kaggle's grey in [0, 255], two of which are rounding; the least deviation of a channel is 0.224
    assert (y[order] - torch.Tensor(x)).abs().max() < 2 / 255 / 0.224 + 1e-4
    assert set(masks.unique().tolist()) == {0, 1} and len(theirs.train) == len(
        TileLoader(TileDataset(few.images[8:], few.masks[8:], few.ids[8:], 128), 8, imagenet_stats, Augment())
    )


def test_product_article_and_bare_loop_train_to_the_same_weights():
    x, masks = train_step.batch(32, 4, CPU)
    models = [small_model() for _ in range(5)]
    train_step.product_steps(models[0], x, masks, 2, precision="fp32")()
    train_step.article_steps(models[1], x, masks, 2)()
    options = [StepOptions("fp32"), StepOptions("fp32", channels_last=False), StepOptions("fp32", fused=False)]
    for model, option in zip(models[2:], options, strict=True):
        bare_loop.build_steps(model, option, x, masks, 2)()
    before, ours = small_model().state_dict(), models[0].state_dict()
    moved = max((ours[k] - before[k]).abs().max() for k in ours if "num_batches" not in k and "running" not in k)
    assert moved == pytest.approx(2e-3, rel=0.1), "two steps of Adam at 1e-3"
    for model in models[1:]:
        # Adam divides by the gradient's size: where that is nearly nothing, so is what the last digits decide
        distance = sum((ours[k] - v).abs().sum() for k, v in model.state_dict().items() if "num_batches" not in k)
        walked = sum((ours[k] - before[k]).abs().sum() for k in ours if "num_batches" not in k)
        assert distance < 0.02 * walked


def test_product_and_article_predict_the_same(few, tmp_path):
    size = inference.Size(px=128, tiles=24, batch=4, repeats=1, memory_tiles=0, workers=0)
    model = small_model().eval()
    model.encoder.mean, model.encoder.std = imagenet_stats  # the article normalises with these, whatever the encoder
    with torch.no_grad():
        model.logit[-1].weight.mul_(20)  # probabilities that differ from 0.5
    inference.predict(tmp_path / "ours.npy", few.images, model, size, CPU)
    theirs = inference.predict_as_article(few.folder, few.pngs(24), model, size, CPU)
    ours = np.load(tmp_path / "ours.npy").astype(np.float32)
    assert ours.shape == theirs.shape == (24, 101, 101) and theirs.std() > 0.02
    # bf16 where the CPU has it, rounding of the tiles, and resizing before or after the sigmoid
    assert np.abs(ours - theirs).mean() < 0.01
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
