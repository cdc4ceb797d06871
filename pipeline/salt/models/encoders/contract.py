"""Encoder, the base class of all encoders, and ImageNet's statistics. The package's docstring shows example shapes."""

from torch import nn

Channels = tuple[float, float, float]  # one number per colour channel, in units of [0, 1]
Stats = tuple[Channels, Channels]  # mean and std

IMAGENET_STATS: Stats = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IDENTITY_STATS: Stats = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # normalising with these changes nothing


class Encoder(nn.Module):
    """(B, 3, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]), with each model's own rounding.

    mean, std  to normalise the input with
    """

    def __init__(self, name: str, channels: tuple[int, ...], strides: tuple[int, ...], stats: Stats = IMAGENET_STATS):
        super().__init__()
        self.name, self.channels, self.strides = name, channels, strides
        self.mean, self.std = stats
