"""Flip, zoom, rotation and brightness against fastai's own, with the same draws; image and mask stay aligned."""

from math import sqrt

import pytest
import torch
from fastai.torch_core import TensorImage
from fastai.vision.augment import Brightness, Flip, Rotate, Zoom
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt.config import Augment
from pipeline.salt.tiles.augment import _affine, _warped, augment_batch

SIZE = 64
NOTHING = Augment(flip_p=0, brightness_p=0, zoom_p=0)
FLIP = Augment(flip_p=1, brightness_p=0, zoom_p=0)
LIGHT = Augment(flip_p=0, brightness_p=1, zoom_p=0)
ZOOM = Augment(flip_p=0, brightness_p=0, zoom_p=1, zoom=1.5)


def noise(n: int = 8) -> tuple[Tensor, Tensor]:
    """Images of all grey values, and masks."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return images, torch.rand(n, 1, SIZE, SIZE, generator=generator) > 0.7


def seeded(images: Tensor, masks: Tensor, augment: Augment, seed: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return augment_batch(images, masks, augment)


def window(augment: Augment, n: int, seed: int = 5) -> Tensor:
    """(n, 2, 2): left and right, top and bottom edge of what each tile shows, in pixels of the tile, 0..SIZE.

    Read off ramps whose grey value gives the column or row: column c has the value 4c and its centre at c + 0.5.
    """
    ramp = (4 * torch.arange(SIZE)).to(torch.uint8).expand(n, 1, SIZE, SIZE)
    edges = []
    for along_x in (True, False):
        tile = ramp if along_x else ramp.transpose(2, 3).contiguous()
        moved = seeded(tile, torch.zeros_like(tile, dtype=torch.bool), augment, seed)[0][:, 0] * 255 / 4 + 0.5
        line = moved[:, SIZE // 2] if along_x else moved[:, :, SIZE // 2]
        inner = line[:, 8:-8]  # linear: away from the border, where greys repeat
        slope = (inner[:, -1] - inner[:, 0]) / (inner.shape[1] - 1)
        first = inner[:, 0] - 8.5 * slope
        edges.append(torch.stack([first, first + SIZE * slope], 1))
    return torch.stack(edges, 1)


def test_shapes_types_and_ranges():
    images, masks = seeded(*noise(), Augment(flip_p=0.5, brightness_p=1, zoom_p=1, zoom=2))
    assert images.shape == masks.shape == (8, 1, SIZE, SIZE)
    assert images.dtype == masks.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and set(masks.unique().tolist()) == {0.0, 1.0}


def test_without_chance_nothing_changes():
    images, masks = noise()
    same, same_masks = seeded(images, masks, NOTHING)
    torch.testing.assert_close(same, images / 255, atol=1e-4, rtol=0)
    assert torch.equal((same * 255).round().byte(), images) and torch.equal(same_masks, masks.float())


def test_a_flip_is_fastais_and_left_right():
    images, masks = noise()
    flipped, flipped_masks = seeded(images, masks, FLIP)
    assert torch.equal((flipped * 255).round().byte(), images.flip(-1)) and torch.equal(
        flipped_masks, masks.flip(-1).float()
    )
    theirs = Flip(p=1, pad_mode="border")(TensorImage(images / 255), split_idx=0)
    torch.testing.assert_close(flipped, theirs.as_subclass(Tensor), atol=1e-4, rtol=0)


def test_brightness_is_fastais():
    images, masks = noise()
    bright, same_masks = seeded(images, masks, LIGHT)
    assert torch.equal(same_masks, masks.float())
    # A pixel of 0.5 (127.5 / 255) would become the drawn grey itself; 51 is 0.2, so odds = out / (1 - out) * 4.
    probe = seeded(torch.full_like(images, 51), masks, LIGHT)[0][:, 0, 0, 0]
    odds = probe / (1 - probe) * 4
    draws = odds / (1 + odds)
    theirs = Brightness(max_lighting=0.1, p=1, draw=draws.tolist())(TensorImage(images / 255), split_idx=0)
    torch.testing.assert_close(bright, theirs.as_subclass(Tensor), atol=1e-5, rtol=0)
    direct = torch.sigmoid(torch.logit(images / 255) + torch.logit(draws).view(-1, 1, 1, 1))
    torch.testing.assert_close(bright, direct, atol=1e-5, rtol=0)


def test_brightness_is_drawn_evenly_and_leaves_black_and_white():
    n = 4000
    tiles = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(n, 1, 3, 1)
    bright = seeded(tiles, torch.zeros_like(tiles, dtype=torch.bool), LIGHT)[0][:, 0, 0]
    assert bright[:, 0].max() < 1e-5 and bright[:, 2].min() > 1 - 1e-5
    odds = bright[:, 1] / (1 - bright[:, 1]) * 4
    grey = odds / (1 + odds)
    assert 0.45 - 1e-5 <= grey.min() < 0.451 and 0.549 < grey.max() <= 0.55 + 1e-5
    assert abs(grey.mean() - 0.5) < 4 * 0.1 / sqrt(12 * n)  # a uniform draw of width 0.1: sd of the mean


def test_a_zoom_is_fastais():
    images, masks = noise()
    zoomed, zoomed_masks = seeded(images, masks, ZOOM)
    (left, right), (top, bottom) = window(ZOOM, 8).permute(1, 2, 0)
    torch.testing.assert_close(right - left, bottom - top, atol=0.01, rtol=0)  # one magnification for both axes
    scale = (right - left) / SIZE
    share = [(start / (SIZE * (1 - scale))).tolist() for start in (left, top)]  # fastai's draw_x, draw_y in 0..1
    zoom = Zoom(
        p=1,
        max_zoom=1.5,
        draw=(1 / scale).tolist(),
        draw_x=share[0],
        draw_y=share[1],
        pad_mode="border",
        align_corners=False,
    )
    theirs = zoom(TensorImage(images / 255), split_idx=0).as_subclass(Tensor)
    torch.testing.assert_close(zoomed, theirs, atol=0.02, rtol=0)  # the window is known to 0.01 px, noise is steep
    their_masks = zoom(TensorImage(masks.float()), split_idx=0).as_subclass(Tensor)
    assert (zoomed_masks == (their_masks > 0.5)).float().mean() > 0.99


@pytest.mark.parametrize("augment", [ZOOM, Augment(flip_p=0, brightness_p=0, zoom_p=1, zoom=1.1)])
def test_the_zoom_window_lies_inside_the_tile_anywhere_and_at_any_magnification(augment):
    n = 1000
    edges = window(augment, n)
    start, end = edges[..., 0], edges[..., 1]
    assert start.min() > -0.02 and end.max() < SIZE + 0.02
    magnification = SIZE / (end - start)
    assert 1 - 1e-3 < magnification.min() < 1.01 and augment.zoom - 0.01 < magnification.max() < augment.zoom + 1e-3
    # uniform in 1..zoom, as fastai draws it: the mean within four standard deviations
    assert abs(magnification[:, 0].mean() - (1 + augment.zoom) / 2) < 4 * (augment.zoom - 1) / sqrt(12 * n)
    room = SIZE - (end - start)
    place = (start / room)[room > 0.5]
    assert abs(place.mean() - 0.5) < 4 / sqrt(12 * len(place)) and place.min() < 0.1 and place.max() > 0.9


def test_image_and_mask_stay_together():
    _, masks = noise(64)
    blocks = masks[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    augment = Augment(
        flip_p=0.5, brightness_p=0, zoom_p=1, zoom=1.6, rotate=9, stretch=1.2, shear=0.2, shift=0.1, warp_p=1
    )
    images, moved = seeded(blocks.byte() * 255, blocks, augment)
    assert torch.equal((images > 0.5).float(), moved) and not torch.equal(moved, blocks.float())


def test_each_tile_has_its_own_chance_and_each_change_its_share():
    n = 4000
    tile = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3) * 20 + 40
    augment = Augment(flip_p=0.5, brightness_p=0.25, zoom_p=0.25, zoom=1.3)
    images, _ = seeded(tile.repeat(n, 1, 1, 1), torch.zeros(n, 1, 3, 3, dtype=torch.bool), augment)
    flipped = images[:, 0, 1, 0] > images[:, 0, 1, 2]
    assert abs(flipped.float().mean() - 0.5) < 4 * sqrt(0.25 / n)  # four standard deviations of a share
    alone = {"brightness_p": LIGHT, "zoom_p": ZOOM}
    for name in alone:
        one = Augment(**{"flip_p": 0, "brightness_p": 0, "zoom_p": 0, "zoom": 1.3, name: 0.25})
        images, _ = seeded(tile.repeat(n, 1, 1, 1), torch.zeros(n, 1, 3, 3, dtype=torch.bool), one)
        changed = ((images - tile / 255).abs().amax((1, 2, 3)) > 1e-5).float().mean()
        assert abs(changed - 0.25) < 4 * sqrt(0.25 * 0.75 / n), name


def test_a_seed_gives_the_same_and_another_seed_does_not():
    augment = Augment(flip_p=0.5, brightness_p=0.5, zoom_p=0.5)
    first, again, other = (seeded(*noise(), augment, seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_nothing_else_is_moved():
    images, masks = noise()
    before = images.clone(), masks.clone()
    seeded(images, masks, Augment(flip_p=1, brightness_p=1, zoom_p=1))
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])


def test_a_rotation_is_fastais():
    """The second notebook's Rotate(4): the same angles as fastai's, measured by the position of a bright spot."""
    augment = Augment(flip_p=0, brightness_p=0, zoom_p=0, rotate=20, rotate_p=1)
    images, masks = noise()
    spot = torch.zeros_like(images)
    spot[..., SIZE // 2 - 1 : SIZE // 2 + 1, -12:-10] = 255  # right of the centre, at its height
    moved = seeded(spot, masks, augment)[0][:, 0]
    weight = moved / moved.sum((1, 2), keepdim=True)
    centres = torch.arange(SIZE) + 0.5 - SIZE / 2
    x, y = (weight.sum(1) * centres).sum(1), (weight.sum(2) * centres).sum(1)
    degrees = torch.rad2deg(torch.atan2(-y, x))  # anticlockwise, as the eye sees it
    assert degrees.abs().max() <= 20.2 and degrees.min() < -5 and degrees.max() > 5
    rotated, rotated_masks = seeded(images, masks, augment)
    rotate = Rotate(max_deg=20, p=1, draw=(-degrees).tolist(), align_corners=False)  # padded by reflection
    theirs = rotate(TensorImage(images / 255), split_idx=0).as_subclass(Tensor)
    torch.testing.assert_close(rotated, theirs, atol=0.1, rtol=0)  # known to 0.05 degrees, noise is steep
    assert (rotated - theirs).abs().mean() < 0.005
    their_masks = rotate(TensorImage(masks.float()), split_idx=0).as_subclass(Tensor)
    assert (rotated_masks == (their_masks > 0.5)).float().mean() > 0.99


@pytest.mark.parametrize(
    "warp, within",
    [
        # output to input: stretched by 1.44 across or down, area kept; sheared by a quarter; shifted by a tenth of 2
        ({"stretch": 1.44}, {"xx": (1 / 1.2, 1.2), "yy": (1 / 1.2, 1.2)}),
        ({"shear": 0.25}, {"xy": (-0.25, 0.25)}),
        ({"shift": 0.1}, {"x": (-0.2, 0.2), "y": (-0.2, 0.2)}),
        ({"rotate": 30}, {"xx": (3**0.5 / 2, 1), "yy": (3**0.5 / 2, 1), "xy": (-0.5, 0.5), "yx": (-0.5, 0.5)}),
    ],
)
def test_each_warp_alone_changes_its_own_numbers_within_its_limits(warp, within):
    """The matrix from output to input coordinates; entries not listed do not change."""
    torch.manual_seed(5)
    n = 4000
    augment = Augment(flip_p=0, zoom_p=0, rotate_p=1, warp_p=1, **warp)
    matrix = _warped(_affine(n, augment, torch.device("cpu")), augment)
    names = {"xx": (0, 0), "xy": (0, 1), "x": (0, 2), "yx": (1, 0), "yy": (1, 1), "y": (1, 2)}
    for name, (row, column) in names.items():
        numbers = matrix[:, row, column]
        if name in within:
            low, high = within[name]
            span = high - low
            assert low - 1e-6 <= numbers.min() < low + 0.02 * span and high - 0.02 * span < numbers.max() <= high + 1e-6
        else:
            assert numbers.eq(float(row == column)).all(), name
    if "stretch" in warp:
        torch.testing.assert_close(matrix[:, 0, 0] * matrix[:, 1, 1], torch.ones(n))


@pytest.mark.parametrize("augment", [Augment(), Augment(zoom=1.6, zoom_p=0.75, rotate_p=1, warp_p=1)])
def test_without_warps_every_bit_is_as_it_was_before_there_were_any(augment):
    """The earlier formula, and as many random numbers."""

    def chance(p: float) -> Tensor:
        return (torch.rand(n) < p).float()

    images, masks = noise()
    n = len(images)
    ours, state = seeded(images, masks, augment), torch.get_rng_state()
    torch.manual_seed(5)
    scale = 1 / (1 + chance(augment.zoom_p) * (augment.zoom - 1) * torch.rand(n))
    shift = (1 - scale)[:, None] * (2 * torch.rand(n, 2) - 1)
    mirror = 1 - 2 * chance(augment.flip_p)
    centres = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    x, y = (s[:, None] * centres + t[:, None] for s, t in ((mirror * scale, shift[:, 0]), (scale, shift[:, 1])))
    grid = torch.stack([x[:, None, :].expand(-1, SIZE, -1), y[:, :, None].expand(-1, -1, SIZE)], dim=-1)
    both = torch.cat([images.float() / 255, masks.float()], dim=1)
    moved = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
    grey = 0.5 * (1 + augment.brightness * (2 * torch.rand(n) - 1))
    odds = torch.where(chance(augment.brightness_p) > 0, grey / (1 - grey), 1.0).view(n, 1, 1, 1)
    assert torch.equal(ours[0], moved[:, :1] * odds / (1 + (odds - 1) * moved[:, :1]))
    assert torch.equal(ours[1], (moved[:, 1:] > 0.5).float()) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("warp", ["rotate", "stretch", "shear", "shift"])
def test_a_warp_without_a_chance_moves_nothing(warp):
    """Up to the rounding of another grid."""
    images, masks = noise()
    augment = Augment(flip_p=0, brightness_p=0, zoom_p=0, rotate_p=0, warp_p=0, **{warp: 2})
    same, same_masks = seeded(images, masks, augment)
    torch.testing.assert_close(same, images / 255, atol=1e-4, rtol=0)
    assert torch.equal(same_masks, masks.float())
