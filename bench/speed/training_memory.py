"""Memory of a training step of more_dynamic_unet, with either way to reduce channels, and of fastai's DynamicUnet.

    python -m bench training_memory

On a GPU, the most that torch held in a step. Elsewhere it is counted without computing anything: what forward keeps for
backward, the weights, their gradients and Adam's two moments, all in fp32. Only the first number includes the workspace
of convolutions.
"""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bench.harness import memory
from bench.harness.compare import Result
from pipeline.salt.models import build_model

# As in the claim of https://blog.xack.me/posts/2024/a-more-dynamic-unet-in-pytorch
ENCODER, SHAPE = "resnet50", (8, 3, 512, 512)
MODELS = {
    "more_dynamic_unet, eq_skip": ("more_dynamic_unet", {"reduction": "eq_skip"}),
    "more_dynamic_unet, halve": ("more_dynamic_unet", {"reduction": "halve"}),
    "DynamicUnet": ("dynamic_unet", {}),
}


def run(device: torch.device, encoder: str = ENCODER, shape: tuple[int, ...] = SHAPE) -> list[Result]:
    measure, verb = (measured, "measured") if device.type == "cuda" else (counted, "counted")
    peaks = {
        name: measure(build_model(model, encoder, options), shape) / 2**20 for name, (model, options) in MODELS.items()
    }
    ours, *others = peaks
    task = f"{verb} in training, {encoder}, {shape[-1]} px, batch {shape[0]}"
    return [
        memory.compare_peaks(f"memory {task}: {ours}; theirs: {other}", peaks[ours], peaks[other], device.type)
        for other in others
    ]


def counted(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a step needs, from shapes alone: nothing is allocated."""
    model = model.to("meta").train()
    storages = {}  # storages by address; kept, so that no address is reused

    def keep(t: Tensor) -> Tensor:
        storages[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        loss = model(torch.empty(shape, device="meta")).sum()
    weights = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}
    activations = sum(s.nbytes() for address, s in storages.items() if address not in weights)
    assert loss.requires_grad
    return activations + 4 * sum(s.nbytes() for s in weights.values())


def measured(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Peak bytes on the GPU in the second of two steps, when the optimizer has its moments."""
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
