"""Segmentation losses on (B, 1, H, W) logits and masks in 0..1: one scalar, or B values with reduction="none".

They compute in float32 whatever the input (running counts reach H*W, bfloat16 is exact up to 256), never wait for the
device, and have no shapes that depend on the data, so they can be compiled and captured in a CUDA graph.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Weight = Literal["elu1", "relu"]
Reduction = Literal["mean", "none"]

CLASSIFIER_SHARE = 0.05  # weight of the empty/non-empty cross-entropy in `composite`


def lovasz_hinge(logits: Tensor, masks: Tensor, weight: Weight = "elu1", reduction: Reduction = "mean") -> Tensor:
    """Convex surrogate of 1 - IoU of the salt, tile by tile.

    weight: how a pixel's error e = 1 - logit * (+1 on salt, -1 on rock) counts. "relu" is the paper's max(e, 0);
    "elu1" is the article's elu(e) + 1, which keeps pulling at pixels that are already right.
    Source: Berman, Triki & Blaschko 2018, https://arxiv.org/abs/1705.08790, algorithm 1.
    """
    return _lovasz(logits, masks, _salt_jaccard, weight, reduction)


def symmetric_lovasz(logits: Tensor, masks: Tensor, weight: Weight = "elu1", reduction: Reduction = "mean") -> Tensor:
    """Mean of `lovasz_hinge` for salt and for rock (logits negated, masks inverted), so empty tiles teach as well.

    Source: the 9th-place TGS solution, https://github.com/tugstugi/pytorch-saltnet.
    """
    return _lovasz(logits, masks, _symmetric_jaccard, weight, reduction)


def bce(logits: Tensor, masks: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Binary cross-entropy, nats per pixel."""
    entropy = F.binary_cross_entropy_with_logits(*_pixels(logits, masks), reduction="none")
    return _reduce(entropy.mean(dim=1), reduction)


def bce_lovasz(logits: Tensor, masks: Tensor, reduction: Reduction = "mean") -> Tensor:
    """`bce` + `symmetric_lovasz`: smooth far from the solution, shaped like the score near it."""
    return bce(logits, masks, reduction) + symmetric_lovasz(logits, masks, reduction=reduction)


def focal(
    logits: Tensor, masks: Tensor, gamma: float = 2.0, alpha: float = 0.25, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy times (1 - p)^gamma, p the probability of the true class; salt weighs alpha, rock 1 - alpha.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5; averaged over pixels, not over anchors.
    """
    logits, masks = _pixels(logits, masks)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")  # -log p
    share = alpha * masks + (1 - alpha) * (1 - masks)
    return _reduce((share * (-torch.expm1(-entropy)) ** gamma * entropy).mean(dim=1), reduction)


def composite(loss: Callable[..., Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Let one of LOSSES take the training output of a model with auxiliary heads as well as plain logits.

    Heads are read by attribute: `logits` (B, 1, H, W); `deep`, maps of logits (B, 1, h, w) of any size, or empty; and
    `any_salt`, (B, 1) logits that the tile has salt, or None. The value is loss(logits), plus for each deep map its
    loss against the mask resized bilinearly to its size, plus CLASSIFIER_SHARE times the classifier's cross-entropy.
    On tiles without salt the deep logits count as 0: these tiles stay in the mean but teach the deep heads nothing.
    With `lovasz_hinge` this is the loss of the article's second notebook.
    """
    return partial(_composite, loss)


def _composite(loss: Callable[..., Tensor], output: Any, masks: Tensor) -> Tensor:
    if isinstance(output, Tensor):
        return loss(output, masks)
    masks = _plain(masks)
    has_salt = masks.flatten(1).any(dim=1).float()  # (B,)
    total = loss(output.logits, masks)
    for deep in output.deep:
        small = F.interpolate(masks.float(), size=deep.shape[-2:], mode="bilinear", align_corners=False)
        total = total + loss(_plain(deep) * has_salt[:, None, None, None], small)
    if output.any_salt is not None:
        total = total + CLASSIFIER_SHARE * bce(output.any_salt, has_salt[:, None])
    return total


def _lovasz(
    logits: Tensor, masks: Tensor, jaccard: Callable[[Tensor], Tensor], weight: Weight, reduction: Reduction
) -> Tensor:
    """Sum over pixels of the weighted error times the rise of the Jaccard loss at that pixel, worst error first.

    The rises depend only on the order of the errors, through which no gradient flows. They are put back in the pixels'
    places as constants, so the backward pass is elementwise, without a sort or a scatter.
    """
    logits, masks = _pixels(logits, masks)
    errors = 1 - logits * (2 * masks - 1)
    with torch.no_grad():
        order = _worst_first(errors)
        losses = jaccard(masks.gather(1, order))
        rises = torch.diff(losses, dim=1, prepend=torch.zeros_like(losses[:, :1]))
        rises = torch.empty_like(rises).scatter_(1, order, rises)
    return _reduce((WEIGHTS[weight](errors) * rises).sum(dim=1), reduction)


def _worst_first(errors: Tensor) -> Tensor:
    """Indices (B, P) by falling error; on a CPU from numpy, which takes 8 ms on one thread for 32 x 128 x 128 (AVX-512)
    where torch takes 18 on two."""
    if errors.is_cpu:
        return torch.from_numpy(np.argsort(-errors.detach().numpy(), axis=1))
    return errors.argsort(dim=1, descending=True)


def _salt_jaccard(truth: Tensor) -> Tensor:
    """1 - IoU of the salt as pixels are counted wrong, worst first: (B, P) masks in that order -> (B, P).

    With n pixels wrong, s of them salt, and S salt pixels in all: IoU = (S - s) / (S + n - s).
    """
    wrong, salt_wrong, salt = _counts(truth)
    return wrong / (salt + wrong - salt_wrong)


def _symmetric_jaccard(truth: Tensor) -> Tensor:
    """Mean of `_salt_jaccard` and the same for rock, of which n - s pixels are wrong: same errors, so same order."""
    wrong, salt_wrong, salt = _counts(truth)
    rock = truth.shape[1] - salt
    return (wrong / (salt + wrong - salt_wrong) + wrong / (rock + salt_wrong)) / 2


def _counts(truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wrong = torch.arange(1, truth.shape[1] + 1, device=truth.device, dtype=truth.dtype)
    salt_wrong = truth.cumsum(dim=1)
    return wrong, salt_wrong, salt_wrong[:, -1:]


def _pixels(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    return _plain(logits).float().flatten(1), _plain(masks).float().flatten(1)  # (B, P), P = H*W


def _plain(x: Tensor) -> Tensor:
    """x without fastai's subclass, if it has one: different ones do not mix, and each slows every operation."""
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def _reduce(per_tile: Tensor, reduction: Reduction) -> Tensor:
    return per_tile.mean() if reduction == "mean" else per_tile


WEIGHTS: dict[Weight, Callable[[Tensor], Tensor]] = {"elu1": lambda errors: F.elu(errors) + 1, "relu": F.relu}

LOSSES: dict[str, Callable[..., Tensor]] = {
    "lovasz_hinge": lovasz_hinge,
    "lovasz_hinge_relu": partial(lovasz_hinge, weight="relu"),
    "symmetric_lovasz": symmetric_lovasz,
    "symmetric_lovasz_relu": partial(symmetric_lovasz, weight="relu"),
    "bce": bce,
    "bce_lovasz": bce_lovasz,
    "focal": focal,
}
