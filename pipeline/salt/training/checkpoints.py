"""Trained networks on disk: safetensors, which hold arrays and words and can run no code."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Model
from pipeline.salt.errors import InputError
from pipeline.salt.models import build_model


def save(path: Path, origin: Origin, weights: dict[str, Tensor], **facts) -> None:
    """Publish a state dict; profile, fold, epoch, score and whatever else is in `facts` stand in its metadata too."""
    notes = {**facts, "fingerprint": origin.key(), "versions": json.dumps(artifacts.versions())}
    metadata = {k: str(v) for k, v in notes.items()}
    artifacts.publish(path, origin, lambda tmp: _write(tmp, weights, metadata), **facts)


def _write(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """save_file, with the metadata in order: safetensors shuffles it, and the same weights should be the same bytes."""
    save_file(weights, path, metadata)
    with open(path, "r+b") as f:
        length = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        f.seek(8)
        f.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def load(path: Path, model: nn.Module) -> nn.Module:
    """The model with the weights of the file. InputError for a damaged file and for weights of another architecture."""
    try:
        with safe_open(path, framework="pt") as f:
            weights = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118    it is no dict
    except (SafetensorError, OSError) as e:
        raise InputError(f"{artifacts.shown(path)} cannot be read ({e}); train it again with --force") from e
    own = model.state_dict()
    strange = [k for k in {*own, *weights} if k not in own or k not in weights or own[k].shape != weights[k].shape]
    if strange:
        raise InputError(
            f"{artifacts.shown(path)} holds weights of another architecture than {type(model).__name__} "
            f"as it is set ({len(strange)} of {len(own)} arrays differ, among them {min(strange)}); give "
            "the --model, --encoder and --set it was trained with, or train it again"
        )
    model.load_state_dict(weights)
    return model


def network(settings: Model) -> nn.Module:
    """The network a profile describes, with random weights."""
    return build_model(settings.name, settings.encoder, settings.options)
