"""A training step of UnetResNext50 against one of segmentation_models_pytorch's Unet on the same encoder.

    python -m bench.speed.smp

The networks cost differently, so each pair of steps has a second row, in seconds for each GFLOP: one over the tiles a
second and the GFLOP a tile.
"""

from collections.abc import Iterator

import torch
from torch import nn

from bench.baselines import bare_loop
from bench.baselines.bare_loop import Steps, Way
from bench.harness.compare import Result, compare, elsewhere
from bench.speed.train_step import SIZES, Size, batch, gflop, network, our_steps, said
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
    ours, theirs = gflop(network(size), px), gflop(smp_unet(size), px)
    ways = {"AMP, channels last": Way(kept=False)}
    if device.type == "cpu":
        ways["the same, and freed memory kept as ours"] = Way()
    for title, way in ways.items():
        with (
            elsewhere(our_steps, size, px, tiles, device) as mine,
            elsewhere(smp_steps, size, px, tiles, device, way) as other,
        ):
            found = compare(
                f"{said(size, px, tiles)}; theirs: segmentation_models_pytorch's Unet, {title}",
                mine,
                other,
                size.repeats,
                device,
            )
        each, ratio = size.steps * tiles, found["ratio"] * ours / theirs
        print(f"    a tile costs {ours:.1f} GFLOP, theirs {theirs:.1f}: {ratio:.2f}x by the GFLOP")
        yield found
        yield found | {
            "name": f"one GFLOP of that; a tile costs {ours:.1f}, theirs {theirs:.1f}",
            "ratio": ratio,
            "ours": found["ours"] / each / ours,
            "theirs": found["theirs"] / each / theirs,
        }


def smp_unet(size: Size) -> nn.Module:
    from segmentation_models_pytorch import Unet

    known = size.encoder == "se_resnext50_32x4d"
    return Unet(size.encoder if known else f"tu-{size.encoder}", encoder_weights=None)


def smp_steps(size: Size, px: int, tiles: int, device: torch.device, way: Way) -> Steps:
    return bare_loop.steps(smp_unet(size), way, *batch(px, tiles, device), size.steps)


if __name__ == "__main__":
    list(run(pick_device()))
