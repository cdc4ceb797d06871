"""An encoder that is a plain sequence of layers, which a model may inspect, change and cut."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.salt.errors import InputError
from pipeline.salt.models.encoders.contract import IMAGENET_STATS, Encoder, Stats

PROBE = 64  # px, side of the image that shows at which layers a classifier shrinks it
Layers = dict[str, nn.Module]


class SequentialEncoder(Encoder):
    """Layers in sequence, named as in the classifier's weights; the outputs of `out_layers` are the maps."""

    def __init__(
        self,
        name: str,
        layers: Layers,
        out_layers: Sequence[str],
        channels: Sequence[int],
        strides: Sequence[int],
        stats: Stats = IMAGENET_STATS,
    ):
        super().__init__(name, tuple(channels), tuple(strides), stats)
        self.out_layers = tuple(out_layers)
        for key, layer in layers.items():
            self.add_module(key, layer)

    def forward(self, x: Tensor, after: Sequence[nn.Module] = ()) -> list[Tensor]:
        """after: one layer for each map, applied to it before the next layer sees it; shapes unchanged."""
        maps: list[Tensor] = []
        for key, layer in self.named_children():
            x = layer(x)
            if key in self.out_layers:
                x = after[len(maps)](x) if after else x
                maps.append(x)
        return maps


def to_sequential(name: str, classifier: nn.Module, stats: Stats) -> SequentialEncoder:
    """Turn a classifier into an encoder whose maps are taken before each change of size.

    InputError for a model that is not a plain sequence of layers that shrink the image.
    """
    try:
        return _read_out(name, _trunk(classifier), stats)
    except Exception as error:  # each classifier fails in its own way when called layer by layer
        raise InputError(
            f"encoder {name!r} is not a plain sequence of layers that shrink the image step by step; choose a "
            "ResNet or an EfficientNet, such as resnet34"
        ) from error


def remove_early_pool_(encoder: Encoder) -> None:
    """Remove the max-pool from the encoder's stem, which doubles the resolution of every later map.

    InputError for an encoder that has none.
    """
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.MaxPool2d):
            encoder.set_submodule(name, nn.Identity())
            encoder.strides = (encoder.strides[0], *(stride // 2 for stride in encoder.strides[1:]))
            return
    raise InputError(
        f"encoder {encoder.name!r} has no early max-pool that could be removed; choose a ResNet, "
        "such as resnet34 or se_resnext50_32x4d"
    )


def unstride_stem_(encoder: Encoder) -> None:
    """Give the encoder's first convolution stride 1, which doubles the resolution of every map.

    InputError for an encoder whose first convolution does not halve the image.
    """
    first = next(layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d))
    if first.stride != (2, 2):
        raise InputError(
            f"encoder {encoder.name!r} does not begin with a convolution of stride 2; choose a ResNet, such as resnet34"
        )
    first.stride = (1, 1)
    encoder.strides = tuple(stride // 2 for stride in encoder.strides)


def _trunk(classifier: nn.Module) -> Layers:
    """Layers before the classification head: up to the last map that timm names, else to the last convolution."""
    parts = dict(classifier.named_children())
    if (info := getattr(classifier, "feature_info", None)) is not None:
        last = info[-1]["module"]
    else:
        last = [key for key, part in parts.items() if key != "classifier" and _convolves(part)][-1]
    top = list(parts).index(last.split(".")[0])
    flat = _flat(dict(list(parts.items())[: top + 1]), torch.zeros(1, 3, PROBE, PROBE))
    end = list(flat).index(last.replace(".", "_")) if last.replace(".", "_") in flat else len(flat)
    return dict(list(flat.items())[: end + 1])


def _flat(layers: Layers, x: Tensor) -> Layers:
    """The same layers, but a Sequential that shrinks x (1, C, H, W) below half is split: each may give one map."""
    flat: Layers = {}
    for key, layer in layers.items():
        y = _eval(layer, x)
        if isinstance(layer, nn.Sequential) and 2 * y.shape[-1] < x.shape[-1]:
            inner = _flat(dict(layer.named_children()), x)
            flat |= {f"{key}_{name}": part for name, part in inner.items()}
        else:
            flat[key] = layer
        x = y
    return flat


def _read_out(name: str, layers: Layers, stats: Stats) -> SequentialEncoder:
    x = torch.zeros(1, 3, PROBE, PROBE)
    maps: dict[int, tuple[str, int]] = {}  # stride -> layer and channels; of equal strides the last counts
    for key, layer in layers.items():
        x = _eval(layer, x)
        maps[PROBE // x.shape[-1]] = key, x.shape[1]
    maps.pop(1, None)
    if x.ndim != 4 or len(maps) < 2 or list(maps) != sorted(maps):
        raise TypeError(f"maps {maps}, the last {tuple(x.shape)}")
    keys, channels = zip(*maps.values(), strict=True)
    return SequentialEncoder(name, layers, keys, channels, list(maps), stats)


def _eval(layer: nn.Module, x: Tensor) -> Tensor:
    training = layer.training
    with torch.no_grad():
        y = layer.eval()(x)
    layer.train(training)
    return y


def _convolves(part: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in part.modules())
