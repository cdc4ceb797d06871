"""Backward of an EfficientNet's depthwise convolutions on a CPU: the product's fp32 against autocast's bf16.

python -m bench.speed.cpu_depthwise
"""

import torch
from torch.nn import functional as F

from bench.harness.compare import Result, compare

# (B, C, H, W), kernel, stride: layers of tf_efficientnet_lite0 at 128 px, batch 32
SHAPES = [((32, 96, 65, 65), 3, 2), ((32, 144, 35, 35), 5, 2), ((32, 672, 12, 12), 5, 1), ((32, 1152, 8, 8), 5, 1)]


def run(device: torch.device) -> list[Result]:
    if device.type != "cpu":
        return []
    return [
        compare(
            f"depthwise {kernel}x{kernel} stride {stride}, {shape[1]} channels",
            backward(shape, kernel, stride, torch.float32),
            backward(shape, kernel, stride, torch.bfloat16),
            repeats=5,
            device=device,
        )
        for shape, kernel, stride in SHAPES
    ]


def backward(shape: tuple[int, ...], kernel: int, stride: int, dtype: torch.dtype):
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(shape[1], 1, kernel, kernel, dtype=dtype, requires_grad=True)
    y = F.conv2d(x, weight, stride=stride, groups=shape[1])
    gradient = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (x, weight), gradient, retain_graph=True)


if __name__ == "__main__":
    run(torch.device("cpu"))
