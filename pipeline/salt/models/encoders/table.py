"""The table of encoders, from four libraries; build.py builds them.

To add one, add one line to ENCODERS; a name that is not there is looked up in timm. A library is imported only when one
of its classifiers is built, so a command line can look up a name without torch.

SE-ResNeXt, SENet  Hu et al. 2018,  https://arxiv.org/abs/1709.01507
ResNet             He et al. 2016,  https://arxiv.org/abs/1512.03385
XResNet            He et al. 2019,  https://arxiv.org/abs/1812.01187
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

STRIDES = (2, 4, 8, 16, 32)  # of every encoder in ENCODERS


@dataclass(frozen=True)
class EncoderSpec:
    """A row of ENCODERS."""

    classifier: Callable[[], "nn.Module"]  # builds the whole ImageNet classifier, random weights
    out_layers: tuple[str, ...]  # the layers whose outputs are the maps
    channels: tuple[int, ...]  # of each map
    urls: tuple[str, ...] = ()  # of its ImageNet weights, tried in this order


def _torchvision(name: str) -> "nn.Module":
    from torchvision.models import get_model

    return get_model(name, weights=None)


def _timm(name: str) -> "nn.Module":
    import timm

    return timm.create_model(name)


def _fastai(name: str) -> "nn.Module":
    from fastai.vision.models import xresnet

    return getattr(xresnet, name)()


def _senet(name: str, timm_name: str) -> "nn.Module":
    """The model from pretrainedmodels or, if that is not installed, from timm: same keys, same arithmetic."""
    if importlib.util.find_spec("pretrainedmodels"):
        return getattr(importlib.import_module("pretrainedmodels"), name)(pretrained=None)
    return _timm(timm_name)


_MONAI = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1"  # copies of lip6's files
_TIMM_RELEASE = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights"
_SE_RESNEXT50 = EncoderSpec(
    partial(_senet, "se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
    out_layers=("layer0", "layer1", "layer2", "layer3", "layer4"),
    channels=(64, 256, 512, 1024, 2048),
    urls=(
        "http://data.lip6.fr/cadene/pretrainedmodels/se_resnext50_32x4d-a260b3a4.pth",
        f"{_MONAI}/se_resnext50_32x4d-a260b3a4.pth",
        f"{_TIMM_RELEASE}/legacy_se_resnext50_32x4d-f3651bad.pth",
        "https://huggingface.co/smp-hub/se_resnext50_32x4d.imagenet/resolve/main/model.safetensors",
    ),
)
_SENET154 = EncoderSpec(
    partial(_senet, "senet154", "legacy_senet154"),
    out_layers=_SE_RESNEXT50.out_layers,
    channels=(128, 256, 512, 1024, 2048),
    urls=(
        "http://data.lip6.fr/cadene/pretrainedmodels/senet154-c7b49a05.pth",
        f"{_MONAI}/senet154-c7b49a05.pth",
        f"{_TIMM_RELEASE}/legacy_senet154-e9eb9fe6.pth",
        "https://huggingface.co/smp-hub/senet154.imagenet/resolve/main/model.safetensors",
    ),
)
_RESNET_LAYERS = ("relu", "layer1", "layer2", "layer3", "layer4")
_XRESNET_LAYERS = ("2", "4", "5", "6", "7")  # the third stem convolution, then the four groups of blocks

ENCODERS: dict[str, EncoderSpec] = {
    "se_resnext50_32x4d": _SE_RESNEXT50,
    "legacy_seresnext50_32x4d": EncoderSpec(
        partial(_timm, "legacy_seresnext50_32x4d"), _SE_RESNEXT50.out_layers, _SE_RESNEXT50.channels, _SE_RESNEXT50.urls
    ),
    "senet154": _SENET154,
    "legacy_senet154": EncoderSpec(
        partial(_timm, "legacy_senet154"), _SENET154.out_layers, _SENET154.channels, _SENET154.urls
    ),
    "resnet18": EncoderSpec(
        partial(_torchvision, "resnet18"),
        _RESNET_LAYERS,
        (64, 64, 128, 256, 512),
        ("https://download.pytorch.org/models/resnet18-f37072fd.pth",),
    ),
    "resnet34": EncoderSpec(
        partial(_torchvision, "resnet34"),
        _RESNET_LAYERS,
        (64, 64, 128, 256, 512),
        ("https://download.pytorch.org/models/resnet34-b627a593.pth",),
    ),
    "resnet50": EncoderSpec(
        partial(_torchvision, "resnet50"),
        _RESNET_LAYERS,
        (64, 256, 512, 1024, 2048),
        ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth",),
    ),
    "xresnet34": EncoderSpec(partial(_fastai, "xresnet34"), _XRESNET_LAYERS, (64, 64, 128, 256, 512)),
    "xresnet50": EncoderSpec(
        partial(_fastai, "xresnet50"),
        _XRESNET_LAYERS,
        (64, 256, 512, 1024, 2048),
        ("https://s3.amazonaws.com/fast-ai-modelzoo/xrn50_940.pth",),
    ),
}

# SHA-256 of files above. Most of the other names contain its first eight digits.
SHA256 = {
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet34-b627a593.pth": "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f",
    "resnet50-11ad3fa6.pth": "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    "se_resnext50_32x4d-a260b3a4.pth": "a260b3a40f82dfe37c58d26a612bcf7bef0d27c6fed096226b0e4e9fb364168e",
    "senet154-c7b49a05.pth": "c7b49a056b98b0bed65b0237c27acdead655e599669215573d357ad337460413",
}
