"""Summary of a model as a text table, part by part (trace.py) or layer by layer."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.salt.inspection.trace import Part, check_size

NUMBERS = ("parameters", "trainable", "multiply-adds")
RULE: tuple[str, ...] = ()  # a row that is drawn as a line


def parts_table(parts: list[Part]) -> str:
    """The parts that `trace` found, and their totals, as lines of text."""
    rows = [(part.title, part.kind, _shape(part.shape), *_numbers([part])) for part in parts]
    return _table([("part", "layers", "output", *NUMBERS), RULE, *rows, RULE, ("total", "", "", *_numbers(parts))])


def layers_table(model: nn.Module, size: int) -> str:
    """Every layer that an image of size x size px passes, as in fastai's `learn.summary()`. Moves `model` to `meta`.

    A line marks each change of the output's shape, which is printed at the first layer that has it. The total includes
    multiply-adds between layers, such as the product of two maps in a Swin.
    """
    layers, macs = _layers(model, size)
    rows: list[tuple[str, ...]] = [("layer", "kind", "output", *NUMBERS)]
    before = None
    for layer in layers:
        [name], [kind] = layer.names, layer.kinds
        new = layer.shape != before
        rows += [RULE] * new + [(name, kind, _shape(layer.shape) if new else "", *_numbers([layer]))]
        before = layer.shape
    *parameters, _ = _numbers(layers)
    return _table([*rows, RULE, ("total", "", "", *parameters, _millions(macs))])


def _layers(model: nn.Module, size: int) -> tuple[list[Part], int]:
    """Modules without children or with weights of their own, in the order of their work; all multiply-adds."""
    check_size(size)
    model = model.to("meta").train()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, out) -> None:  # a hook that returned a value would replace the module's output
        shapes.setdefault(path, tuple(out.shape[1:]) if isinstance(out, Tensor) else ())

    hooks = [
        module.register_forward_hook(lambda _, __, out, path=path: note(path, out))
        for path, module in model.named_modules()
    ]
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), flops:
        model(torch.empty(2, 3, size, size, device="meta"))  # two: BatchNorm needs more than one
    for hook in hooks:
        hook.remove()
    macs = {
        path: sum(of.values()) // 4 for path, of in flops.get_flop_counts().items()
    }  # counted for two images, with two operations each
    layers = []
    for path, shape in shapes.items():
        module = model.get_submodule(path)
        leaf, own = not [*module.children()], [*module.parameters(recurse=False)]
        if leaf or own:
            part = Part([path], {type(module).__name__: (1, 1)}, shape=shape)
            part.parameters = sum(p.numel() for p in own)
            part.trainable = sum(p.numel() for p in own if p.requires_grad)
            part.macs = macs.get(f"{type(model).__name__}.{path}", 0) if leaf else 0
            layers.append(part)
    return layers, macs["Global"]


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*filter(None, rows), strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        if row
        else rule
        for row in rows
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:>4}" for n in shape)


def _numbers(parts: list[Part]) -> list[str]:
    parameters, trainable, macs = (sum(getattr(p, key) for p in parts) for key in ("parameters", "trainable", "macs"))
    return [f"{parameters:,}", f"{trainable:,}", _millions(macs)]


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M"
