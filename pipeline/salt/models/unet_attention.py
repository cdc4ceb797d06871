"""UnetAttention: the article's second model, a ResNet at twice the resolution with BAM and three kinds of fused heads.

The encoder's first convolution has stride 1 and its max-pool stays: the decoder sees maps at strides 2, 4, 8, 16. The
outputs of the deep heads and the classifier join the hypercolumn before the last two convolutions.

BAM               Park et al. 2018,      https://arxiv.org/abs/1807.06514
Hypercolumns      Hariharan et al. 2015, https://arxiv.org/abs/1411.5752
Deep supervision  Lee et al. 2015,       https://arxiv.org/abs/1409.5185
Fused heads       Heng CherKeng 2018,    https://www.kaggle.com/c/tgs-salt-identification-challenge/discussion/64645

Names carry the stride: e4 is the encoder's map at a quarter of the input's side, d4 the decoder's at that size.
"""

import torch
from torch import Tensor, nn

from pipeline.salt.models.blocks import BAM, Heads, concat_global, resize, spatial_size
from pipeline.salt.models.encoders.build import build_sequential
from pipeline.salt.models.encoders.contract import IDENTITY_STATS
from pipeline.salt.models.encoders.sequential import unstride_stem_
from pipeline.salt.models.encoders.table import STRIDES

WIDTH = 16  # channels of every decoder map


class DecoderBlock(nn.Module):
    """Transposed convolution x2, resized to the skip; concatenated with a 1x1 convolution of it; ReLU, BN, BAM."""

    def __init__(self, c_in: int, c_skip: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, WIDTH // 2, kernel_size=2, stride=2)
        self.skip = nn.Conv2d(c_skip, WIDTH // 2, kernel_size=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.attention = BAM(WIDTH)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        maps = torch.cat([resize(self.up(x), spatial_size(skip)), self.skip(skip)], dim=1)
        return self.attention(self.norm(maps.relu()))


class UnetAttention(nn.Module):
    """(B, 3, H, W) images in 0..1, not normalised -> (B, 1, H, W) salt logits, any H and W; `Heads` in training.

    encoder  a sequence of layers with maps at strides 2, 4, 8, 16, 32 before its stem is changed, such as resnet34
    """

    def __init__(self, encoder: str = "resnet34"):
        super().__init__()
        self.encoder = build_sequential(encoder, STRIDES)
        unstride_stem_(self.encoder)
        self.encoder.mean, self.encoder.std = IDENTITY_STATS
        _, c2, c4, c8, c16 = self.encoder.channels
        self.attention = nn.ModuleList([nn.Identity(), BAM(c2), BAM(c4), BAM(c8), BAM(c16)])
        self.decoder8 = DecoderBlock(c16, c8)
        self.decoder4 = DecoderBlock(WIDTH, c4)
        self.decoder2 = DecoderBlock(WIDTH, c2)
        self.decoder1 = nn.ConvTranspose2d(WIDTH, WIDTH, kernel_size=2, stride=2)
        self.deep = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(WIDTH),
                nn.Conv2d(WIDTH, 1, kernel_size=3, padding=1),
            )
            for _ in range(4)
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(c16, 256),
            nn.ReLU(),
            nn.BatchNorm1d(256),
            nn.Dropout(0.3),
            nn.Linear(256, 1),
        )
        c = 4 * WIDTH + 4 + 1  # the decoder's maps, their deep heads' logits, the classifier's probability
        self.logit = nn.Sequential(nn.Conv2d(c, c, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(c, 1, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor | Heads:
        _, e2, e4, e8, e16 = self.encoder(x, after=self.attention)
        d8 = self.decoder8(e16, e8)  # (B, 16, H / 8, W / 8)
        d4 = self.decoder4(d8, e4)
        d2 = self.decoder2(d4, e2)
        d1 = self.decoder1(d2)  # (B, 16, H, W), or one pixel more
        maps = [d8, d4, d2, d1]
        deep = [head(d) for head, d in zip(self.deep, maps, strict=True)]  # each (B, 1, its own side)
        any_salt = self.classifier(e16)  # (B, 1) logit
        column = torch.cat([resize(m, spatial_size(x)) for m in [*maps, *deep]], dim=1)  # (B, 4 * 16 + 4, H, W)
        logits = self.logit(concat_global(any_salt.sigmoid()[..., None, None], column))  # (B, 1, H, W)
        return Heads(logits, deep, any_salt) if self.training else logits
