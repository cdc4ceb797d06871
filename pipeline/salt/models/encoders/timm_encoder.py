"""timm's models as encoders, with maps at several resolutions. Needs torch and timm only.

timm  Wightman 2019, https://github.com/huggingface/pytorch-image-models
"""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from pipeline.salt.errors import InputError, near_names
from pipeline.salt.models.encoders.contract import Encoder, Stats


class TimmEncoder(Encoder):
    """A `features_only` model of timm, without its map at full size if it has one; all maps channels first."""

    def __init__(self, name: str, body: nn.Module):
        info: Any = body.feature_info  # timm's FeatureInfo
        depth = sum(stride > 1 for stride in info.reduction())
        super().__init__(name, tuple(info.channels()[-depth:]), tuple(info.reduction()[-depth:]), timm_stats(name))
        self.channels_first = not str(getattr(body, "output_fmt", "")).endswith("NHWC")
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.body(x)[-len(self.channels) :]
        return maps if self.channels_first else [m.permute(0, 3, 1, 2) for m in maps]


def build_timm_encoder(name: str, strides: tuple[int, ...] | None = None) -> TimmEncoder:
    """Build timm's model `name` as an encoder with random weights.

    InputError for a name that timm does not know, for a model that takes one image size only, and for one whose maps
    have other strides than these; None: for one that is not a pyramid, each stride twice the one before.
    """
    if not timm.is_model(name):
        raise unknown_encoder(name)
    try:
        encoder = TimmEncoder(name, _features(name))
    except (RuntimeError, ValueError, AttributeError) as error:  # timm's errors: no maps, or no such tag
        raise InputError(f"encoder {name!r} gives no feature maps according to timm: {error}") from error
    given = encoder.strides
    doubling = len(given) > 1 and all(b == 2 * a for a, b in zip(given, given[1:], strict=False))
    if not doubling or strides not in (None, given):
        raise wrong_strides(encoder, strides)
    if _config(name).fixed_input_size:
        _try_another_size(encoder)
    return encoder


def timm_stats(name: str) -> Stats:
    """Mean and standard deviation with which timm's weights of this name were trained."""
    cfg = _config(name)
    return tuple(cfg.mean), tuple(cfg.std)


def unknown_encoder(name: str) -> InputError:
    near = near_names(name, timm.list_models())
    return InputError(
        f"encoder {name!r} is unknown; " + (f"did you mean {near}?" if near else "see timm.list_models() for names")
    )


def wrong_strides(encoder: Encoder, needed: tuple[int, ...] | None) -> InputError:
    needs = ", ".join(map(str, needed)) if needed else "a pyramid, each stride twice the one before"
    return InputError(
        f"encoder {encoder.name!r} gives maps at strides {', '.join(map(str, encoder.strides))}, this model needs "
        f"{needs}; choose a ResNet or an EfficientNet, such as resnet34"
    )


def _config(name: str) -> Any:
    """timm's PretrainedCfg; RuntimeError for a model that has none."""
    return timm.get_pretrained_cfg(name, allow_unregistered=False)


def _features(name: str) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False)  # lets a Swin take any size
    except TypeError:
        return timm.create_model(name, features_only=True)


def _try_another_size(encoder: TimmEncoder) -> None:
    try:
        with torch.no_grad():
            encoder.eval()(torch.zeros(1, 3, 96, 64))
    except (AssertionError, RuntimeError) as error:
        sides = " x ".join(map(str, _config(encoder.name).input_size[1:]))
        raise InputError(
            f"encoder {encoder.name!r} takes images of {sides} px only, but this model needs any size; choose "
            "a ResNet, ConvNeXt or Swin"
        ) from error
    encoder.train()
