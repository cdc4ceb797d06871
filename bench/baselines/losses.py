"""The Lovász losses as in most notebooks: one tile after another, and all of it twice for the symmetric form."""

import torch
from torch import Tensor
from torch.nn import functional as F


def symmetric_lovasz(logits: Tensor, masks: Tensor) -> Tensor:
    return (lovasz_hinge(logits, masks) + lovasz_hinge(-logits, 1 - masks)) / 2


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    return torch.stack([_one_tile(o.flatten(), t.flatten()) for o, t in zip(logits, masks, strict=True)]).mean()


def _one_tile(logits: Tensor, truth: Tensor) -> Tensor:
    errors, order = torch.sort(1 - logits * (2 * truth - 1), descending=True)
    truth = truth[order]
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(F.elu(errors) + 1, steps)
