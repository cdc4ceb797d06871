"""Traces a model: its parts, the shape of each one's output, and which part feeds which.

The model runs once on the `meta` device, where tensors have a shape but no content: nothing is computed, and nothing is
written down by hand. Forward hooks tell which part is at work; a torch function mode follows every tensor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.salt.errors import InputError
from pipeline.salt.models.blocks import Heads
from pipeline.salt.models.encoders.timm_encoder import TimmEncoder

SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d)  # without effect when a trained model is used
OPEN = (nn.ModuleList, nn.ModuleDict)  # a box around layers, not a layer


@dataclass(eq=False)
class Part:
    """A layer or a run of layers; the first part is the image.

    names         of its layers, within the encoder if that calls it, else within the model
    kinds         for each kind of layer in it, their parameters and their number
    encoder       whether the encoder calls it
    shape         of its output: channels, height, width
    sources       the parts whose outputs it uses, in the order of first use
    concatenated  channels of the maps that are concatenated in it or just before it; empty if none
    macs          multiply-adds for one image
    output        which of the model's outputs it gives: "", "salt", "deep" or "any_salt"
    """

    names: list[str]
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)
    encoder: bool = False
    shape: tuple[int, ...] = ()
    parameters: int = 0
    trainable: int = 0
    macs: int = 0
    sources: list["Part"] = field(default_factory=list)
    concatenated: tuple[int, ...] = ()
    output: str = ""

    @property
    def title(self) -> str:
        """`layer2`, `conv1, layer1`, `conv1 … layer1`."""
        return ", ".join(self.names) if len(self.names) < 3 else f"{self.names[0]} … {self.names[-1]}"

    @property
    def kind(self) -> str:
        """The kind of layer that holds most of its parameters: `4 × BasicBlock`."""
        kind, (_, number) = max(self.kinds.items(), key=lambda item: item[1][0], default=("", (0, 0)))
        return f"{number} × {kind}" if number > 1 else kind


def trace(model: nn.Module, size: int) -> list[Part]:
    """The parts of `model`, in the order in which they process an image of size x size px; moves it to `meta`."""
    check_size(size)
    model = model.to("meta").train()  # training mode shows auxiliary heads
    image = Part(["image"], shape=(3, size, size))
    follow, flops = _Follow(), FlopCounterMode(display=False)
    encoder = cast(nn.Module, model.encoder)  # torch types attributes as Tensor | Module
    units = {module: (path, part) for module, path, part in _units(model, "", encoder)}
    hooks = [
        encoder.register_forward_pre_hook(lambda *_: follow.encoding(True)),
        encoder.register_forward_hook(lambda *_: follow.encoding(False)),
    ]
    for module, (_, part) in units.items():
        hooks += [
            module.register_forward_pre_hook(lambda *_, part=part: follow.enter(part)),
            module.register_forward_hook(lambda *io, part=part: follow.leave(part, io[2])),
        ]
    x = torch.empty(2, 3, size, size, device="meta")  # two: BatchNorm needs more than one
    follow.know(x, [image])
    with torch.no_grad(), flops, follow:
        out = model(x)
    for hook in hooks:
        hook.remove()
    follow.outputs(out)
    counts = flops.get_flop_counts()
    for path, part in units.values():
        part.macs = sum(counts.get(f"{type(model).__name__}.{path}", {}).values()) // (2 * len(x))
    parts = [image, *follow.order]
    for part in parts:
        if part.shape and (earlier := _swallowed_by(part, parts)):
            _merge(earlier, part, parts)
    return [part for part in parts if part.shape]


def check_size(size: int) -> None:
    """InputError for an image (size x size px) that a model cannot halve five times."""
    if size < 32:
        raise InputError(
            f"an image of {size} x {size} px is too small for a model that halves it five times; use 32 px or more"
        )


def consumers(part: Part, parts: list[Part]) -> list[Part]:
    return [other for other in parts if part in other.sources]


class _Follow(TorchFunctionMode):
    """Remember for every tensor the parts it comes from."""

    def __init__(self):
        super().__init__()
        self.in_encoder = False
        self.at_work: list[Part] = []
        self.order: list[Part] = []
        self.known: dict[int, tuple[Tensor, list[Part], tuple[int, ...]]] = {}  # the tensor, so its id is not reused

    def know(self, x: Tensor, parts: list[Part], concatenated: tuple[int, ...] = ()) -> None:
        self.known[id(x)] = x, parts, concatenated

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not any(True for _ in _tensors(out)):  # reading a shape does not use the tensor
            return out
        inputs = [self.known[id(x)] for x in _tensors((args, kwargs)) if id(x) in self.known]
        parts = list(dict.fromkeys(part for _, known, _ in inputs for part in known))
        concatenated = next((channels for _, _, channels in inputs if channels), ())
        if func is torch.cat:
            concatenated = tuple(c for x in args[0] for c in self._channels(x))
        if self.at_work:
            part = self.at_work[0]
            part.sources += [source for source in parts if source is not part and source not in part.sources]
            part.concatenated = part.concatenated or concatenated
            parts, concatenated = [part], ()
        for x in _tensors(out):
            self.know(x, parts, concatenated)
        return out

    def _channels(self, x: Tensor) -> tuple[int, ...]:
        _, _, concatenated = self.known.get(id(x), (x, [], ()))
        return concatenated if sum(concatenated) == x.shape[1] else (x.shape[1],)

    def encoding(self, begins: bool) -> None:
        self.in_encoder = begins

    def enter(self, part: Part) -> None:
        part.encoder = self.in_encoder
        self.at_work.append(part)

    def leave(self, part: Part, out: Any) -> None:
        self.at_work.pop()
        first = next(_tensors(out))
        part.shape = (*first.shape[1:], 1, 1)[:3]  # features of the whole tile are a 1 x 1 map
        self.order = [p for p in self.order if p is not part] + [part]
        for x in _tensors(out):
            if id(x) in self.known and not part.sources:  # it passed through untouched
                part.sources = [source for source in self.known[id(x)][1] if source is not part]
            self.know(x, [part])

    def outputs(self, out: Tensor | Heads) -> None:
        heads = out if isinstance(out, Heads) else Heads(out, [], None)
        given: dict[str, Sequence[Tensor | None]]
        given = {"any_salt": [heads.any_salt], "deep": heads.deep, "salt": [heads.logits]}
        for what, tensors in given.items():
            for x in tensors:
                for part in self.known[id(x)][1] if x is not None else ():
                    part.output = part.output or what


def _units(module: nn.Module, path: str, encoder: nn.Module, within: str = "") -> Iterator[tuple[nn.Module, str, Part]]:
    """The layers that form one part each, with their paths: the model's children, within the encoder its blocks.

    within  path of the encoder, once inside it
    """
    for key, child in module.named_children():
        full = f"{path}.{key}" if path else key
        root = within or (full if child is encoder else "")
        if isinstance(child, SILENT):
            continue
        opened = isinstance(child, OPEN) or root and isinstance(child, nn.Sequential) or isinstance(module, TimmEncoder)
        if opened or any(part is encoder for part in child.modules()):
            yield from _units(child, full, encoder, root)
        else:
            parameters = sum(p.numel() for p in child.parameters())
            trainable = sum(p.numel() for p in child.parameters() if p.requires_grad)
            yield child, full, Part([_name(full, root)], _kinds(child), parameters=parameters, trainable=trainable)


def _name(path: str, root: str) -> str:
    """`layer1` for `encoder.layer1.0`: an encoder's blocks are named after their group."""
    if not root:
        return path
    names = path.removeprefix(f"{root}.").removeprefix("body.").split(".")
    return ".".join(names[:-1] or names)


def _kinds(module: nn.Module) -> dict[str, tuple[int, int]]:
    if type(module) is not nn.Sequential:
        return {type(module).__name__: (sum(p.numel() for p in module.parameters()), 1)}
    kinds: dict[str, tuple[int, int]] = {}
    for layer in module:
        _add(kinds, _kinds(layer))
    return kinds


def _add(kinds: dict[str, tuple[int, int]], others: dict[str, tuple[int, int]]) -> None:
    for kind, (parameters, number) in others.items():
        before = kinds.get(kind, (0, 0))
        kinds[kind] = before[0] + parameters, before[1] + number


def _swallowed_by(part: Part, parts: list[Part]) -> Part | None:
    """The part that this one merely continues: its only source, if that feeds nothing else.

    Only within an encoder, or if this part has no weights: each other layer of the decoder is worth a line.
    """
    if len(part.sources) != 1 or (source := part.sources[0]) is parts[0] or source.output:
        return None
    continues = source.encoder and part.encoder or not part.parameters
    return source if continues and consumers(source, parts) == [part] else None


def _merge(earlier: Part, part: Part, parts: list[Part]) -> None:
    earlier.names += [name for name in part.names if name not in earlier.names]
    _add(earlier.kinds, part.kinds)
    earlier.shape, earlier.output = part.shape, part.output
    earlier.parameters += part.parameters
    earlier.trainable += part.trainable
    earlier.macs += part.macs
    for other in consumers(part, parts):
        other.sources[other.sources.index(part)] = earlier
    part.sources, part.shape = [], ()


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)
