"""UnetResNext50: a U-Net on SE-ResNeXt50 with a hypercolumn; its options are off by default.

U-Net             Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
SE-ResNeXt        Hu et al. 2018,          https://arxiv.org/abs/1709.01507
Hypercolumns      Hariharan et al. 2015,   https://arxiv.org/abs/1411.5752
Deep supervision  Lee et al. 2015,         https://arxiv.org/abs/1409.5185
FPA               Li et al. 2018,          https://arxiv.org/abs/1805.10180

Names carry the stride: e4 is the encoder's map at a quarter of the input's side, d4 the decoder's at that size.
"""

import torch
from fastai.layers import ConvLayer
from torch import Tensor, nn

from pipeline.salt.models.blocks import Classifier, Heads, ScSE, Size, concat_global, hypercolumn, resize, spatial_size
from pipeline.salt.models.encoders.build import build_encoder
from pipeline.salt.models.encoders.sequential import remove_early_pool_


class DecoderBlock(nn.Module):
    """Bilinear upsampling to `size` (x2 where sides allow it), then two 3x3 convolutions."""

    def __init__(self, c_in: int, c_mid: int, c_out: int, scse: bool):
        super().__init__()
        self.conv1 = ConvLayer(c_in, c_mid)
        self.conv2 = ConvLayer(c_mid, c_out)
        self.attention = ScSE(c_out) if scse else nn.Identity()

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return self.attention(self.conv2(self.conv1(resize(x, size, align_corners=True))))


class FPA(nn.Module):
    """Feature pyramid attention: weights per place from three smaller sizes, plus the mean of the whole tile."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c_in, c_out, 1), nn.ReLU())
        self.mix = ConvLayer(c_in, c_out, ks=1)
        self.down = nn.ModuleList(
            [ConvLayer(c_in, 1, ks=7, stride=2), ConvLayer(1, 1, ks=5, stride=2), ConvLayer(1, 1, ks=3, stride=2)]
        )
        self.same = nn.ModuleList([ConvLayer(1, 1, ks=7), ConvLayer(1, 1, ks=5), ConvLayer(1, 1, ks=3)])

    def forward(self, x: Tensor) -> Tensor:
        x2 = self.down[0](x)
        x4 = self.down[1](x2)
        x8 = self.down[2](x4)
        weight4 = self.same[1](x4) + resize(self.same[2](x8), spatial_size(x4))
        weight2 = self.same[0](x2) + resize(weight4, spatial_size(x2))
        return self.mix(x) * resize(weight2, spatial_size(x)) + self.mean(x)


class UnetResNext50(nn.Module):
    """(B, 3, H, W) normalised images -> (B, 1, H, W) salt logits, any H and W; `Heads` in training if it has any.

    encoder           a key of ENCODERS, or a model of timm's with maps at strides 2, 4, 8, 16, 32
    width             channels of every decoder map; the other layers of the decoder scale with it
    scse              spatial and channel attention after every decoder block
    fpa               feature pyramid attention for the centre
    stem_skip         the last decoder block also sees the stem's map, at half resolution
    half_skip         the first skip at half resolution: the encoder without its early max-pool, four times the work
    dropout           share of the hypercolumn's channels that are dropped in training
    deep_supervision  a salt head on every decoder map
    classifier        a head that tells whether the tile has salt; its features join the hypercolumn
    """

    def __init__(
        self,
        encoder: str = "se_resnext50_32x4d",
        width: int = 32,
        scse: bool = False,
        fpa: bool = False,
        stem_skip: bool = False,
        half_skip: bool = False,
        dropout: float = 0.0,
        deep_supervision: bool = False,
        classifier: bool = False,
    ):
        super().__init__()
        self.encoder = build_encoder(encoder)
        if half_skip:
            remove_early_pool_(self.encoder)
        c2, c4, c8, c16, c32 = self.encoder.channels
        w = width
        c = c32 // 2
        self.center = FPA(c32, c) if fpa else nn.Sequential(ConvLayer(c32, c32), ConvLayer(c32, c))
        self.decoder16 = DecoderBlock(c + c32, 16 * w, w, scse)
        self.decoder8 = DecoderBlock(w + c16, 8 * w, w, scse)
        self.decoder4 = DecoderBlock(w + c8, 4 * w, w, scse)
        self.decoder2 = DecoderBlock(w + c4, 2 * w, w, scse)
        self.stem_skip = stem_skip
        self.decoder1 = DecoderBlock(w + c2 if stem_skip else w, w, w, scse)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = Classifier(c32, w) if classifier else None
        column = 6 * w if classifier else 5 * w
        self.logit = nn.Sequential(ConvLayer(column, 2 * w), ConvLayer(2 * w, w), nn.Conv2d(w, 1, kernel_size=1))
        self.deep = nn.ModuleList(nn.Conv2d(w, 1, kernel_size=1) for _ in range(5 if deep_supervision else 0))

    def forward(self, x: Tensor) -> Tensor | Heads:
        e2, e4, e8, e16, e32 = self.encoder(x)
        center = self.center(e32)  # (B, c32 / 2, H / 32, W / 32)
        d16 = self.decoder16(torch.cat([center, e32], 1), spatial_size(e16))  # (B, w, H / 16, W / 16)
        d8 = self.decoder8(torch.cat([d16, e16], 1), spatial_size(e8))
        d4 = self.decoder4(torch.cat([d8, e8], 1), spatial_size(e4))
        d2 = self.decoder2(torch.cat([d4, e4], 1), spatial_size(e2))
        d2_skip = torch.cat([d2, e2], 1) if self.stem_skip else d2
        d1 = self.decoder1(d2_skip, spatial_size(x))  # (B, w, H, W)
        maps = [d1, d2, d4, d8, d16]
        column = self.dropout(hypercolumn(maps))  # (B, 5w, H, W)
        any_salt = None
        if self.classifier:
            features, any_salt = self.classifier(e32)
            column = concat_global(features, column)  # (B, 6w, H, W)
        logits = self.logit(column)  # (B, 1, H, W)
        if not self.training or not (self.deep or self.classifier):
            return logits
        return Heads(logits, [head(d) for head, d in zip(self.deep, maps, strict=False)], any_salt)
