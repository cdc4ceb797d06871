"""get_data: what a tile looks like when it reaches the model, and which tiles do."""

import io
import random

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from pipeline.salt.config import Augment
from pipeline.salt.folds import SCHEMES
from pipeline.salt.tiles import Tiles, competition, files
from pipeline.salt.tiles.loaders import get_data

STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # an encoder's mean and std
STILL = Augment(flip_p=0, brightness_p=0, zoom_p=0)


@pytest.fixture
def folds(drawn) -> pd.DataFrame:
    return pd.DataFrame({"id": drawn.train_table["id"], "fold": np.arange(36) % 3})


def greys(x: torch.Tensor, stats=STATS) -> np.ndarray:
    """(B, 3, S, S), as the model gets them -> (B, S, S, 3) in 0..255."""
    mean, std = (torch.tensor(s).view(1, 3, 1, 1) for s in stats)
    return ((x * std + mean) * 255).permute(0, 2, 3, 1).numpy()


def pil_greys(images: np.ndarray, size: int) -> np.ndarray:
    """RGB tiles of equal channels, resized by PIL."""
    return np.stack(
        [
            np.asarray(Image.fromarray(tile[..., None].repeat(3, 2)).resize((size, size), Image.Resampling.BILINEAR))
            for tile in images
        ]
    ).astype(float)


@pytest.mark.parametrize("size", [64, 128, 224])
def test_a_tiles_way_to_the_model_is_pils_resize(drawn, folds, size):
    dls = get_data(1, folds, size, 4, tiles=drawn, stats=STATS)
    x, y = (torch.cat(part) for part in zip(*dls.valid, strict=True))
    assert x.shape == (12, 3, size, size) and x.dtype == torch.float32
    assert np.abs(greys(x) - pil_greys(drawn.train_images[1::3], size)).max() <= 2
    assert y.shape == (12, 1, 101, 101) and np.array_equal(y[:, 0].numpy() > 0.5, drawn.train_masks[1::3])


@pytest.mark.parametrize("size", [64, 128])
def test_the_same_in_training_when_nothing_is_left_to_chance(drawn, folds, size):
    dls = get_data(1, folds, size, 24, tiles=drawn, stats=STATS, augment=STILL)
    ((x, y),) = dls.train
    expected = pil_greys(drawn.train_images[np.arange(36) % 3 != 1], size)
    distance = np.abs(greys(x)[:, None, ::4, ::4, 0] - expected[None, :, ::4, ::4, 0]).max((2, 3))  # each to each
    assert (distance.min(1) <= 2).all() and sorted(distance.argmin(1)) == list(range(24)), "every tile once, shuffled"
    assert y.shape == (24, 1, size, size) and set(y.unique().tolist()) == {0.0, 1.0}
    masks = drawn.train_masks[np.arange(36) % 3 != 1][distance.argmin(1)]
    nearest = [np.asarray(Image.fromarray(m).resize((size, size), Image.Resampling.NEAREST)) for m in masks]
    np.testing.assert_array_equal(y[:, 0].numpy() > 0.5, np.stack(nearest))


def test_other_statistics_are_used(drawn, folds):
    stats = ((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    x, _ = get_data(0, folds, 101, 8, tiles=drawn, stats=stats).valid.one_batch()
    np.testing.assert_allclose(greys(x, stats), pil_greys(drawn.train_images[0::3], 101), atol=1e-3)


def test_batches_are_channels_last(drawn, folds):
    dls = get_data(0, folds, 64, 8, tiles=drawn, stats=STATS)
    for loader in (dls.train, dls.valid):
        assert loader.one_batch()[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_every_tile_is_in_training_or_in_validation_and_in_one_of_them(drawn, folds, fold):
    dls = get_data(fold, folds, 64, 8, tiles=drawn, stats=STATS)
    train, valid = set(dls.train.ids), set(dls.valid.ids)
    assert (
        not train & valid and train | valid == set(folds["id"]) and valid == set(folds.loc[folds["fold"] == fold, "id"])
    )


def test_an_odd_last_batch_is_left_out_of_training_and_kept_in_validation(drawn, folds):
    dls = get_data(0, folds, 64, 7, tiles=drawn, stats=STATS)  # 24 to train, 12 to validate
    assert [len(x) for x, _ in dls.train] == [7, 7, 7] and len(dls.train) == 3
    assert [len(x) for x, _ in dls.valid] == [12]
    assert [len(x) for x, _ in get_data(0, folds, 64, 5, tiles=drawn, stats=STATS).valid] == [10, 2]
    assert [len(x) for x, _ in get_data(0, folds, 64, 50, tiles=drawn, stats=STATS).train] == [24], (
        "fewer tiles than a batch: one batch"
    )


def test_epochs_differ_and_a_seed_repeats_them(drawn, folds):
    def epoch(dls):
        torch.manual_seed(0)
        return torch.cat([x for x, _ in dls.train])

    dls, again = (get_data(0, folds, 64, 8, tiles=drawn, stats=STATS) for _ in range(2))
    dls.train.rng, again.train.rng = random.Random(3), random.Random(3)
    first, second = epoch(dls), epoch(dls)
    assert torch.equal(first, epoch(again)) and torch.equal(second, epoch(again)) and not torch.equal(first, second)


def test_read_only_memory_maps_are_accepted(drawn, folds, tmp_path):
    names = ("train_images", "train_masks")
    for name in names:
        np.save(tmp_path / f"{name}.npy", getattr(drawn, name))
    mapped = Tiles(
        *(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in names), drawn.test_images, drawn.table
    )
    x, _ = get_data(0, folds, 101, 8, tiles=mapped, stats=STATS).valid.one_batch()
    assert torch.equal(x, get_data(0, folds, 101, 8, tiles=drawn, stats=STATS).valid.one_batch()[0])


@pytest.mark.parametrize("n, size", [(12, 64), (3, 128)])
def test_show_batch_draws(drawn, folds, n, size):
    figure = get_data(0, folds, size, 24, tiles=drawn, stats=STATS).show_batch(max_n=n)
    assert isinstance(figure, Figure)
    drawn_axes = [ax for ax in figure.axes if ax.images]
    assert len(drawn_axes) == n and all(ax.get_title().startswith("salt ") for ax in drawn_axes)
    assert any(ax.collections for ax in drawn_axes), "the outline of some salt"
    figure.canvas.draw()
    plt.close(figure)


def test_show_batch_of_validation_puts_the_outline_over_the_image(drawn, folds):
    figure = get_data(0, folds, 224, 12, tiles=drawn, stats=STATS).valid.show_batch(max_n=12)
    for ax in figure.axes:
        assert ax.get_xlim() == (0, 224) and ax.get_ylim() == (224, 0)
    plt.close(figure)


def test_real_tiles_arrive_as_pil_resizes_them(salt_tiles, tmp_path):
    """From Kaggle's PNG to the model's input, for 40 real tiles."""
    pngs = {
        kind: {tile: load() for tile, (_, load) in list(tiles.items())[:: len(tiles) // 40]}
        for kind, tiles in files.pngs(salt_tiles, "train", files.Faults()).items()
    }
    for kind, some in pngs.items():
        (tmp_path / "train" / kind).mkdir(parents=True)
        for tile, png in some.items():
            (tmp_path / "train" / kind / f"{tile}.png").write_bytes(png)
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images" / "other.png").write_bytes(next(iter(pngs["images"].values())))
    ids = list(pngs["images"])
    rows = pd.read_csv(salt_tiles / "train.csv", dtype=str, keep_default_na=False).set_index("id").loc[ids]
    rows.to_csv(tmp_path / "train.csv")
    (tmp_path / "sample_submission.csv").write_text("id,rle_mask\nother,1 1\n")
    (tmp_path / "depths.csv").write_text("id,z\nother,1\n" + "".join(f"{i},100\n" for i in ids))
    tiles, _ = competition.read(tmp_path)
    folds = pd.DataFrame({"id": tiles.train_table["id"], "fold": SCHEMES["kfold"](tiles.train_table, 2, 42)})
    for size in (64, 128, 224):
        dls = get_data(0, folds, size, 64, tiles=tiles, stats=STATS)
        x, y = dls.valid.one_batch()
        for tile, ours, mask in zip(dls.valid.ids, greys(x), y, strict=True):
            with Image.open(io.BytesIO(pngs["images"][tile])) as image:
                theirs = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR), float)
            assert np.abs(ours - theirs).max() <= 2
            with Image.open(io.BytesIO(pngs["masks"][tile])) as image:
                assert np.array_equal(mask[0].numpy() > 0.5, np.asarray(image) > 0)
