"""`--set name=value` and `--add-phase`: change a profile's settings, each checked against its type and limits."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.salt.config import Limits, Phase, Profile, Train
from pipeline.salt.errors import InputError, did_you_mean

FIXED = ("name", "about")  # of a profile: these identify it and cannot be set


def changed(profile: Profile, *settings: str) -> Profile:
    """The profile with each `path=value` applied, checked against the type of the setting, and then as a whole.

    `train.wd=1e-4` sets one number; `train.epochs=5` that of every phase, `train.128.epochs=5` of the phase with that
    name; `model.options.width=64` a keyword argument of the model; `model.name=dynamic_unet` another model, which drops
    the profile's model.options; `run_folds=1` a setting outside all sections. InputError for anything else.
    """
    # The model's name goes first: options belong to a model.
    for setting in sorted(settings, key=lambda setting: not setting.startswith("model.name=")):
        path, eq, text = setting.partition("=")
        keys = path.strip().split(".")
        if not eq or not all(keys):
            raise InputError(f"--set {setting}: write it as name=value, for example --set train.epochs=5")
        before = profile.model
        profile = _replaced(profile, keys, text.strip(), f"--set {setting}")
        if profile.model.name != before.name:  # the profile's options are keyword arguments of its own model
            profile = replace(profile, model=replace(profile.model, options={}))
    check(profile)
    return profile


def appended(profile: Profile, *phases: str) -> Profile:
    """The profile with more training phases, each like the one before it with changes such as 'size=256,epochs=10'."""
    for text in phases:
        flag, last = f"--add-phase {text}", profile.train.last
        phase = replace(last, name="", pseudo=False)
        for part in text.split(","):
            key, eq, value = part.partition("=")
            if not eq or not key.strip():
                raise InputError(f"{flag}: write it as name=value,..., for example --add-phase size=256,epochs=10")
            phase = _replaced(phase, [key.strip()], value.strip(), flag)
        profile = replace(profile, train=replace(profile.train, phases=(*profile.train.phases, phase)))
    return profile


def named_settings(profile: Profile) -> dict[str, Any]:
    """Every setting by the name that --set takes: {'train.128.epochs': 60, 'model.options.width': 16}."""
    named: dict[str, Any] = {}
    for name, value, _ in _leaves(profile):
        if isinstance(value, dict) and value:
            named |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            named[name] = value
    return named


def describe(profile: Profile) -> str:
    """Every name that --set takes, one per line, with its value, type and limits."""
    rows = [
        (name, repr(value) if isinstance(value, str) else str(value), _kind(hint))
        for name, value, hint in _leaves(profile)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {kind}" for name, value, kind in rows)


def check(profile: Profile) -> None:
    """InputError for settings that are not allowed, alone (Limits) or in combination."""
    for name, value, hint in _leaves(profile):
        limits = _limits(hint)
        if limits and not isinstance(value, str) and not limits.low <= value <= limits.high:
            raise InputError(f"profile {profile.name}: {name}={value} must be within {limits.low:g}..{limits.high:g}")
    phases = profile.train.phases
    names = [phase.name for phase in phases]
    if len(set(names)) != len(names):
        raise InputError(
            f"profile {profile.name}: the phases of train are called {', '.join(names)}; their names must differ: "
            "--add-phase name=more,..."
        )
    if bad := [name for name in names if not re.fullmatch(r"\w{1,50}", name)]:
        raise InputError(f"profile {profile.name}: a phase is called {bad[0]!r}; use only letters, digits and '_'")
    taken = {*_names(profile.train), *_names(phases[0]), "pseudo_tiles", "pseudo_masks"} - {"pseudo"}
    if bad := [name for name in names if name in taken]:
        raise InputError(
            f"profile {profile.name}: a phase cannot be called {bad[0]}, which has another meaning; rename it"
        )
    if phases[0].pseudo or sum(phase.pseudo for phase in phases) > 1:
        raise InputError(
            f"profile {profile.name}: only one phase may learn from pseudo-labels, and it must come after the first; "
            f"the phases are {', '.join(names)}"
        )
    if profile.predict.checkpoint == "average" and not profile.train.average:
        raise InputError(f"profile {profile.name}: predict.checkpoint=average needs train.average above 0")
    side, stride = profile.tiles.side, profile.tiles.stride
    if isinstance(stride, int) and (isinstance(side, str) or stride > side):
        raise InputError(
            f"profile {profile.name}: tiles.stride={stride} with tiles.side={side}: a stride needs a tiles.side in "
            "px, and must not be above it, or there would be gaps"
        )
    if not 1 <= profile.run_folds <= profile.folds.k:
        raise InputError(
            f"profile {profile.name}: run_folds={profile.run_folds} must be within 1..folds.k={profile.folds.k}"
        )


def _replaced(node: Any, keys: list[str], text: str, flag: str) -> Any:
    name, rest = keys[0], keys[1:]
    if isinstance(node, Train) and name not in _names(node):
        return _phases_replaced(node, keys, text, flag)
    if name not in (known := _names(node)):
        raise InputError(f"{flag}: {type(node).__name__.lower()} has no {name!r}; {did_you_mean(name, known)}")
    old = getattr(node, name)
    if is_dataclass(old):
        if not rest:
            raise InputError(f"{flag}: {name} is a section; name one of {', '.join(_names(old))}")
        return replace(node, **{name: _replaced(old, rest, text, flag)})
    if isinstance(old, dict) and len(rest) == 1:
        return replace(node, **{name: {**old, rest[0]: _literal(text)}})
    if rest or isinstance(old, dict | tuple):
        raise InputError(f"{flag}: {_hint(node, name)}")
    new = {name: _typed(text, _hints(node)[name], flag)}
    if isinstance(node, Phase) and name != "name" and node.name == replace(node, name="").name:
        new["name"] = ""  # its default name follows its numbers
    return replace(node, **new)


def _phases_replaced(train: Train, keys: list[str], text: str, flag: str) -> Train:
    names, settings = [phase.name for phase in train.phases], _names(train.phases[0])
    phase, name = (keys[0], keys[1:]) if keys[0] in names else (None, keys)
    if not name:
        raise InputError(f"{flag}: {keys[0]} is a phase; name one of {', '.join(settings)}")
    if len(name) != 1 or name[0] not in settings:
        known = [*names, *settings, *_names(train)]
        if keys[0].isdecimal():
            raise InputError(f"{flag}: there is no phase {keys[0]}; there are {', '.join(names)}")
        raise InputError(f"{flag}: train has no {'.'.join(name)!r}; {did_you_mean('.'.join(name), known)}")
    return replace(
        train, phases=tuple(_replaced(p, name, text, flag) if phase in (None, p.name) else p for p in train.phases)
    )


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The (path, value, type) of every setting."""
    hints = _hints(node)
    for name in _names(node):
        value = getattr(node, name)
        if isinstance(node, Train) and name == "phases":
            for phase in value:
                yield from _leaves(phase, f"{prefix}{phase.name}.")
        elif is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, hints[name]


def _typed(text: str, hint: Any, flag: str) -> Any:
    kinds = _kinds(hint)
    for kind in kinds:
        value = _literal(text)
        if get_origin(kind) is Literal and text in get_args(kind):
            return text
        if kind is str or (kind is bool and isinstance(value, bool)):
            return text if kind is str else value
        if (kind is int and type(value) is int) or (kind is float and type(value) in (int, float)):
            return kind(value)
    raise InputError(f"{flag}: {text!r} is not {' or '.join(map(_kind, kinds))}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a type, without their limits."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _kinds(part))
    return (hint,)


def _limits(hint: Any) -> Limits | None:
    for part in (hint, *(get_args(hint) if get_origin(hint) in (Union, UnionType) else ())):
        if get_origin(part) is Annotated:
            return next(extra for extra in get_args(part) if isinstance(extra, Limits))
    return None


def _kind(hint: Any) -> str:
    """A type in words: 'int 1..10000', 'kfold, coverage'."""
    words = [
        ", ".join(get_args(k)) if get_origin(k) is Literal else getattr(k, "__name__", str(k)) for k in _kinds(hint)
    ]
    limits = _limits(hint)
    return " or ".join(words) + (f" {limits.low:.10g}..{limits.high:.10g}" if limits else "")


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _names(node: Any) -> list[str]:
    return [f.name for f in fields(node) if not (isinstance(node, Profile) and f.name in FIXED)]


def _hints(node: Any) -> dict[str, Any]:
    return get_type_hints(type(node), include_extras=True)


def _hint(node: Any, name: str) -> str:
    if name == "phases":
        return "name a number of the phases, such as train.epochs or train.128.epochs; --add-phase appends one"
    return f"write {name}=VALUE in {type(node).__name__.lower()}, or {name}.KEY=VALUE if it is a table"
