"""Encoders: ImageNet classifiers cut down to their feature pyramid. One table over four libraries.

An encoder maps a batch (B, 3, H, W), normalised with its own `mean` and `std`, to maps at strides 2, 4, 8, 16, 32.
To add one, add one line to ENCODERS; a name that is not there is looked up in timm.

SE-ResNeXt, SENet  Hu et al. 2018,  https://arxiv.org/abs/1709.01507
ResNet             He et al. 2016,  https://arxiv.org/abs/1512.03385
XResNet            He et al. 2019,  https://arxiv.org/abs/1812.01187
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torchvision
from fastai.vision.learner import create_body
from fastai.vision.models.xresnet import xresnet34, xresnet50
from torch import nn
from torchvision.models import get_model, list_models, resnet18, resnet34, resnet50

from pipeline.salt.models.encoders.sequential import IMAGENET, Chain, Layers, chain_of
from pipeline.salt.models.encoders.timm_encoder import Encoder, timm_pyramid, unknown

STRIDES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Source:
    """A row of ENCODERS."""

    classifier: Callable[[], nn.Module]  # builds the whole ImageNet network, random weights
    taps: tuple[str, ...]  # the layers whose outputs are the maps
    channels: tuple[int, ...]  # of each map
    urls: tuple[str, ...] = ()  # where its ImageNet weights lie, tried in this order


def _senet(name: str, timm_name: str) -> nn.Module:
    """The network from pretrainedmodels or, where that is not installed, timm's: the same keys, the same arithmetic."""
    if importlib.util.find_spec("pretrainedmodels"):
        return getattr(importlib.import_module("pretrainedmodels"), name)(pretrained=None)
    return timm.create_model(timm_name)


_TIMM_RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
_SE_RESNEXT50 = Source(
    partial(_senet, "se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
    taps=("layer0", "layer1", "layer2", "layer3", "layer4"),
    channels=(64, 256, 512, 1024, 2048),
    urls=(
        "http://data.lip6.fr/cadene/pretrainedmodels/se_resnext50_32x4d-a260b3a4.pth",
        f"{_TIMM_RELEASE}/legacy_se_resnext50_32x4d-f3651bad.pth",
        "https://huggingface.co/smp-hub/se_resnext50_32x4d.imagenet/resolve/main/model.safetensors",
    ),
)
_SENET154 = Source(
    partial(_senet, "senet154", "legacy_senet154"),
    taps=_SE_RESNEXT50.taps,
    channels=(128, 256, 512, 1024, 2048),
    urls=(
        "http://data.lip6.fr/cadene/pretrainedmodels/senet154-c7b49a05.pth",
        f"{_TIMM_RELEASE}/legacy_senet154-e9eb9fe6.pth",
        "https://huggingface.co/smp-hub/senet154.imagenet/resolve/main/model.safetensors",
    ),
)
_RESNET_TAPS = ("relu", "layer1", "layer2", "layer3", "layer4")
_XRESNET_TAPS = ("2", "4", "5", "6", "7")  # the third stem convolution, then the four groups of blocks

ENCODERS: dict[str, Source] = {
    "se_resnext50_32x4d": _SE_RESNEXT50,
    "legacy_seresnext50_32x4d": Source(
        partial(timm.create_model, "legacy_seresnext50_32x4d"),
        _SE_RESNEXT50.taps,
        _SE_RESNEXT50.channels,
        _SE_RESNEXT50.urls,
    ),
    "senet154": _SENET154,
    "legacy_senet154": Source(
        partial(timm.create_model, "legacy_senet154"), _SENET154.taps, _SENET154.channels, _SENET154.urls
    ),
    "resnet18": Source(
        resnet18, _RESNET_TAPS, (64, 64, 128, 256, 512), ("https://download.pytorch.org/models/resnet18-f37072fd.pth",)
    ),
    "resnet34": Source(
        resnet34, _RESNET_TAPS, (64, 64, 128, 256, 512), ("https://download.pytorch.org/models/resnet34-b627a593.pth",)
    ),
    "resnet50": Source(
        resnet50,
        _RESNET_TAPS,
        (64, 256, 512, 1024, 2048),
        ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth",),
    ),
    "xresnet34": Source(xresnet34, _XRESNET_TAPS, (64, 64, 128, 256, 512)),
    "xresnet50": Source(
        xresnet50,
        _XRESNET_TAPS,
        (64, 256, 512, 1024, 2048),
        ("https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth",),
    ),
}


def build_encoder(name: str) -> Encoder:
    """The encoder with random weights. InputError for a name nobody knows and for a network with other strides."""
    return build_chain(name) if name in ENCODERS else timm_pyramid(name, STRIDES)


def build_chain(name: str) -> Chain:
    """The encoder as a plain sequence of layers, random weights; of ENCODERS, else timm's, else torchvision's.

    InputError for a name nobody knows, and for a network that is no such sequence.
    """
    network = classifier(name)
    if name not in ENCODERS:
        cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        return chain_of(name, network, (tuple(cfg.mean), tuple(cfg.std)) if cfg else IMAGENET)
    layers = dict(zip(dict(network.named_children()), create_body(network, pretrained=False), strict=False))
    if "layer0" in layers:
        layers = _with_plain_pool(layers)
    return Chain(name, layers, ENCODERS[name].taps, ENCODERS[name].channels, STRIDES)


def classifier(name: str) -> nn.Module:
    """The whole ImageNet network that encoder `name` is cut from, random weights."""
    if name in ENCODERS:
        return ENCODERS[name].classifier()
    if timm.is_model(name):
        return timm.create_model(name)
    if name in list_models(module=torchvision.models):
        return get_model(name, weights=None)
    raise unknown(name)


def _with_plain_pool(layers: Layers) -> Layers:
    """A 2x2 max-pool instead of the SENet's own 3x3 one, which pretrainedmodels keeps inside layer0 and timm beside it.

    Cut as they come, the same weights would make two networks: first maps at stride 4 and 2, and other borders.
    """
    stem = nn.Sequential()
    for key, layer in layers["layer0"].named_children():
        if key != "pool":
            stem.add_module(key, layer)
    blocks = {key: layers[key] for key in ("layer1", "layer2", "layer3", "layer4")}
    return {"layer0": stem, "pool0": nn.MaxPool2d(2, 2), **blocks}
