"""Trained weights and states of trainings on disk: neither can run code when it is loaded."""

import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.salt import environment
from pipeline.salt.artifacts import read_sidecar
from pipeline.salt.config import Model
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.models import build_model, check_trainable

STATE = (
    "settings",
    "inputs",
    "epochs",
    "batch",
    "shuffle",
    "pct",
    "model",
    "optimizer",
    "callbacks",
)  # what a state has, at least


def load(path: Path, model: nn.Module) -> nn.Module:
    """The model with the weights of the file. InputError for a damaged file and for weights of another architecture.

    Prints, once, where another release of a package has made them.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as e:
        raise InputError(f"{display_path(path)} cannot be read ({e}); train it again with --force") from e
    own = model.state_dict()
    strange = [k for k in {*own, *weights} if k not in own or k not in weights or own[k].shape != weights[k].shape]
    if strange:
        raise InputError(
            f"{display_path(path)} holds weights of another architecture than {type(model).__name__} "
            f"as it is set ({len(strange)} of {len(own)} arrays differ, among them {min(strange)}); give "
            "the --model, --encoder and --set it was trained with, or train it again"
        )
    model.load_state_dict(weights)
    made_with = (read_sidecar(path) or {}).get("versions", {})
    if others := environment.differences(made_with, environment.versions(), environment.MODEL_PACKAGES):
        environment.say(f"note     weights were made with {others}: results may not be quite those made there")
    return model


def load_state(path: Path) -> dict:
    """What training.resume.Resume has saved, on the CPU. Raises whatever torch makes of a damaged file."""
    with zipfile.ZipFile(path) as content:  # torch looks at no checksum
        if damaged := content.testzip():
            raise ValueError(damaged)
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing = [name for name in STATE if name not in state]
    if missing:
        raise KeyError(*missing)
    return state


def build(settings: Model) -> nn.Module:
    """The model that a profile describes, with random weights. InputError for one that gives no salt logits."""
    check_trainable(settings.name, settings.options)
    return build_model(settings.name, settings.encoder, settings.options)
