"""Trained weights and training states on disk: loading either cannot run code."""

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
)  # keys that every state has


def load(path: Path, model: nn.Module) -> nn.Module:
    """Load the file's weights into `model` and return it.

    InputError for a damaged file or weights of another architecture. Prints a note if another release of a package
    made them, once per process.
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
            f"with these settings ({len(strange)} of {len(own)} arrays differ, such as {min(strange)}); give "
            "the --model, --encoder and --set it was trained with, or train it again"
        )
    model.load_state_dict(weights)
    made_with = (read_sidecar(path) or {}).get("versions", {})
    if others := environment.differences(made_with, environment.versions(), environment.MODEL_PACKAGES):
        environment.say(f"note     weights were made with {others}: results may differ slightly")
    return model


def load_state(path: Path) -> dict:
    """The state that training.resume.Resume saved, on the CPU. Raises whatever torch raises for a damaged file."""
    with zipfile.ZipFile(path) as content:  # torch verifies no checksums
        if damaged := content.testzip():
            raise ValueError(damaged)
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing = [name for name in STATE if name not in state]
    if missing:
        raise KeyError(*missing)
    return state


def build(settings: Model) -> nn.Module:
    """Build a profile's model with random weights; InputError if its output is not salt logits."""
    check_trainable(settings.name, settings.options)
    return build_model(settings.name, settings.encoder, settings.options)
