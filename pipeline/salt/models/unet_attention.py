"""UnetAttention: a ResNet that looks at full resolution, attention after each of its blocks, and three kinds of heads.

BAM               Park et al. 2018,      https://arxiv.org/abs/1807.06514
Hypercolumns      Hariharan et al. 2015, https://arxiv.org/abs/1411.5752
Deep supervision  Lee et al. 2015,       https://arxiv.org/abs/1409.5185
Fused heads       Heng CherKeng 2018,    https://www.kaggle.com/c/tgs-salt-identification-challenge/discussion/64645

Names carry the stride: neither stem nor pool shrinks the image, so e8, not e32, is the encoder's last map.
"""

import torch
from fastai.layers import ConvLayer
from torch import Tensor, nn

from pipeline.salt.errors import InputError
from pipeline.salt.models.blocks import BAM, Classifier, Heads, hypercolumn, resize, side, spread
from pipeline.salt.models.encoders.sequential import with_full_size_stem, without_early_pool
from pipeline.salt.models.encoders.table import STRIDES, build_chain


class Decoder(nn.Module):
    """Transposed convolution x2, to the very size of the skip, which joins; one 3x3 convolution."""

    def __init__(self, c_in: int, c_skip: int, c_out: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2)
        self.conv = ConvLayer(c_out + c_skip, c_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([resize(self.up(x), side(skip)), skip], dim=1))


class UnetAttention(nn.Module):
    """(B, 3, H, W) normalised images -> (B, 1, H, W) salt logits, any H and W; `Heads` in training.

    encoder  one that is a sequence of layers with an early max-pool: a ResNet, XResNet, SE-ResNeXt
    width    channels of every decoder map
    dropout  share of the hypercolumn's channels that are dropped in training
    """

    def __init__(self, encoder: str = "resnet34", width: int = 64, dropout: float = 0.0):
        super().__init__()
        chain = build_chain(encoder)
        if chain.strides != STRIDES:
            raise InputError(
                f"encoder {encoder!r} gives maps at strides {', '.join(map(str, chain.strides))}, this "
                "network needs 2, 4, 8, 16, 32: take a ResNet, such as resnet34."
            )
        self.encoder = without_early_pool(with_full_size_stem(chain))
        _, c1, c2, c4, c8 = self.encoder.channels
        w = width
        self.attention = nn.ModuleList([nn.Identity(), BAM(c1), BAM(c2), BAM(c4), BAM(c8)])
        self.center = nn.Sequential(ConvLayer(c8, c8), ConvLayer(c8, c8 // 2), nn.MaxPool2d(2))
        self.decoder4 = Decoder(c8 // 2, c8, w)
        self.decoder3 = Decoder(w, c4, w)
        self.decoder2 = Decoder(w, c2, w)
        self.decoder1 = Decoder(w, c1, w)
        self.dropout = nn.Dropout2d(dropout)
        self.pixel = ConvLayer(4 * w, w)
        self.classifier = Classifier(c8, w)
        self.logit = nn.Sequential(ConvLayer(2 * w, w), nn.Conv2d(w, 1, kernel_size=1))
        self.deep = nn.ModuleList(nn.Conv2d(w, 1, kernel_size=1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor | Heads:
        _, e1, e2, e4, e8 = self.encoder(x, after=self.attention)
        center = self.center(e8)  # (B, c8 / 2, H / 16, W / 16)
        d8 = self.decoder4(center, e8)  # (B, w, H / 8, W / 8)
        d4 = self.decoder3(d8, e4)
        d2 = self.decoder2(d4, e2)
        d1 = self.decoder1(d2, e1)  # (B, w, H, W)
        pixel = self.pixel(self.dropout(hypercolumn([d1, d2, d4, d8])))
        features, any_salt = self.classifier(e8)
        logits = self.logit(spread(features, pixel))  # (B, 1, H, W)
        if not self.training:
            return logits
        maps = [pixel, d1, d2, d4, d8]
        return Heads(logits, [head(m) for head, m in zip(self.deep, maps, strict=True)], any_salt)
