"""What an encoder is, and timm's: a network read out at several resolutions. Needs torch and timm only.

timm  Wightman 2019, https://github.com/huggingface/pytorch-image-models
"""

import timm
import torch
from torch import Tensor, nn

from pipeline.salt.errors import InputError, near_names

Stats = tuple[float, float, float]  # one number a colour channel, in units of 0..1 intensity


class Encoder(nn.Module):
    """(B, 3, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]), sides rounded the network's own way.

    mean, std  what its input is normalised with
    """

    def __init__(self, name: str, channels: tuple[int, ...], strides: tuple[int, ...], mean: Stats, std: Stats):
        super().__init__()
        self.name, self.channels, self.strides, self.mean, self.std = name, channels, strides, mean, std


class TimmPyramid(Encoder):
    """timm's `features_only` network without its map at full size, if it has one; all maps channels first."""

    def __init__(self, name: str, body: nn.Module):
        info, cfg = body.feature_info, timm.get_pretrained_cfg(name)
        depth = sum(stride > 1 for stride in info.reduction())
        super().__init__(
            name, tuple(info.channels()[-depth:]), tuple(info.reduction()[-depth:]), tuple(cfg.mean), tuple(cfg.std)
        )
        self.channels_first = not str(getattr(body, "output_fmt", "")).endswith("NHWC")
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)[-len(self.channels) :]
        return maps if self.channels_first else [m.permute(0, 3, 1, 2) for m in maps]


def timm_pyramid(name: str, strides: tuple[int, ...] | None = None) -> TimmPyramid:
    """timm's network `name` with random weights.

    InputError for a name that timm does not know, for a network that takes one size of image only, and for one whose
    maps have other strides; None: for one that is no pyramid, each stride twice the one before.
    """
    if not timm.is_model(name):
        raise unknown(name)
    try:
        pyramid = TimmPyramid(name, _features(name))
    except (RuntimeError, ValueError, AttributeError) as error:  # timm's ways to say: no maps, or no such tag
        raise InputError(f"encoder {name!r} gives no feature maps, says timm: {error}") from error
    found = pyramid.strides
    doubling = len(found) > 1 and all(b == 2 * a for a, b in zip(found, found[1:], strict=False))
    if not doubling or strides not in (None, found):
        needs = ", ".join(map(str, strides)) if strides else "a pyramid, each stride twice the one before"
        raise InputError(
            f"encoder {name!r} gives maps at strides {', '.join(map(str, found))}, this network needs "
            f"{needs}: take a ResNet or an EfficientNet, such as resnet34."
        )
    if timm.get_pretrained_cfg(name).fixed_input_size:
        _try_another_size(pyramid)
    return pyramid


def unknown(name: str) -> InputError:
    near = near_names(name, timm.list_models())
    return InputError(
        f"encoder {name!r} is unknown; " + (f"did you mean {near}?" if near else "take a name from timm.list_models()")
    )


def _features(name: str) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False)  # Swin: any size, please
    except TypeError:
        return timm.create_model(name, features_only=True)


def _try_another_size(pyramid: TimmPyramid) -> None:
    try:
        with torch.no_grad():
            pyramid.eval()(torch.zeros(1, 3, 96, 64))
    except (AssertionError, RuntimeError) as error:
        sides = " x ".join(map(str, timm.get_pretrained_cfg(pyramid.name).input_size[1:]))
        raise InputError(
            f"encoder {pyramid.name!r} takes images of {sides} px only, this network needs any size: take "
            "a ResNet, ConvNeXt or Swin."
        ) from error
    pyramid.train()
