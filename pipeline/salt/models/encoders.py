"""Encoders: ImageNet classifiers cut down to their feature pyramid. One table over four libraries.

An encoder maps a batch (B, 3, H, W), normalised with its own `mean` and `std`, to five maps at strides 2, 4, 8, 16, 32.
To add one, add one line to ENCODERS; a name that is not there is looked up in timm.

SE-ResNeXt, SENet  Hu et al. 2018,  https://arxiv.org/abs/1709.01507
ResNet             He et al. 2016,  https://arxiv.org/abs/1512.03385
XResNet            He et al. 2019,  https://arxiv.org/abs/1812.01187
timm               Wightman 2019,   https://github.com/huggingface/pytorch-image-models
"""
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
from fastai.vision.learner import create_body
from fastai.vision.models.xresnet import xresnet34, xresnet50
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

from pipeline.salt.errors import InputError
from pipeline.salt.models.pyramid import Encoder, timm_pyramid

STRIDES = (2, 4, 8, 16, 32)


class Chain(Encoder):
    """Layers one after the other, named as their weights are in the classifier; those in `taps` give the maps."""

    def __init__(self, name: str, layers: dict[str, nn.Module], taps: tuple[str, ...], channels: tuple[int, ...]):
        super().__init__(name, channels, STRIDES, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        self.taps = taps
        for key, layer in layers.items():
            self.add_module(key, layer)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for key, layer in self.named_children():
            x = layer(x)
            if key in self.taps:
                maps.append(x)
        return maps


@dataclass(frozen=True)
class Source:
    """A row of ENCODERS."""

    classifier: Callable[[], nn.Module]   # builds the whole ImageNet network, random weights
    taps: tuple[str, ...]                 # the layers whose outputs are the maps
    channels: tuple[int, ...]             # of each map
    urls: tuple[str, ...] = ()            # where its ImageNet weights lie, tried in this order


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
    urls=("http://data.lip6.fr/cadene/pretrainedmodels/se_resnext50_32x4d-a260b3a4.pth",
          f"{_TIMM_RELEASE}/legacy_se_resnext50_32x4d-f3651bad.pth",
          "https://huggingface.co/smp-hub/se_resnext50_32x4d.imagenet/resolve/main/model.safetensors"),
)
_SENET154 = Source(
    partial(_senet, "senet154", "legacy_senet154"),
    taps=("layer0", "layer1", "layer2", "layer3", "layer4"),
    channels=(128, 256, 512, 1024, 2048),
    urls=("http://data.lip6.fr/cadene/pretrainedmodels/senet154-c7b49a05.pth",
          f"{_TIMM_RELEASE}/legacy_senet154-e9eb9fe6.pth",
          "https://huggingface.co/smp-hub/senet154.imagenet/resolve/main/model.safetensors"),
)
_RESNET_TAPS = ("relu", "layer1", "layer2", "layer3", "layer4")
_XRESNET_TAPS = ("2", "4", "5", "6", "7")   # the third stem convolution, then the four groups of blocks

ENCODERS: dict[str, Source] = {
    "se_resnext50_32x4d": _SE_RESNEXT50,
    "legacy_seresnext50_32x4d": Source(partial(timm.create_model, "legacy_seresnext50_32x4d"),
                                       _SE_RESNEXT50.taps, _SE_RESNEXT50.channels, _SE_RESNEXT50.urls),
    "senet154": _SENET154,
    "legacy_senet154": Source(partial(timm.create_model, "legacy_senet154"),
                              _SENET154.taps, _SENET154.channels, _SENET154.urls),
    "resnet18": Source(resnet18, _RESNET_TAPS, (64, 64, 128, 256, 512),
                       ("https://download.pytorch.org/models/resnet18-f37072fd.pth",)),
    "resnet34": Source(resnet34, _RESNET_TAPS, (64, 64, 128, 256, 512),
                       ("https://download.pytorch.org/models/resnet34-b627a593.pth",)),
    "resnet50": Source(resnet50, _RESNET_TAPS, (64, 256, 512, 1024, 2048),
                       ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth",)),
    "xresnet34": Source(xresnet34, _XRESNET_TAPS, (64, 64, 128, 256, 512)),
    "xresnet50": Source(xresnet50, _XRESNET_TAPS, (64, 256, 512, 1024, 2048),
                        ("https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth",)),
}


def build_encoder(name: str) -> Encoder:
    """The encoder with random weights. InputError for a name nobody knows and for a network that is no such pyramid."""
    if name not in ENCODERS:
        return timm_pyramid(name, STRIDES)
    source = ENCODERS[name]
    classifier = source.classifier()
    body = create_body(classifier, pretrained=False)
    layers = dict(zip(dict(classifier.named_children()), body, strict=False))
    if "layer0" in layers:
        layers = _with_plain_pool(layers)
    return Chain(name, layers, source.taps, source.channels)


def classifier(name: str) -> nn.Module:
    """The whole ImageNet network that encoder `name` is cut from, random weights."""
    return ENCODERS[name].classifier() if name in ENCODERS else timm.create_model(name)


def without_early_pool(encoder: Encoder) -> Encoder:
    """The same encoder (in place) without the max-pool of its stem: every later map at twice the resolution.

    InputError for an encoder that has none.
    """
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.MaxPool2d):
            encoder.set_submodule(name, nn.Identity())
            encoder.strides = (encoder.strides[0], *(stride // 2 for stride in encoder.strides[1:]))
            return encoder
    raise InputError(f"encoder {encoder.name!r} has no early max-pool that could be left out: take a ResNet, "
                     "such as resnet34 or se_resnext50_32x4d.")


def with_full_size_stem(encoder: Encoder) -> Encoder:
    """The same encoder (in place), its first convolution at stride 1: every map at twice the resolution."""
    first = next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    first.stride = (1, 1)
    encoder.strides = tuple(stride // 2 for stride in encoder.strides)
    return encoder


def _with_plain_pool(layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """A 2x2 max-pool instead of the SENet's own 3x3 one, which pretrainedmodels keeps inside layer0 and timm beside it.

    Cut as they come, the same weights would make two networks: first maps at stride 4 and 2, and other borders.
    """
    stem = nn.Sequential()
    for key, layer in layers["layer0"].named_children():
        if key != "pool":
            stem.add_module(key, layer)
    blocks = {key: layers[key] for key in ("layer1", "layer2", "layer3", "layer4")}
    return {"layer0": stem, "pool0": nn.MaxPool2d(2, 2), **blocks}
