"""The family of networks. To add one, add its file and one line to MODELS.

Every model is called as model(x): (B, 3, H, W) images normalised with model.encoder.mean and .std -> (B, 1, H, W)
logits, any H and W; auxiliary heads come beside them, as `blocks.Heads`, in training mode only.
"""
import difflib
import inspect
from collections.abc import Mapping

from torch import nn

from pipeline.salt.errors import InputError
from pipeline.salt.models.unet_resnext50 import UnetResNext50

MODELS: dict[str, type[nn.Module]] = {
    "unet_resnext50": UnetResNext50,
}


def build_model(name: str, encoder: str, options: Mapping[str, object] | None = None) -> nn.Module:
    """Model `name` with random weights on `encoder`; InputError for a model, an encoder or an option nobody knows."""
    options = options or {}
    _known("model", name, MODELS)
    known = list(inspect.signature(MODELS[name]).parameters)
    for option in options:
        _known(f"option of {name}", option, known[1:])
    return MODELS[name](encoder, **options)


def _known(what: str, name: str, names: Mapping[str, object] | list[str]) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        raise InputError(f"{what} {name!r} is unknown{'; near: ' + ', '.join(near) if near else ''}. "
                         f"Take one of {', '.join(names)}.")
