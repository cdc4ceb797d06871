"""A training step of UnetResNext50 against one of segmentation_models_pytorch's Unet on the same encoder.

    python -m bench.speed.smp

The models differ in cost, so each pair of steps has a second row, in seconds per GFLOP: seconds per tile divided by
GFLOP per tile.
"""

from collections.abc import Iterator

import torch
from torch import nn

from bench.baselines import bare_loop
from bench.baselines.bare_loop import StepOptions, Steps
from bench.harness.compare import Result, compare, in_own_process
from bench.speed.train_step import SIZES, Size, batch, build_model, describe, gflop, our_steps
from pipeline.salt.device import pick_device


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    try:
        import segmentation_models_pytorch  # noqa: F401
    except ImportError:
        print(
            "segmentation_models_pytorch is not installed: the step is not measured against its Unet "
            "(pip install segmentation-models-pytorch)"
        )
        return
    size = size or SIZES[device.type]
    px, tiles = size.shapes[0]
    ours, theirs = gflop(build_model(size), px), gflop(smp_unet(size), px)
    variants = {"AMP, channels last": StepOptions(keep_freed_memory=False)}
    if device.type == "cpu":
        variants["the same, and freed memory kept as ours"] = StepOptions()
    for title, options in variants.items():
        with (
            in_own_process(our_steps, size, px, tiles, device) as mine,
            in_own_process(smp_steps, size, px, tiles, device, options) as other,
        ):
            steps = compare(
                f"{describe(size, px, tiles)}; theirs: segmentation_models_pytorch's Unet, {title}",
                mine,
                other,
                size.repeats,
                device,
            )
        trained, ratio = size.steps * tiles, steps["ratio"] * ours / theirs
        print(f"    a tile costs {ours:.1f} GFLOP, theirs {theirs:.1f}: {ratio:.2f}x per GFLOP")
        yield steps
        yield steps | {
            "name": f"one GFLOP of that; a tile costs {ours:.1f}, theirs {theirs:.1f}",
            "ratio": ratio,
            "ours": steps["ours"] / trained / ours,
            "theirs": steps["theirs"] / trained / theirs,
        }


def smp_unet(size: Size) -> nn.Module:
    from segmentation_models_pytorch import Unet

    own = size.encoder == "se_resnext50_32x4d"  # all others are timm's
    return Unet(size.encoder if own else f"tu-{size.encoder}", encoder_weights=None)


def smp_steps(size: Size, px: int, tiles: int, device: torch.device, options: StepOptions) -> Steps:
    return bare_loop.build_steps(smp_unet(size), options, *batch(px, tiles, device), size.steps)


if __name__ == "__main__":
    list(run(pick_device()))
