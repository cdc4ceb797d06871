"""DynamicUnet: fastai's U-Net that fits itself to a body, as its `unet_learner` builds it.

Source     https://docs.fast.ai/vision.models.unet.html
U-Net      Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
Sub-pixel  Shi et al. 2016,         https://arxiv.org/abs/1609.05158
ICNR       Aitken et al. 2017,      https://arxiv.org/abs/1707.02937
"""
from collections import OrderedDict

from fastai.vision.models.unet import DynamicUnet as FastaiUnet
from torch import Tensor, nn

from pipeline.salt.models.chain import Chain
from pipeline.salt.models.encoders import build_chain

BUILT_AT = (128, 128)   # px, the image that fastai sends through the body to find where its sides change


class Body(nn.Sequential):
    """The layers of an encoder as fastai wants them: called in a row, hooked by number."""

    def __init__(self, chain: Chain):
        super().__init__(OrderedDict(chain.named_children()))
        self.name, self.mean, self.std = chain.name, chain.mean, chain.std
        self.channels, self.strides = chain.channels, chain.strides


class DynamicUnet(nn.Module):
    """(B, 3, H, W) normalised images -> (B, n_out, H, W) logits, any H and W.

    encoder  a key of ENCODERS, or a network of timm's or torchvision's that is a plain sequence of layers
    y_range  squeeze what comes out between two bounds, by a sigmoid
    """

    def __init__(self, encoder: str = "resnet34", n_out: int = 1, y_range: tuple[float, float] | None = None):
        super().__init__()
        unet = FastaiUnet(Body(build_chain(encoder)), n_out, BUILT_AT, y_range=y_range)
        # The last layer only makes a fastai tensor a plain one; no exporter can follow it.
        unet.layers = unet.layers[:-1]
        self.unet = unet.train()

    @property
    def encoder(self) -> Body:
        return self.unet.layers[0]

    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters of the body's first layers, its later ones, the decoder: fastai trains them at rising rates."""
        body, *decoder = self.unet.layers
        cut = 6 if "layer1" in dict(body.named_children()) else 3
        return [[p for part in parts for p in part.parameters()] for parts in (body[:cut], body[cut:], decoder)]

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x)
