"""MoreDynamicUnet: a U-Net with a choice of parts on any pyramid of timm's. Imports torch and timm only.

Source               https://blog.xack.me/posts/2024/a-more-dynamic-unet-in-pytorch
Sub-pixel            Shi et al. 2016,    https://arxiv.org/abs/1609.05158
ICNR initialisation  Aitken et al. 2017, https://arxiv.org/abs/1707.02937
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.salt.errors import InputError
from pipeline.salt.models.blocks import BAM, ScSE, pad_to_multiple, spatial_size
from pipeline.salt.models.encoders.build import build_pyramid


class PixelShuffleICNR(nn.Sequential):
    """Sub-pixel convolution: (B, c_in, h, w) -> (B, c_out, s h, s w), initially nearest-neighbour upsampling (ICNR)."""

    def __init__(self, c_in: int, c_out: int, scale: int):
        conv = nn.Conv2d(c_in, c_out * scale**2, kernel_size=1)
        # The scale^2 channels that shuffle into one output channel start equal: no checkerboard.
        for parameter in conv.parameters():
            first = parameter.data[:: scale**2]
            parameter.data.copy_(first.repeat_interleave(scale**2, dim=0))
        super().__init__(conv, nn.PixelShuffle(scale))


def _transpose(c_in: int, c_out: int, scale: int) -> nn.Module:
    return nn.ConvTranspose2d(c_in, c_out, kernel_size=scale, stride=scale)


def _bilinear(c_in: int, c_out: int, scale: int) -> nn.Module:
    return nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)


def _bilinear_conv(c_in: int, c_out: int, scale: int) -> nn.Module:
    return nn.Sequential(_bilinear(c_in, c_in, scale), nn.Conv2d(c_in, c_out, kernel_size=1))


# (c_in, c_out, scale) -> layer; all but `bilinear`, which has no weights, give c_out channels.
UPSAMPLERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "shuffle": PixelShuffleICNR,
    "transpose": _transpose,
    "bilinear": _bilinear,
    "bilinear_conv": _bilinear_conv,
}
ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {"none": lambda c: nn.Identity(), "scse": ScSE, "bam": BAM}


class DecoderBlock(nn.Module):
    """Upsample, join the skip if there is one, two 3x3 convolutions."""

    def __init__(self, c_in: int, c_skip: int, c_out: int, scale: int, upsampler: str):
        super().__init__()
        self.up = UPSAMPLERS[upsampler](c_in, c_out, scale)
        c_up = c_in if upsampler == "bilinear" else c_out
        self.norm = nn.BatchNorm2d(c_skip) if c_skip else None
        self.mix = nn.Sequential(_conv_bn_relu(c_up + c_skip, c_out), _conv_bn_relu(c_out, c_out))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.up(x)
        return self.mix(x if self.norm is None else torch.cat([x, self.norm(skip)], dim=1))


class MoreDynamicUnet(nn.Module):
    """(B, 3, H, W) normalised images -> (B, n_out, H, W) logits, any H and W.

    encoder       any pyramid of timm's, from ResNet (first map at stride 2) to ConvNeXt and Swin (stride 4)
    upsampler     sub-pixel convolution, transposed convolution, bilinear without or with a convolution
    reduction     output channels of a decoder block: half as many as its input, or as many as its skip
    middle_scale  channels of the middle block, as a multiple of the encoder's last channels
    attention     a module in the middle block
    """

    def __init__(
        self,
        encoder: str = "resnet34",
        upsampler: Literal["shuffle", "transpose", "bilinear", "bilinear_conv"] = "shuffle",
        reduction: Literal["halve", "eq_skip"] = "halve",
        middle_scale: float = 1.0,
        attention: Literal["none", "scse", "bam"] = "none",
        n_out: int = 1,
    ):
        super().__init__()
        self.encoder = build_pyramid(encoder)
        *skips, c_last = self.encoder.channels
        *strides, _ = self.encoder.strides
        c = int(c_last * middle_scale)
        if c < 2 ** len(self.encoder.channels):
            raise InputError(
                f"middle_scale={middle_scale} leaves {c} of {c_last} channels, too few to halve in every "
                "block; choose a larger one"
            )
        self.middle = nn.Sequential(_conv_bn_relu(c_last, c), ATTENTIONS[attention](c), _conv_bn_relu(c, c))
        self.decoder = nn.ModuleDict()  # keys are the strides of the blocks' outputs: 16, 8, 4, 2, 1
        for c_skip, stride in zip(reversed(skips), reversed(strides), strict=True):
            c_out = c // 2 if reduction == "halve" else c_skip
            self.decoder[str(stride)] = DecoderBlock(c, c_skip, c_out, scale=2, upsampler=upsampler)
            c = c_out
        c_out = c // 2 if reduction == "halve" else c
        self.decoder["1"] = DecoderBlock(c, 0, c_out, scale=strides[0], upsampler=upsampler)
        self.logit = nn.Conv2d(c_out, n_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = spatial_size(x)
        *skips, last = self.encoder(pad_to_multiple(x, self.encoder.strides[-1]))
        d = self.middle(last)
        for block, skip in zip(self.decoder.values(), [*reversed(skips), None], strict=True):
            d = block(d, skip)
        return self.logit(d)[..., :height, :width]


def _conv_bn_relu(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)
    )
