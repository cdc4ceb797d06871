"""Losses against float64 definitions, other implementations, and numbers worked out by hand."""

import math
from typing import NamedTuple, get_args, get_type_hints

import pytest
import torch
import torchvision
from kornia.losses import lovasz_hinge_loss as kornia_lovasz_hinge
from torch import Tensor
from torch.nn import functional as F

from pipeline.salt import losses
from pipeline.salt.config import Train
from pipeline.salt.losses import LOSSES, bce, composite, lovasz_hinge, symmetric_lovasz

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PHI = {"relu": lambda e: e.clamp(min=0), "elu1": lambda e: torch.where(e > 0, e + 1, e.clamp(max=0).exp())}


class Heads(NamedTuple):
    logits: Tensor
    deep: list[Tensor]
    any_salt: Tensor | None


def _batch(side: int = 9) -> tuple[Tensor, Tensor]:
    """Six tiles: two mixed, one empty, one full, one with a single pixel of salt, one with all but one."""
    torch.manual_seed(0)
    logits, masks = 2 * torch.randn(6, 1, side, side), torch.zeros(6, 1, side, side)
    masks[:2] = (torch.rand(2, 1, side, side) < 0.4).float()
    masks[3] = 1
    masks[4, 0, 0, 1] = 1
    masks[5] = 1 - masks[4]
    return logits, masks


def _lovasz_by_definition(logits: Tensor, masks: Tensor, weight: str) -> Tensor:
    """Berman et al. 2018: the Lovász extension of the set function |wrong| / |salt or wrong|, at the errors."""
    total = torch.zeros((), dtype=torch.float64)
    for o, t in zip(logits.double().flatten(1), masks.double().flatten(1), strict=True):
        errors = 1 - o * (2 * t - 1)
        salt, wrong, before = set(t.nonzero().flatten().tolist()), set(), 0.0
        for pixel in sorted(range(len(errors)), key=lambda i: -errors[i].item()):
            wrong.add(pixel)
            jaccard = len(wrong) / len(salt | wrong)
            total = total + PHI[weight](errors[pixel]) * (jaccard - before)
            before = jaccard
    return total / len(logits)


def _symmetric_by_definition(logits: Tensor, masks: Tensor, weight: str) -> Tensor:
    return (_lovasz_by_definition(logits, masks, weight) + _lovasz_by_definition(-logits, 1 - masks, weight)) / 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weight", losses.WEIGHTS)
@pytest.mark.parametrize(
    "ours, definition", [(lovasz_hinge, _lovasz_by_definition), (symmetric_lovasz, _symmetric_by_definition)]
)
def test_lovasz_and_its_gradient_are_those_of_the_definition(ours, definition, weight, device):
    logits, masks = _batch()
    o = logits.to(device, copy=True).requires_grad_()
    expected_at = logits.double().requires_grad_()
    loss, expected = ours(o, masks.to(device), weight), definition(expected_at, masks, weight)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(o.grad.cpu().double(), expected_at.grad, rtol=1e-4, atol=1e-7)


def test_relu_is_kornias():
    # kornia takes (B, 1, H, W) logits and (B, H, W) labels, weighs by relu, and averages over images as we do.
    logits, masks = _batch(side=33)
    torch.testing.assert_close(lovasz_hinge(logits, masks, "relu"), kornia_lovasz_hinge(logits, masks[:, 0].long()))


def test_four_pixels_by_hand():
    # truth 1 0 0 0, logits -.5 1 -3 0: errors 1.5, 2, -2, 1. Worst first: rock, salt, rock, rock.
    # For the salt |wrong| / |salt or wrong| = 1/2, 2/2, 3/3, 4/4: rises 1/2, 1/2, 0, 0.
    # For the rock (three pixels)                1/3, 2/4, 3/4, 4/4: rises 1/3, 1/6, 1/4, 1/4.
    logits = torch.tensor([-0.5, 1.0, -3.0, 0.0]).view(1, 1, 2, 2)
    masks = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    assert lovasz_hinge(logits, masks, "relu").item() == pytest.approx(2 / 2 + 1.5 / 2)
    assert symmetric_lovasz(logits, masks, "relu").item() == pytest.approx((7 / 4 + (2 / 3 + 1.5 / 6 + 1 / 4)) / 2)
    # elu(e) + 1 is e + 1 above 0 and exp(e) below.
    assert lovasz_hinge(logits, masks).item() == pytest.approx(3 / 2 + 2.5 / 2)
    rock = 3 / 3 + 2.5 / 6 + 2 / 4 + math.exp(-2) / 4
    assert symmetric_lovasz(logits, masks).item() == pytest.approx((11 / 4 + rock) / 2)


@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_one_sort_gives_the_mean_of_two_hinges(weight):
    torch.manual_seed(1)
    logits, masks = 3 * torch.randn(8, 1, 101, 101), (torch.rand(8, 1, 101, 101) < 0.3).float()
    o = logits.clone().requires_grad_()
    two = (lovasz_hinge(o, masks, weight) + lovasz_hinge(-o, 1 - masks, weight)) / 2
    (expected,) = torch.autograd.grad(two, o)
    one = symmetric_lovasz(o, masks, weight)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(torch.autograd.grad(one, o)[0], expected, rtol=1e-3, atol=1e-8)


def test_salt_and_rock_are_equals_in_the_symmetric_form():
    logits, masks = _batch()
    torch.testing.assert_close(symmetric_lovasz(logits, masks), symmetric_lovasz(-logits, 1 - masks))


def test_gradient_of_an_empty_tile():
    # No salt: |wrong| / |wrong| = 1 from the first pixel on, so the hinge sees the worst of 10,201 pixels alone. For
    # the rock every rise is 1/10201, and relu passes the errors above 0, here logits above -1: 84.1 % of a normal law.
    torch.manual_seed(0)
    logits, masks = torch.randn(1, 1, 101, 101), torch.zeros(1, 1, 101, 101)

    def taught(loss) -> int:
        o = logits.clone().requires_grad_()
        return int(torch.autograd.grad(loss(o), o)[0].count_nonzero())

    assert taught(lambda o: lovasz_hinge(o, masks, "relu")) == 1
    assert taught(lambda o: lovasz_hinge(o, masks, "elu1")) == 1
    assert taught(lambda o: symmetric_lovasz(o, masks, "relu")) == (logits > -1).sum()
    assert (logits > -1).float().mean().item() == pytest.approx(0.8413, abs=0.01)
    assert taught(lambda o: symmetric_lovasz(o, masks, "elu1")) == 101 * 101


def test_hard_labels_turn_the_hinge_into_twice_one_minus_iou():
    torch.manual_seed(0)
    pred, truth = (torch.rand(8, 1, 9, 9) > 0.5 for _ in range(2))
    iou = (pred & truth).sum((1, 2, 3)) / (pred | truth).sum((1, 2, 3))
    per_tile = lovasz_hinge(2.0 * pred - 1, truth, "relu", reduction="none")
    torch.testing.assert_close(per_tile, 2 * (1 - iou))


def test_focal_is_torchvisions_and_without_focus_half_of_cross_entropy():
    logits, masks = _batch()
    expected = torchvision.ops.sigmoid_focal_loss(logits, masks, alpha=0.25, gamma=2, reduction="mean")
    torch.testing.assert_close(losses.focal(logits, masks), expected)
    torch.testing.assert_close(losses.focal(logits, masks, gamma=0, alpha=0.5), bce(logits, masks) / 2)


def test_bce_by_hand():
    # A logit of ln 3 is p = 3/4: -ln(3/4) on salt, -ln(1/4) on rock.
    logits, masks = torch.full((1, 1, 1, 2), math.log(3)), torch.tensor([[[[1.0, 0.0]]]])
    assert bce(logits, masks).item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert LOSSES["bce_lovasz"](logits, masks).item() == pytest.approx(
        bce(logits, masks).item() + symmetric_lovasz(logits, masks).item()
    )


def test_a_profile_may_name_these_losses_and_no_others():
    assert get_args(get_type_hints(Train)["loss"]) == tuple(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
class TestEvery:
    """Properties of every loss in the table."""

    def test_the_order_of_the_pixels_does_not_matter(self, name):
        logits, masks = _batch()
        loss, order = LOSSES[name](logits, masks), torch.randperm(81)
        torch.testing.assert_close(LOSSES[name](logits.flip(-1), masks.flip(-1)), loss)
        shuffled = [x.flatten(1)[:, order].view_as(x) for x in (logits, masks)]
        torch.testing.assert_close(LOSSES[name](*shuffled), loss)

    def test_mean_is_the_mean_over_tiles_each_for_itself(self, name):
        logits, masks = _batch()
        per_tile = LOSSES[name](logits, masks, reduction="none")
        assert per_tile.shape == (6,)
        torch.testing.assert_close(per_tile.mean(), LOSSES[name](logits, masks))
        alone = [LOSSES[name](o[None], t[None]) for o, t in zip(logits, masks, strict=True)]
        torch.testing.assert_close(per_tile, torch.stack(alone))

    def test_masks_of_any_dtype_and_half_logits_are_computed_in_float32(self, name):
        logits, masks = _batch()
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.bfloat16):
            assert LOSSES[name](logits, masks.to(dtype)) == LOSSES[name](logits, masks)
        half = logits.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = LOSSES[name](half, masks)
        assert loss.dtype == torch.float32 and loss == LOSSES[name](half.float(), masks)

    def test_gradient_descent_on_the_logits_finds_the_masks(self, name):
        logits, masks = _batch()
        logits.requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.3)
        # The hinge teaches an empty tile one pixel a step: it is left out here, see test_gradient_of_an_empty_tile.
        taught = [0, 1, 3, 4, 5] if name.startswith("lovasz_hinge") else range(6)
        for _ in range(150):
            optimizer.zero_grad()
            LOSSES[name](logits, masks).backward()
            assert torch.isfinite(logits.grad).all()
            optimizer.step()
        assert all(((logits[i] > 0) == masks[i].bool()).all() for i in taught)

    def test_no_loss_waits_for_the_device_or_has_a_shape_that_depends_on_data(self, name):
        o, t = (torch.empty(2, 1, 16, 16, device="meta") for _ in range(2))  # holds no data: reading any would raise
        o.requires_grad_()
        heads = Heads(o, [o[..., ::2, ::2]], o[:, :, 0, 0])
        composite(LOSSES[name])(heads, t).backward()
        assert o.grad.shape == o.shape

    def test_tensor_subclasses_may_be_mixed(self, name):
        class Image(Tensor):
            pass

        class Mask(Tensor):
            pass

        logits, masks = _batch()
        heads = Heads(logits.as_subclass(Image), [logits.as_subclass(Image)], None)
        loss = composite(LOSSES[name])(heads, masks.as_subclass(Mask))
        assert type(loss) is Tensor
        assert loss == composite(LOSSES[name])(Heads(logits, [logits], None), masks)

    def test_composite_is_the_sum_of_its_parts(self, name):
        loss, (logits, masks) = LOSSES[name], _batch(side=8)
        torch.manual_seed(2)
        deep, any_salt = [torch.randn(6, 1, side, side) for side in (8, 4, 2)], torch.randn(6, 1)
        salted = masks.flatten(1).any(1)
        expected = loss(logits, masks) + 0.05 * F.binary_cross_entropy(any_salt.sigmoid()[:, 0], salted.float())
        for maps in deep:
            for i in range(6):  # each tile counts a sixth; without salt as if its logits were 0
                small = _bilinear_by_hand(masks[i : i + 1], maps.shape[-1])
                expected = expected + loss(maps[i : i + 1] if salted[i] else 0 * maps[i : i + 1], small) / 6
        torch.testing.assert_close(composite(loss)(Heads(logits, deep, any_salt), masks), expected)
        torch.testing.assert_close(composite(loss)(Heads(logits, [], None), masks), loss(logits, masks))
        torch.testing.assert_close(composite(loss)(logits, masks), loss(logits, masks))

    def test_empty_tiles_stay_in_the_mean_and_teach_the_deep_heads_nothing(self, name):
        """The mean is over the whole batch: next to as many tiles without salt, a tile's gradient is halved."""
        _, masks = _batch(side=8)
        masks = masks[[0, 1, 4]]
        deep = torch.randn(6, 1, 8, 8, requires_grad=True)
        composite(LOSSES[name])(Heads(torch.zeros(3, 1, 8, 8), [deep[:3]], None), masks).backward()
        alone, deep.grad = deep.grad[:3].clone(), None
        padded = torch.cat([masks, torch.zeros(3, 1, 8, 8)])
        composite(LOSSES[name])(Heads(torch.zeros(6, 1, 8, 8), [deep], None), padded).backward()
        torch.testing.assert_close(deep.grad[:3], alone / 2)
        assert deep.grad[3:].count_nonzero() == 0 and alone.count_nonzero() > 0


def _bilinear_by_hand(masks: Tensor, side: int) -> Tensor:
    """(1, 1, 8, 8) -> (1, 1, side, side) for side 8, 4 or 2: the mean of the four pixels around each new centre."""
    every = 8 // side
    if every == 1:
        return masks
    first = every // 2 - 1
    return sum(masks[..., first + i :: every, first + j :: every] for i in (0, 1) for j in (0, 1)) / 4
