"""Builds an encoder with random weights from its name in ENCODERS, timm or torchvision."""

from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from pipeline.salt.models.encoders.contract import IMAGENET_STATS, Encoder
from pipeline.salt.models.encoders.sequential import Layers, SequentialEncoder, to_sequential
from pipeline.salt.models.encoders.table import ENCODERS, STRIDES
from pipeline.salt.models.encoders.timm_encoder import (
    TimmEncoder,
    build_timm_encoder,
    timm_stats,
    unknown_encoder,
    wrong_strides,
)


def build_encoder(name: str) -> Encoder:
    """An encoder with five maps, at STRIDES. InputError for an unknown name or a model with other strides."""
    return build_sequential(name) if name in ENCODERS else build_timm_encoder(name, STRIDES)


def build_sequential(name: str, strides: tuple[int, ...] | None = None) -> SequentialEncoder:
    """An encoder that is a plain sequence of layers, with maps at these strides; None: any strides.

    InputError for an unknown name, for a model that is no such sequence, and for one with other strides.
    """
    classifier = build_classifier(name)
    if name in ENCODERS:
        return _of_table(name, classifier)
    encoder = to_sequential(name, classifier, timm_stats(name) if timm.is_model(name) else IMAGENET_STATS)
    if strides not in (None, encoder.strides):
        raise wrong_strides(encoder, strides)
    return encoder


def build_pyramid(name: str) -> TimmEncoder:
    """An encoder from any timm model whose maps form a pyramid, each stride twice the one before; else InputError."""
    return build_timm_encoder(name)


def build_classifier(name: str) -> nn.Module:
    """The whole ImageNet classifier that encoder `name` is cut from. InputError for an unknown name."""
    if name in ENCODERS:
        return ENCODERS[name].classifier()
    if timm.is_model(name):
        return timm.create_model(name)
    if name in list_models(module=torchvision.models):
        return get_model(name, weights=None)
    raise unknown_encoder(name)


# What a model may require of its encoder, as named in MODELS, and the function that builds it.
BUILDERS: dict[str, Callable[[str], Encoder]] = {
    "five maps": build_encoder,
    "sequence": build_sequential,
    "sequence with five maps": partial(build_sequential, strides=STRIDES),
    "pyramid": build_pyramid,
}


def check_encoder(name: str, needs: str) -> None:
    """InputError unless encoder `name` can be built as `needs`, a key of BUILDERS, requires; no weights are made."""
    with torch.device("meta"):
        BUILDERS[needs](name)


def _of_table(name: str, classifier: nn.Module) -> SequentialEncoder:
    spec, layers = ENCODERS[name], dict(classifier.named_children())
    if "layer0" in layers:
        layers = _with_plain_pool(layers)
    keys = list(layers)
    layers = {key: layers[key] for key in keys[: keys.index(spec.out_layers[-1]) + 1]}
    return SequentialEncoder(name, layers, spec.out_layers, spec.channels, STRIDES)


def _with_plain_pool(layers: Layers) -> Layers:
    """Replace the SENet's own 3x3 max-pool, inside layer0 in pretrainedmodels and beside it in timm, by a 2x2 one.

    With their own pools, the same weights would make two models: first maps at stride 4 or 2, and different borders.
    """
    stem = nn.Sequential()
    for key, layer in layers["layer0"].named_children():
        if key != "pool":
            stem.add_module(key, layer)
    blocks = {key: layers[key] for key in ("layer1", "layer2", "layer3", "layer4")}
    return {"layer0": stem, "pool0": nn.MaxPool2d(2, 2), **blocks}
