"""The family of networks. To add one, add its file and one line to MODELS.

Every model is called as model(x): (B, 3, H, W) images normalised with model.encoder.mean and .std -> (B, 1, H, W)
logits, any H and W; auxiliary heads come beside them, as `blocks.Heads`, in training mode only.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

from torch import nn

from pipeline.salt.errors import InputError, did_you_mean
from pipeline.salt.models.dynamic_unet import DynamicUnet
from pipeline.salt.models.more_dynamic_unet import MoreDynamicUnet
from pipeline.salt.models.resnet_unet import ResNetUNet
from pipeline.salt.models.unet_attention import UnetAttention
from pipeline.salt.models.unet_resnext50 import UnetResNext50

MODELS: dict[str, type[nn.Module]] = {
    "unet_resnext50": UnetResNext50,
    "dynamic_unet": DynamicUnet,
    "unet_attention": UnetAttention,
    "more_dynamic_unet": MoreDynamicUnet,
    "resnet_unet": ResNetUNet,
}


def build_model(name: str, encoder: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Model `name` with random weights on `encoder`; InputError for a model, encoder, option or value it cannot take.

    options  keyword arguments of the model's class
    """
    options = options or {}
    _known("model", name, MODELS)
    parameters = inspect.signature(MODELS[name]).parameters
    for option, value in options.items():
        _known(f"option of {name}", option, [key for key in parameters if key != "encoder"])
        kind = parameters[option].annotation
        if get_origin(kind) is Literal:
            _known(f"{option} of {name}", value, get_args(kind))
        elif kind in (bool, int, float) and type(value) not in ((int, float) if kind is float else (kind,)):
            raise InputError(f"{option}={value!r} of {name} must be of type {kind.__name__}")
        elif kind is int and value < 1:
            raise InputError(f"{option}={value} of {name} must be at least 1")
    try:
        return MODELS[name](encoder, **options)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{name} on {encoder} cannot be built with {dict(options)}: {error}") from error


def _known(what: str, name: Any, names: Collection[str]) -> None:
    if name not in names:
        raise InputError(f"{what} {name!r} is unknown; {did_you_mean(name, names)}")
