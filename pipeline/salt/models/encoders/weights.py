"""ImageNet weights for an encoder, from a local file or else the known addresses; loaded completely or not at all."""

import hashlib
import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.salt.errors import InputError
from pipeline.salt.models.encoders.build import build_classifier
from pipeline.salt.models.encoders.contract import Encoder
from pipeline.salt.models.encoders.table import ENCODERS, SHA256

SUFFIXES = (".safetensors", ".pth", ".pt")
TIMEOUT = 20  # seconds without a byte before the next address is tried


def load_imagenet(encoder: Encoder, source: Path | None) -> str:
    """Load ImageNet weights into `encoder` and return the path of their file.

    source  a file; a folder that may hold one; or None: torch hub's cache, then the known addresses.
    InputError if no weights can be had, and for a file that is broken or belongs to another architecture.
    """
    file = find_weights(encoder.name, source)
    if file is None:
        file = _download(encoder.name, source)
    state = _read(file)
    encoder.load_state_dict(_encoder_part(encoder, state, file))
    return str(file)


def find_weights(name: str, source: Path | None) -> Path | None:
    """The local file that would be used for encoder `name`; None when its weights would have to be downloaded."""
    if source is not None and not source.exists():
        raise InputError(
            f"--weights {source}: no such file or folder; name one, or use --weights none to train from scratch"
        )
    if source is not None and source.is_file():
        return source
    known = {*addresses(name).values()}
    ours = re.compile(rf"{re.escape(name)}([.-].*)?")
    for folder in filter(None, (source, _cache())):
        files = sorted(f for f in folder.glob("*") if f.suffix in SUFFIXES)
        # A known name first: `resnet34-b627a593.pth` before somebody's `resnet34-old.pth`.
        for file in sorted(files, key=lambda f: f.name not in known):
            if file.name in known or ours.fullmatch(file.stem):
                return file
    return None


def fault_of(file: Path, name: str) -> str:
    """What is wrong with a file of weights for encoder `name`; '' if nothing is."""
    digits = sha256_of(file.name) if file.name in addresses(name).values() else None
    if digits:
        with open(file, "rb") as f:
            sha256 = hashlib.file_digest(f, "sha256").hexdigest()[: len(digits)]
        if sha256 != digits:
            return f"{file}: its SHA-256 begins with {sha256}, but that of the right file with {digits}"
    try:
        _read(file)
    except InputError as e:
        return str(e)
    return ""


def sha256_of(file_name: str) -> str | None:
    """The SHA-256 that a published file must have, or its beginning, taken from the file's name; None if unknown."""
    in_name = re.search(r"-([0-9a-f]{8,})\.", file_name)
    return SHA256.get(file_name, in_name[1] if in_name else None)


def is_fetched(file_name: str) -> bool:
    """Whether a file may be downloaded: its SHA-256 is known, or it is .safetensors: only arrays and their lengths."""
    return bool(sha256_of(file_name)) or file_name.endswith(".safetensors")


def addresses(name: str) -> dict[str, str]:
    """Addresses of the weights of encoder `name`: address -> file name; first those of files with a known SHA-256."""
    names = {url: _file_name(url) for url in _addresses(name)}
    return dict(sorted(names.items(), key=lambda item: sha256_of(item[1]) is None))


def _addresses(name: str) -> list[str]:
    if name in ENCODERS:
        return list(ENCODERS[name].urls)
    cfg = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if cfg is None:
        return []
    hub = [f"https://huggingface.co/{cfg.hf_hub_id}/resolve/main/model.safetensors"] if cfg.hf_hub_id else []
    return hub + [url for url in [cfg.url] if url and isinstance(url, str)]


def _file_name(url: str) -> str:
    """The last part of an address; on the Hugging Face hub, where every file has one name, that of the repository."""
    parts = urlparse(url).path.split("/")
    return f"{parts[2]}.safetensors" if parts[-1] == "model.safetensors" else parts[-1]


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(name: str, source: Path | None) -> Path:
    tried = [str(source)] if source else []
    for url, file_name in addresses(name).items():
        file = _cache() / file_name
        if not is_fetched(file_name):
            tried.append(f"{url} (SHA-256 not known here: download it yourself if you trust it)")
            continue
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _timeout():  # torch downloads into a file beside it and renames that if the digits are right
                torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256_of(file_name))
            _read(file)
            return file
        except (OSError, HTTPException, RuntimeError, InputError) as error:  # no internet or address; a wrong file
            file.unlink(missing_ok=True)
            tried.append(f"{url} ({error})")
    raise InputError(
        f"no ImageNet weights for encoder {name!r} (tried: {'; '.join(tried) or 'no address is known'}); "
        "give a file with --weights FILE, or train from scratch with --weights none"
    )


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, LookupError, ValueError, RuntimeError, EOFError, OSError) as error:
        # torch's own message advises unpickling anything, which a user should not do.
        raise InputError(
            f"{file}: not a complete file of weights that is safe to read ({type(error).__name__}); download it again"
        ) from error
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise InputError(f"{file}: holds a {type(state).__name__}, not a state dict; give a file of weights")
    return state


def _encoder_part(encoder: Encoder, state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors of `state` under the encoder's own keys; InputError unless all are there and fit."""
    with torch.device("meta"):
        whole = set(build_classifier(encoder.name).state_dict())
    names = {_flat(key): key for key in whole}
    part: dict[str, Tensor] = {}
    missing: list[str] = []
    mismatched: list[str] = []
    for key, tensor in encoder.state_dict().items():
        theirs = names[_flat(key)]
        if theirs in state and state[theirs].shape == tensor.shape:
            part[key] = state[theirs]
        elif key.endswith("num_batches_tracked"):
            part[key] = tensor
        else:
            (mismatched if theirs in state else missing).append(theirs)
    unexpected = sorted(set(state) - whole)
    for what, keys in {"missing": missing, "of another shape": mismatched, "unexpected": unexpected}.items():
        if keys:
            raise InputError(
                f"{file}: weights of another architecture than {encoder.name!r}, {len(keys)} keys are "
                f"{what}, first {', '.join(keys[:3])}; give this encoder's file"
            )
    return part


def _flat(key: str) -> str:
    """A key in a form common to all cuts of a model: timm's `features_only` has `body.stages_0` for `stages.0`."""
    return key.removeprefix("body.").replace(".", "_")
