"""Backward pass of an EfficientNet's depthwise convolutions on a CPU under autocast: the product's against torch's.

python -m bench.speed.cpu_depthwise
"""

import torch
from torch import nn

from bench.harness.compare import Result, compare
from pipeline.salt.training.depthwise import speed_up_depthwise_

# (B, C, H, W), kernel, stride: layers of tf_efficientnet_lite0 at 128 px, batch 32
SHAPES = [((32, 96, 65, 65), 3, 2), ((32, 144, 35, 35), 5, 2), ((32, 672, 12, 12), 5, 1), ((32, 1152, 8, 8), 5, 1)]


def run(device: torch.device) -> list[Result]:
    if device.type != "cpu":
        return []
    return [
        compare(
            f"depthwise {kernel}x{kernel} stride {stride}, {shape[1]} channels",
            backward(speed_up_depthwise_(layer(shape[1], kernel, stride)), shape),
            backward(layer(shape[1], kernel, stride), shape),
            repeats=5,
            device=device,
        )
        for shape, kernel, stride in SHAPES
    ]


def layer(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, groups=channels, bias=False)


def backward(layer: nn.Conv2d, shape: tuple[int, ...]):
    x = torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    gradient = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (x, layer.weight), gradient, retain_graph=True)


if __name__ == "__main__":
    run(torch.device("cpu"))
