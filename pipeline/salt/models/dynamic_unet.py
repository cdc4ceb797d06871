"""DynamicUnet: fastai's U-Net that adapts itself to a body, as its `unet_learner` builds it.

Source     https://docs.fast.ai/vision.models.unet.html
U-Net      Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
Sub-pixel  Shi et al. 2016,         https://arxiv.org/abs/1609.05158
ICNR       Aitken et al. 2017,      https://arxiv.org/abs/1707.02937
"""

from collections import OrderedDict
from typing import cast

from fastai.vision.models.unet import DynamicUnet as FastaiUnet
from torch import Tensor, nn

from pipeline.salt.models.encoders.build import build_sequential
from pipeline.salt.models.encoders.sequential import SequentialEncoder

BUILT_AT = (128, 128)  # px, the image that fastai passes through the body to find where the size changes


class Body(nn.Sequential):
    """The layers of an encoder as fastai needs them: called in sequence, hooked by number."""

    def __init__(self, encoder: SequentialEncoder):
        super().__init__(OrderedDict(encoder.named_children()))
        self.name, self.mean, self.std = encoder.name, encoder.mean, encoder.std
        self.channels, self.strides = encoder.channels, encoder.strides


class DynamicUnet(FastaiUnet):
    """(B, 3, H, W) normalised images -> (B, n_out, H, W) logits, any H and W.

    encoder  a key of ENCODERS, or a model of timm's or torchvision's that is a plain sequence of layers
    y_range  squeeze the output between two bounds, by a sigmoid
    """

    layers: nn.ModuleList

    def __init__(self, encoder: str = "resnet34", n_out: int = 1, y_range: tuple[float, float] | None = None):
        super().__init__(Body(build_sequential(encoder)), n_out, BUILT_AT, y_range=y_range)
        # The last layer only turns fastai's tensor into a plain one, and no exporter can follow it.
        self.layers = self.layers[:-1]
        self.y_range = y_range
        self.train()

    @property
    def encoder(self) -> Body:
        return cast(Body, self.layers[0])

    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the body (a ResNet's in two) and of the decoder, which fastai trains at rising rates."""
        body, decoder = self.encoder, list(self.layers)[1:]
        first = next(key for key, _ in body.named_children())
        cut = {"conv1": 6, "0": 3}.get(first, 0)  # as in fastai: after layer2; after an XResNet's stem
        layers = [list(body)[:cut], list(body)[cut:], decoder]
        return [[p for part in parts for p in part.parameters()] for parts in layers if parts]

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        finally:
            for hook in self.sfs:  # kept until the next image, the skips use memory and prevent a copy
                hook.stored = None
