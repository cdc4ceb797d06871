"""ResNetUNet: a U-Net on ResNet18 with 1x1 convolutions on its skips and a branch at full resolution; no BatchNorm.

Source  Naoto Usuyama 2018, https://github.com/usuyama/pytorch-unet
U-Net   Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597

Names carry the stride: e4 is the encoder's map at a quarter of the input's side, d4 the decoder's at that size.
"""

import torch
from torch import Tensor, nn

from pipeline.salt.models.blocks import resize, spatial_size
from pipeline.salt.models.encoders.build import build_encoder


class ResNetUNet(nn.Module):
    """(B, 3, H, W) normalised images -> (B, n_class, H, W) logits, any H and W."""

    def __init__(self, encoder: str = "resnet18", n_class: int = 1):
        super().__init__()
        self.encoder = build_encoder(encoder)
        c2, c4, c8, c16, c32 = self.encoder.channels
        self.skip2, self.skip4, self.skip8, self.skip16, self.skip32 = (
            _conv_relu(c, c, kernel=1) for c in self.encoder.channels
        )
        self.decoder16 = _conv_relu(c32 + c16, 512)
        self.decoder8 = _conv_relu(512 + c8, 256)
        self.decoder4 = _conv_relu(256 + c4, 256)
        self.decoder2 = _conv_relu(256 + c2, 128)
        self.original = nn.Sequential(_conv_relu(3, 64), _conv_relu(64, 64))
        self.decoder1 = _conv_relu(128 + 64, 64)
        self.logit = nn.Conv2d(64, n_class, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        e2, e4, e8, e16, e32 = self.encoder(x)
        d32 = self.skip32(e32)  # (B, c32, H / 32, W / 32)
        d16 = self.decoder16(_join(d32, self.skip16(e16)))  # (B, 512, H / 16, W / 16)
        d8 = self.decoder8(_join(d16, self.skip8(e8)))
        d4 = self.decoder4(_join(d8, self.skip4(e4)))
        d2 = self.decoder2(_join(d4, self.skip2(e2)))
        d1 = self.decoder1(_join(d2, self.original(x)))  # (B, 64, H, W)
        return self.logit(d1)


def _join(x: Tensor, skip: Tensor) -> Tensor:
    """Resize x to the skip's size (x2 where sides allow it) and concatenate the two."""
    return torch.cat([resize(x, spatial_size(skip), align_corners=True), skip], dim=1)


def _conv_relu(c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2), nn.ReLU(inplace=True))
