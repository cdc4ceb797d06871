"""UnetLean: a U-Net that spends its time in the encoder, for training on a CPU.

U-Net                Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
Hypercolumns         Hariharan et al. 2015,   https://arxiv.org/abs/1411.5752
Deep supervision     Lee et al. 2015,         https://arxiv.org/abs/1409.5185
Sum of projections   Kirillov et al. 2019,    https://arxiv.org/abs/1901.02446  (semantic FPN: 1x1 first, then upsample)

Names carry the stride: e4 is the encoder's map at a quarter of the input's side, d4 the decoder's at that size.
After the encoder, only the last upsampling, of a single channel, runs above half resolution.
"""

import torch
from fastai.layers import ConvLayer
from torch import Tensor, nn

from pipeline.salt.models.blocks import Classifier, Heads, Size, resize, spatial_size
from pipeline.salt.models.encoders.build import build_encoder


class DecoderBlock(nn.Module):
    """Bilinear upsampling to the skip's size, concatenation with the skip, two 3x3 convolutions."""

    def __init__(self, c_in: int, c_skip: int, c_mid: int, c_out: int):
        super().__init__()
        self.conv1 = ConvLayer(c_in + c_skip, c_mid)
        self.conv2 = ConvLayer(c_mid, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv2(self.conv1(torch.cat([resize(x, spatial_size(skip)), skip], dim=1)))


class Hypercolumn(nn.Module):
    """Maps of falling resolution -> (B, c_out, H, W) at the first one's size: the sum of a 1x1 convolution of each.

    Like one 1x1 convolution of all maps stacked, but cheap: a 1x1 convolution and upsampling commute, so each map is
    projected at its own size. Summing from the smallest map up upsamples each size only once, x2 at a time.
    """

    def __init__(self, c_in: list[int], c_out: int):
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, c_out, kernel_size=1, bias=False) for c in c_in)
        self.norm = nn.Sequential(nn.BatchNorm2d(c_out), nn.ReLU())

    def forward(self, maps: list[Tensor], features: Tensor | None = None) -> Tensor:
        """features: (B, c_out, 1, 1) of the whole tile, which are added at every pixel."""
        *larger, total = (project(m) for project, m in zip(self.project, maps, strict=True))
        if features is not None:
            total = total + features
        for m in reversed(larger):
            total = m + resize(total, spatial_size(m))
        return self.norm(total)


class Logit(nn.Module):
    """(B, C, h, w) -> (B, 1, *size): a 3x3 convolution, a logit at the map's own size, bilinear upsampling."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ConvLayer(channels, channels)
        self.logit = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return resize(self.logit(self.conv(x)), size)


class UnetLean(nn.Module):
    """(B, 3, H, W) normalised images -> (B, 1, H, W) salt logits, any H and W; `Heads` in training if it has any.

    encoder           a key of ENCODERS, or a model of timm's with maps at strides 2, 4, 8, 16, 32
    width             channels of the decoder's largest map; the other layers of the decoder scale with it
    deep_supervision  a salt head on every decoder map, at its own resolution
    classifier        a head that tells whether the tile has salt; its features join the hypercolumn
    """

    def __init__(
        self,
        encoder: str = "tf_efficientnet_lite0",
        width: int = 16,
        deep_supervision: bool = False,
        classifier: bool = False,
    ):
        super().__init__()
        self.encoder = build_encoder(encoder)
        c2, c4, c8, c16, c32 = self.encoder.channels
        w = width
        self.center = ConvLayer(c32, 8 * w)
        self.decoder16 = DecoderBlock(8 * w, c16, 8 * w, 2 * w)
        self.decoder8 = DecoderBlock(2 * w, c8, 4 * w, 2 * w)
        self.decoder4 = DecoderBlock(2 * w, c4, 4 * w, 2 * w)
        self.decoder2 = DecoderBlock(2 * w, c2, 2 * w, w)
        channels = [w, 2 * w, 2 * w, 2 * w, 8 * w]
        self.classifier = Classifier(c32, 2 * w) if classifier else None
        self.hypercolumn = Hypercolumn(channels, 2 * w)
        self.logit = Logit(2 * w)
        self.deep = nn.ModuleList(nn.Conv2d(c, 1, kernel_size=1) for c in (channels if deep_supervision else []))

    def forward(self, x: Tensor) -> Tensor | Heads:
        e2, e4, e8, e16, e32 = self.encoder(x)
        d32 = self.center(e32)  # (B, 8w, H / 32, W / 32)
        d16 = self.decoder16(d32, e16)  # (B, 2w, H / 16, W / 16)
        d8 = self.decoder8(d16, e8)
        d4 = self.decoder4(d8, e4)
        d2 = self.decoder2(d4, e2)  # (B, w, H / 2, W / 2)
        maps = [d2, d4, d8, d16, d32]
        features, any_salt = self.classifier(e32) if self.classifier else (None, None)
        column = self.hypercolumn(maps, features)  # (B, 2w, H / 2, W / 2)
        logits = self.logit(column, spatial_size(x))  # (B, 1, H, W)
        if not self.training or not (self.deep or self.classifier):
            return logits
        return Heads(logits, [head(d) for head, d in zip(self.deep, maps, strict=False)], any_salt)
