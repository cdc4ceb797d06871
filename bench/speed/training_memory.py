"""Memory of a training step of more_dynamic_unet with either way to reduce channels, and of fastai's DynamicUnet.

    python -m bench training_memory

On a GPU the most that torch held in a step. Elsewhere counted, without computing anything: what forward keeps for
backward, the weights, their gradients and Adam's two moments, all in fp32. What convolutions need for themselves while
they work is in the first number only.
"""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bench.harness import memory
from bench.harness.compare import Result
from pipeline.salt.models import build_model

ENCODER, SHAPE = (
    "resnet50",
    (8, 3, 512, 512),
)  # of the claim in https://blog.xack.me/posts/2024/a-more-dynamic-unet-in-pytorch
NETWORKS = {
    "more_dynamic_unet, eq_skip": ("more_dynamic_unet", {"reduction": "eq_skip"}),
    "more_dynamic_unet, halve": ("more_dynamic_unet", {"reduction": "halve"}),
    "DynamicUnet": ("dynamic_unet", {}),
}


def run(device: torch.device, encoder: str = ENCODER, shape: tuple[int, ...] = SHAPE) -> list[Result]:
    how = held if device.type == "cuda" else counted
    peaks = {
        name: how(build_model(model, encoder, options), shape) / 2**20 for name, (model, options) in NETWORKS.items()
    }
    ours, *others = peaks
    task = f"{how.__name__} in training, {encoder}, {shape[-1]} px, batch {shape[0]}"
    return [
        memory.compare(f"memory {task}: {ours}; theirs: {other}", peaks[ours], peaks[other], device.type)
        for other in others
    ]


def counted(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes, from shapes alone: nothing is allocated."""
    model = model.to("meta").train()
    kept = {}  # storages by address; held, so that no address is given out twice

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        loss = model(torch.empty(shape, device="meta")).sum()
    weights = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}
    activations = sum(s.nbytes() for address, s in kept.items() if address not in weights)
    assert loss.requires_grad
    return activations + 4 * sum(s.nbytes() for s in weights.values())


def held(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes at most on the GPU in the second of two steps: by then the optimizer has its moments."""
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        model(torch.randn(shape, device="cuda")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = torch.cuda.max_memory_allocated()
    del optimizer
    model.cpu()
    return peak
