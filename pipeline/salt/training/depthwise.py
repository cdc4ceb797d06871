"""Depthwise convolutions that train fast on a CPU: fp32 under autocast, and a quicker gradient for 5x5 kernels."""

from functools import partial

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 5  # px, side of the kernel; for 3x3, oneDNN's own gradient is faster


def speed_up_depthwise_(model: nn.Module) -> nn.Module:
    """Speed up the model's depthwise convolutions for training on a CPU, in place.

    In fp32 their results stay the same. Under autocast they compute in fp32 and round the result: oneDNN's bf16
    backward of a depthwise convolution is 2 to 18 times slower than its fp32 one, and an EfficientNet is made of them.
    Measured: bench/speed/cpu_depthwise.py.
    """
    for layer in model.modules():
        if not isinstance(layer, nn.Conv2d) or type(layer) not in (nn.Conv2d, Conv2dSame):
            continue
        if layer.groups == layer.in_channels > 1:
            layer.__dict__["forward"] = partial(_forward, layer)
    return model


class DepthwiseConv(torch.autograd.Function):
    """(B, C, H, W), (C, 1, k, k) -> (B, C, H', W') in fp32: F.conv2d with a quicker gradient of the weights.

    That gradient is itself a depthwise convolution: of each channel of each tile, with the output's gradient as the
    kernel; B * C groups, summed over the tiles. For 5x5 kernels, oneDNN's own takes 2 to 6 times as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, (b, c, h, w), k = ctx.stride, ctx.padding, x.shape, weight.shape[-1]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            spatial = ([stride] * 2, [padding] * 2, [1, 1])
            grad_x, _, _ = torch.ops.aten.convolution_backward(
                grad, x, weight, None, *spatial, False, [0, 0], c, [True, False, False]
            )
        if ctx.needs_input_grad[1]:
            tiles = x.permute(2, 3, 0, 1).reshape(1, h, w, b * c).permute(0, 3, 1, 2)  # (1, BC, H, W)
            kernels = grad.reshape(b * c, 1, *grad.shape[2:])
            each = F.conv2d(tiles, kernels, None, 1, padding, stride, b * c)[..., :k, :k]  # (1, BC, k, k)
            grad_weight = each.reshape(b, c, 1, k, k).sum(0)
        return grad_x, grad_weight, None, None


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    if isinstance(layer, Conv2dSame):  # pads as TensorFlow does; x is still bf16 here, half the size
        x, padding = pad_same(x, [*layer.kernel_size], [*stride], [*dilation]), (0, 0)
    with torch.autocast(x.device.type, enabled=False):
        if _has_quick_gradient(layer):
            y = DepthwiseConv.apply(x.float(), layer.weight, stride[0], padding[0])
        else:
            y = F.conv2d(x.float(), layer.weight, layer.bias, stride, padding, dilation, layer.groups)
    return y.to(x.dtype)


def _has_quick_gradient(layer: nn.Conv2d) -> bool:
    even = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in (layer.stride, layer.padding))
    one_each = layer.out_channels == layer.in_channels and layer.bias is None and layer.dilation == (1, 1)
    return even and one_each and layer.kernel_size == (LARGE, LARGE)
