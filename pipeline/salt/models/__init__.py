"""The models. To add one, add its file and one line to MODELS.

Every model is called as model(x): (B, 3, H, W) images normalised with model.encoder.mean and .std -> (B, 1, H, W)
logits, any H and W. In training mode a model with auxiliary heads returns those too, as `blocks.Heads`.

Nothing here imports torch before a model is built, and building one imports no other.
"""

import ast
import importlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from pipeline.salt.errors import InputError, did_you_mean
from pipeline.salt.models.encoders.table import ENCODERS

if TYPE_CHECKING:
    from torch import nn


class ModelSpec(NamedTuple):
    """A row of MODELS.

    encoder  what the model requires of its encoder, a key of encoders.build.BUILDERS:
             "five maps"                at strides 2, 4, 8, 16, 32: ENCODERS, most of timm's ResNets and EfficientNets
             "sequence"                 layers one after the other: ENCODERS, and many of timm's and torchvision's
             "sequence with five maps"  both
             "pyramid"                  any of timm's whose strides double, including ConvNeXt and Swin
    """

    module: str  # the file's name in this folder
    name: str  # of the class
    encoder: Literal["five maps", "sequence", "sequence with five maps", "pyramid"]


MODELS: dict[str, ModelSpec] = {
    "unet_resnext50": ModelSpec("unet_resnext50", "UnetResNext50", "five maps"),
    "dynamic_unet": ModelSpec("dynamic_unet", "DynamicUnet", "sequence"),
    "unet_attention": ModelSpec("unet_attention", "UnetAttention", "sequence with five maps"),
    "more_dynamic_unet": ModelSpec("more_dynamic_unet", "MoreDynamicUnet", "pyramid"),
    "resnet_unet": ModelSpec("resnet_unet", "ResNetUNet", "five maps"),
    "unet_lean": ModelSpec("unet_lean", "UnetLean", "five maps"),
}

# Options that change the output, and the value at which it is one unbounded logit per pixel.
OUTPUT_OPTIONS: dict[str, Any] = {"n_out": 1, "n_class": 1, "y_range": None}


def build_model(name: str, encoder: str, options: Mapping[str, Any] | None = None) -> "nn.Module":
    """Build model `name` on `encoder` with random weights; InputError for an unknown or unsuitable name or option.

    options  keyword arguments of the model's class
    """
    options = options or {}
    check_options(name, options)
    spec = MODELS[name]
    build = getattr(importlib.import_module(f"{__name__}.{spec.module}"), spec.name)
    try:
        return build(encoder, **options)
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"{name} on {encoder} cannot be built with {dict(options)}: {error}") from error


def check_model(name: str, encoder: str, options: Mapping[str, Any] | None = None) -> None:
    """InputError for a model, encoder, option or value that `build_model` would refuse by its name or type.

    No weights are made. torch is imported only to look at an encoder that is not in ENCODERS.
    """
    check_options(name, options or {})
    needs = MODELS[name].encoder
    if encoder not in ENCODERS or needs == "pyramid":
        from pipeline.salt.models.encoders.build import check_encoder

        check_encoder(encoder, needs)


def check_trainable(name: str, options: Mapping[str, Any] | None = None) -> None:
    """InputError if, with these options, the output is not one unbounded logit per pixel, (B, 1, H, W)."""
    for option, value in (options or {}).items():
        if option in OUTPUT_OPTIONS and value != OUTPUT_OPTIONS[option]:
            raise InputError(
                f"{name} with {option}={value} does not give one unbounded logit per pixel, as the losses need; leave "
                f"{option} out to train it (the tools summary, draw and export accept it)"
            )


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """InputError for an unknown model, option or value; does not import torch."""
    _check_known("model", name, MODELS)
    kinds = _options(MODELS[name])
    for option, value in options.items():
        _check_known(f"option of {name}", option, kinds)
        kind = kinds[option]
        if get_origin(kind) is Literal:
            _check_known(f"{option} of {name}", value, get_args(kind))
        elif not _fits(value, kind):
            raise InputError(f"{option}={value!r} of {name} must be of type {getattr(kind, '__name__', kind)}")
        elif kind is int and value < 1:
            raise InputError(f"{option}={value} of {name} must be at least 1")


def _options(spec: ModelSpec) -> dict[str, Any]:
    """Keyword arguments of a model's class and their annotations, read from its source: importing it needs torch."""
    tree = ast.parse(Path(__file__).with_name(f"{spec.module}.py").read_text(encoding="utf-8"))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == spec.name]
    [init] = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    _, _, *arguments = init.args.args  # without self and encoder
    return {a.arg: eval(ast.unparse(a.annotation), {"Literal": Literal}) for a in arguments if a.annotation}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value fits an annotation: a bool is no int; an int may be a float, and a list a tuple."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple | list) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (NoneType if kind is None else kind)


def _check_known(what: str, name: Any, names: Collection[str]) -> None:
    if name not in names:
        raise InputError(f"{what} {name!r} is unknown; {did_you_mean(name, names)}")
