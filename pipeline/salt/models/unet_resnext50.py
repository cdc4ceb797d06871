"""UnetResNext50: a U-Net on SE-ResNeXt50, read out through a hypercolumn.

U-Net         Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
SE-ResNeXt    Hu et al. 2018,          https://arxiv.org/abs/1709.01507
Hypercolumns  Hariharan et al. 2015,   https://arxiv.org/abs/1411.5752

Names carry the stride: e4 is the encoder's map at a quarter of the input's side, d4 what the decoder makes there.
"""
import torch
from fastai.layers import ConvLayer
from torch import Tensor, nn

from pipeline.salt.models.blocks import hypercolumn, resize
from pipeline.salt.models.encoders import build_encoder


class Decoder(nn.Module):
    """Bilinear upsampling to `size` (x2 where sides allow it), then two 3x3 convolutions."""

    def __init__(self, c_in: int, c_mid: int, c_out: int):
        super().__init__()
        self.conv1 = ConvLayer(c_in, c_mid)
        self.conv2 = ConvLayer(c_mid, c_out)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv2(self.conv1(resize(x, size, align_corners=True)))


class UnetResNext50(nn.Module):
    """(B, 3, H, W) normalised images -> (B, 1, H, W) salt logits, any H and W.

    encoder  a key of ENCODERS, or a timm pyramid with strides 2, 4, 8, 16, 32
    width    channels of every decoder map; the other layers of the decoder scale with it
    """

    def __init__(self, encoder: str = "se_resnext50_32x4d", width: int = 32):
        super().__init__()
        self.encoder = build_encoder(encoder)
        _, c4, c8, c16, c32 = self.encoder.channels
        w = width
        self.center = nn.Sequential(ConvLayer(c32, c32), ConvLayer(c32, c32 // 2))
        self.decoder5 = Decoder(c32 // 2 + c32, 16 * w, w)
        self.decoder4 = Decoder(w + c16, 8 * w, w)
        self.decoder3 = Decoder(w + c8, 4 * w, w)
        self.decoder2 = Decoder(w + c4, 2 * w, w)
        self.decoder1 = Decoder(w, w, w)
        self.logit = nn.Sequential(ConvLayer(5 * w, 2 * w), ConvLayer(2 * w, w), nn.Conv2d(w, 1, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        e2, e4, e8, e16, e32 = self.encoder(x)
        center = self.center(e32)                                          # (B, c32 / 2, H / 32, W / 32)
        d16 = self.decoder5(torch.cat([center, e32], 1), side(e16))        # (B, w, H / 16, W / 16)
        d8 = self.decoder4(torch.cat([d16, e16], 1), side(e8))
        d4 = self.decoder3(torch.cat([d8, e8], 1), side(e4))
        d2 = self.decoder2(torch.cat([d4, e4], 1), side(e2))
        d1 = self.decoder1(d2, side(x))                                    # (B, w, H, W)
        return self.logit(hypercolumn([d1, d2, d4, d8, d16]))              # (B, 1, H, W)


def side(x: Tensor) -> tuple[int, int]:
    return x.shape[-2:]
