"""Resizing tiles to the model's size and logits back, against PIL."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipeline.salt import parts
from pipeline.salt.tiles import geometry
from pipeline.salt.tiles.competition import SIDE
from pipeline.salt.tiles.geometry import mask_to_square, to_model_input, to_square, to_tile

TILE = (SIDE, SIDE)


def noise(n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def blobs(n: int, seed: int) -> Tensor:
    """(n, 1, 101, 101) bool, with edges in every direction."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    centre = torch.rand(n, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) * SIDE
    radius = torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(seed + 1)) * 60
    return ((y - centre[:, 0]).hypot(x - centre[:, 1]) < radius)[:, None]


@pytest.mark.parametrize("size", [64, 128, 224])
def test_logits_come_back_as_pil_resizes_floats(size):
    logits = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    theirs = Image.fromarray(logits[0, 0].numpy()).resize(TILE, Image.Resampling.BILINEAR)
    np.testing.assert_allclose(to_tile(logits, TILE)[0, 0].numpy(), np.asarray(theirs), atol=1e-4)


@pytest.mark.parametrize("size", [32, 64, 96, 101, 128, 202, 224])
def test_a_square_is_pils_bilinear_resize_within_rounding(size):
    tiles = noise()
    ours = to_square(tiles, size)
    theirs = np.stack(
        [np.asarray(Image.fromarray(t.numpy()).resize((size, size), Image.Resampling.BILINEAR)) for t in tiles[:, 0]]
    )
    assert ours.shape == (3, 1, size, size) and ours.dtype == torch.uint8
    assert np.abs(ours[:, 0].numpy().astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("resize, tiles", [(to_square, noise()), (mask_to_square, blobs(4, 0))])
def test_tiles_go_to_the_device_and_are_resized_there_part_by_part(monkeypatch, resize, tiles):
    whole = resize(tiles, 64)
    monkeypatch.setattr(parts, "PIXELS", 2 * tiles[0].numel())
    assert torch.equal(resize(tiles, 64), whole) and whole.dtype == tiles.dtype
    seen, interpolate = [], geometry.F.interpolate

    def noting(x, **how):
        seen.append((x.device.type, len(x)))
        return interpolate(x, **how)

    monkeypatch.setattr(geometry.F, "interpolate", noting)
    assert resize(tiles, 64, torch.device("meta")).device.type == "meta"
    assert len(seen) == -(-len(tiles) // 2) and {*seen} <= {("meta", 2), ("meta", 1)}


def test_at_its_own_size_a_tile_is_left_alone():
    assert torch.equal(to_square(noise(), SIDE), noise()) and torch.equal(
        mask_to_square(blobs(4, 0), SIDE), blobs(4, 0)
    )


@pytest.mark.parametrize("size", [32, 64, 96, 101, 128, 224])
def test_a_mask_square_is_pils_nearest_resize(size):
    masks = blobs(6, 1)
    theirs = [
        np.asarray(Image.fromarray(m.byte().numpy()).resize((size, size), Image.Resampling.NEAREST)) > 0
        for m in masks[:, 0]
    ]
    ours = mask_to_square(masks, size)
    assert ours.dtype == torch.bool and ours.shape == (6, 1, size, size)
    np.testing.assert_array_equal(ours[:, 0].numpy(), np.stack(theirs))


@pytest.mark.parametrize("size", [101, 128, 202, 224, 256])
def test_a_mask_round_trips(size):
    masks = blobs(40, 2)
    logits = mask_to_square(masks, size).float() * 2 - 1
    back = to_tile(logits, TILE) > 0
    # Nearest in and bilinear out may disagree on the pixels of an edge, by less than one in a hundred of those.
    wrong = (back != masks).flatten(1).float().mean(1)
    assert back.shape == masks.shape and wrong.max() < 0.012 and wrong.mean() < 0.004
    if size % SIDE == 0:
        assert torch.equal(back, masks)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(32, 256))
def test_what_is_symmetric_stays_symmetric(size):
    """No half-pixel shift in either direction: a mirrored tile gives the mirrored result."""
    tiles, masks = noise(1), blobs(1, 3)
    assert (to_square(tiles, size).flip(-1).int() - to_square(tiles.flip(-1), size).int()).abs().max() <= 1
    logits = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(to_tile(logits, TILE).flip(-1), to_tile(logits.flip(-1), TILE), atol=1e-4, rtol=0)
    assert (mask_to_square(masks, size).flip(-1) == mask_to_square(masks.flip(-1), size)).float().mean() > 0.97


def test_a_pixel_lands_where_it_was():
    """A round trip alone would not notice shifts that cancel."""
    tile = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    tile[..., 20, 70] = 255
    for size in (128, 224):
        y, x = divmod(int(to_square(tile, size).argmax()), size)
        # the centre of pixel i of 101 lies at (i + 0.5) / 101 of the side
        assert abs((y + 0.5) / size - 20.5 / SIDE) < 0.6 / size and abs((x + 0.5) / size - 70.5 / SIDE) < 0.6 / size


def test_a_constant_stays_constant():
    for grey in (0, 7, 255):
        for size in (32, 64, 128, 224):
            assert (to_square(torch.full((1, 1, SIDE, SIDE), grey, dtype=torch.uint8), size) == grey).all()
    torch.testing.assert_close(
        to_tile(torch.full((1, 1, 224, 224), -3.25), TILE), torch.full((1, 1, SIDE, SIDE), -3.25)
    )


def test_logits_come_back_in_float32_at_any_asked_size():
    logits = torch.randn(2, 1, 64, 64)
    assert to_tile(logits.bfloat16(), TILE).dtype == torch.float32 and to_tile(logits, (40, 30)).shape == (2, 1, 40, 30)
    assert torch.equal(to_tile(logits, (64, 64)), logits)


def test_the_model_gets_three_normalised_channels_last():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    grey = noise()
    x = to_model_input(grey, mean, std)
    assert x.shape == (3, 3, SIDE, SIDE) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        torch.testing.assert_close(x[:, channel], (grey[:, 0] / 255 - mean[channel]) / std[channel])
    torch.testing.assert_close(to_model_input(grey / 255, mean, std), x)
