"""Symmetric Lovász loss, forward and backward, 32 x 128 x 128: one sort for all tiles against a loop called twice.

python -m bench.speed.losses
"""

from collections.abc import Callable

import torch

from bench.baselines import losses as plain
from bench.harness.compare import Result, compare
from bench.harness.tiles import random_masks
from pipeline.salt.device import pick_device
from pipeline.salt.losses import symmetric_lovasz


def run(device: torch.device) -> list[Result]:
    masks = random_masks(32, 128, device)[:, None].float()
    logits = torch.randn(masks.shape, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()

    def step(loss: Callable) -> Callable[[], None]:
        return lambda: torch.autograd.grad(loss(logits, masks), logits)

    return [compare("symmetric Lovász, 32x128x128", step(symmetric_lovasz), step(plain.symmetric_lovasz), 15, device)]


if __name__ == "__main__":
    run(pick_device())
