"""`--set name=value`: a profile with other numbers, each checked against the type of what it replaces."""

import ast
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.salt.config import Profile, Train
from pipeline.salt.errors import InputError, did_you_mean

_SEED = (0, 2**32 - 1)
LIMITS = {  # least and most, both allowed
    "sample.train": (2, 10**6),
    "sample.test": (1, 10**6),
    "sample.seed": _SEED,
    "folds.k": (2, 10**4),
    "folds.seed": _SEED,
    "augment.flip_p": (0, 1),
    "augment.brightness_p": (0, 1),
    "augment.zoom_p": (0, 1),
    "augment.brightness": (0, 0.99),
    "augment.zoom": (1, 10),
    "train.size": (32, 4096),
    "train.batch": (2, 10**4),
    "train.epochs": (1, 10**4),
    "train.lr": (1e-9, 10),
    "train.wd": (0, 10),
    "train.seed": _SEED,
    "predict.batch": (1, 10**4),
    "submit.threshold": (0, 1),
    "pseudo.low": (0, 0.5),
    "pseudo.high": (0.5, 1),
    "pseudo.share": (0, 1),
    "pseudo.epochs": (1, 10**4),
    "pseudo.lr": (1e-9, 10),
}


def changed(profile: Profile, *settings: str) -> Profile:
    """The profile with each `path=value` replaced, checked against the type of what it replaces, and then as a whole.

    `train.wd=1e-4` one number; `train.epochs=5` in every stage; `train.128.epochs=5` in the stage of that size;
    `model.options.width=64` a keyword of the model, `model.name=dynamic_unet` another one, without the options that the
    profile gives its own; `run_folds=1`. Raises InputError for anything else.
    """
    for setting in settings:
        path, eq, text = setting.partition("=")
        keys = path.strip().split(".")
        if not eq or not all(keys):
            raise InputError(f"--set {setting}: write it as name=value, for example --set train.epochs=5")
        before = profile.model
        profile = _replaced(profile, keys, text.strip(), setting)
        if profile.model.name != before.name:  # the profile's options are the other network's keywords
            profile = replace(profile, model=replace(profile.model, options={}))
    check(profile)
    return profile


def check(profile: Profile) -> None:
    """InputError for numbers that cannot be, each on its own (LIMITS) or together."""
    for path, (low, high) in LIMITS.items():
        section, name = path.split(".")
        node = getattr(profile, section)
        for owner in [node] if name in _names(node) else node.stages:
            value = getattr(owner, name)
            if not isinstance(value, str) and not low <= value <= high:
                raise InputError(f"profile {profile.name}: {path}={value} must be within {low}..{high}")
    if profile.workers < 1:
        raise InputError(f"profile {profile.name}: workers={profile.workers} must be at least 1")
    sizes = [stage.size for stage in profile.train.stages]
    if len(set(sizes)) != len(sizes):
        raise InputError(f"profile {profile.name}: the stages of train have the sizes {sizes}; they must differ")
    if not 1 <= profile.run_folds <= profile.folds.k:
        raise InputError(
            f"profile {profile.name}: run_folds={profile.run_folds} must be within 1..folds.k={profile.folds.k}"
        )


def _replaced(node: Any, keys: list[str], text: str, setting: str) -> Any:
    name, rest = keys[0], keys[1:]
    if isinstance(node, Train) and name not in _names(node):
        return _stages_replaced(node, keys, text, setting)
    known = [known for known in _names(node) if not isinstance(node, Profile) or known not in ("name", "about")]
    if name not in known:
        raise InputError(f"--set {setting}: {type(node).__name__.lower()} has no {name!r}; {did_you_mean(name, known)}")
    old = getattr(node, name)
    if is_dataclass(old):
        if not rest:
            raise InputError(f"--set {setting}: {name} is a section; name one of {', '.join(_names(old))}")
        return replace(node, **{name: _replaced(old, rest, text, setting)})
    if isinstance(old, dict) and len(rest) == 1:
        return replace(node, **{name: {**old, rest[0]: _literal(text)}})
    if rest or isinstance(old, dict | tuple):
        raise InputError(f"--set {setting}: {_hint(node, name)}")
    return replace(node, **{name: _typed(text, get_type_hints(type(node))[name], setting)})


def _stages_replaced(train: Train, keys: list[str], text: str, setting: str) -> Train:
    size = int(keys[0]) if keys[0].isdecimal() else None
    if size is not None and size not in [s.size for s in train.stages]:
        raise InputError(f"--set {setting}: no stage of size {size}; there are {[s.size for s in train.stages]}")
    name = keys[1:] if size is not None else keys
    names = [*_names(train.stages[0]), *_names(train)]
    if not name:
        raise InputError(f"--set {setting}: {keys[0]} is a stage; name one of {', '.join(_names(train.stages[0]))}")
    if len(name) != 1 or name[0] not in _names(train.stages[0]):
        raise InputError(f"--set {setting}: train has no {'.'.join(name)!r}; {did_you_mean('.'.join(name), names)}")
    return replace(
        train, stages=tuple(_replaced(s, name, text, setting) if size in (None, s.size) else s for s in train.stages)
    )


def _typed(text: str, kind: Any, setting: str) -> Any:
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    for option in options:
        value = _literal(text)
        if get_origin(option) is Literal and text in get_args(option):
            return text
        if option is str or option is bool and isinstance(value, bool):
            return text if option is str else value
        if option is int and type(value) is int or option is float and type(value) in (int, float):
            return option(value)
    wanted = " or ".join(", ".join(map(str, get_args(o))) if get_origin(o) is Literal else o.__name__ for o in options)
    raise InputError(f"--set {setting}: {text!r} is not {wanted}")


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def _names(node: Any) -> list[str]:
    return [f.name for f in fields(node)]


def _hint(node: Any, name: str) -> str:
    if name == "stages":
        return "name a number of the stages, such as train.epochs or train.128.epochs"
    return f"{name} is one value of {type(node).__name__.lower()}, or {name}.KEY where it is a table"
