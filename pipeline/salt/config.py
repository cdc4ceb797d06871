"""Every number of a run, in one place: a profile is a tree of frozen dataclasses.

A section holds what one stage reads, so a changed number remakes that stage and what follows it, no more.
`--set train.epochs=5` changes one number; see `changed`.
"""

import ast
import difflib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.salt.errors import InputError


PSEUDO = "pseudo"    # stands where a size stands, for the step that learns from pseudo-labels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The built-in tiles, for whoever has none of Kaggle's."""

    train: int = 480   # tiles with a mask
    test: int = 200    # tiles to predict; their truth is kept aside for the report
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Folds:
    scheme: Literal["kfold", "coverage"] = "kfold"   # keys of salt.folds.SCHEMES
    k: int = 10
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str = "unet_resnext50"            # key of salt.models.MODELS
    encoder: str = "se_resnext50_32x4d"     # key of salt.models.encoders.ENCODERS, or a name timm knows
    weights: Literal["imagenet", "none"] = "imagenet"   # what the encoder starts from
    options: dict[str, Any] = field(default_factory=dict)   # keyword arguments of the model: scse, fpa, width ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training tile; the defaults are the article's. p is a probability in [0, 1]."""

    flip_p: float = 0.5           # left-right only: a seismic section has an up and a down
    brightness: float = 0.1       # the grey 0.5 becomes one of 0.5 * (1 -+ brightness), others along the logistic curve
    brightness_p: float = 0.25
    zoom: float = 1.1             # largest magnification, about a random point
    zoom_p: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of progressive resizing; fold k starts from fold k of the step before."""

    size: int      # px, side of the square network input
    batch: int     # tiles per optimizer step
    epochs: int
    lr: float      # peak of the one-cycle schedule


@dataclass(frozen=True, kw_only=True)
class Train:
    stages: tuple[Stage, ...]
    loss: str = "symmetric_lovasz"          # key of salt.losses.LOSSES
    wd: float = 1e-7                        # weight decay, apart from the gradient; the article's
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"   # auto: the fastest the machine has in hardware
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pseudo:
    """A last step that also learns from test tiles which fold k's own network, and no other, is sure of."""

    use: bool = False
    low: float = 0.2       # a pixel is sure when its probability is below low or above high
    high: float = 0.8
    share: float = 0.9     # of a tile's pixels that must be sure
    epochs: int = 20       # at the size and batch of the last stage
    lr: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class Predict:
    checkpoint: Literal["best", "last"] = "best"   # the epoch with the best score on its own fold, or the last one
    flip: bool = True                              # mean of the tile's logits and its mirror image's
    batch: int = 64                                # tiles per forward pass; with flip, twice as many images


@dataclass(frozen=True, kw_only=True)
class Submit:
    threshold: float | Literal["search"] = 0.5     # on the probability; search: the best on the out-of-fold predictions
    black_empty: bool = True                       # an all-black tile has no salt: true of every such training tile
    full_empty: bool = True                        # no training mask is full: tiles wholly inside salt are labelled empty


@dataclass(frozen=True, kw_only=True)
class Profile:
    name: str
    about: str
    run_folds: int                                 # folds 0 .. run_folds-1 are trained, of folds.k
    sample: Sample = Sample()
    folds: Folds = Folds()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train
    pseudo: Pseudo = Pseudo()
    predict: Predict = Predict()
    submit: Submit = Submit()

    @property
    def steps(self) -> list[int | str]:
        """What the steps of training are called, in order: sizes in px, and PSEUDO if it is used."""
        return [stage.size for stage in self.train.stages] + [PSEUDO] * self.pseudo.use

    def stage(self, size: int | str) -> tuple[Stage, Stage | None]:
        """The stage of this size, or of PSEUDO, and the one before it. InputError if the profile has no such size."""
        stages = self.train.stages
        if size == PSEUDO:
            return replace(stages[-1], epochs=self.pseudo.epochs, lr=self.pseudo.lr), stages[-1]
        for i, stage in enumerate(stages):
            if stage.size == size:
                return stage, stages[i - 1] if i else None
        raise InputError(f"profile {self.name} has no size {size}; it trains at {', '.join(str(s.size) for s in stages)}")


PROFILES = {p.name: p for p in [
    Profile(
        name="demo", about="generated tiles, a tiny network from scratch, minutes on two cores",
        run_folds=3, folds=Folds(scheme="coverage", k=3),
        model=Model(encoder="test_resnet", weights="none", options={"width": 16}),
        train=Train(stages=(Stage(size=64, batch=16, epochs=24, lr=4e-3), Stage(size=96, batch=16, epochs=4, lr=8e-4))),
        predict=Predict(checkpoint="last"), submit=Submit(threshold=0.5),
    ),
    Profile(
        name="cpu", about="real tiles without a GPU: EfficientNet-Lite0, two folds of five, about an hour on two cores",
        run_folds=2, folds=Folds(scheme="coverage", k=5),
        model=Model(encoder="tf_efficientnet_lite0", options={"width": 24, "stem_skip": True}),
        augment=Augment(zoom=1.25, zoom_p=0.75, brightness_p=0.5),
        train=Train(stages=(Stage(size=128, batch=32, epochs=14, lr=2e-3),), wd=1e-2),
        predict=Predict(checkpoint="last"),
    ),
    Profile(
        name="blog", about="the article's recipe to the letter: ten folds, 128 px then 224 px, a GPU",
        run_folds=10,
        train=Train(stages=(Stage(size=128, batch=32, epochs=60, lr=1e-3), Stage(size=224, batch=16, epochs=20, lr=1e-3))),
        submit=Submit(black_empty=False, full_empty=False),
    ),
]}


_SEED = (0, 2**32 - 1)
LIMITS = {      # least and most, both allowed
    "sample.train": (2, 10**6), "sample.test": (1, 10**6), "sample.seed": _SEED,
    "folds.k": (2, 10**4), "folds.seed": _SEED,
    "augment.flip_p": (0, 1), "augment.brightness_p": (0, 1), "augment.zoom_p": (0, 1),
    "augment.brightness": (0, 0.99), "augment.zoom": (1, 10),
    "train.size": (32, 4096), "train.batch": (2, 10**4), "train.epochs": (1, 10**4), "train.lr": (1e-9, 10),
    "train.wd": (0, 10), "train.seed": _SEED, "predict.batch": (1, 10**4), "submit.threshold": (0, 1),
}


def profile_named(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"no profile is called {name!r}; {did_you_mean(name, PROFILES)}")
    return PROFILES[name]


def changed(profile: Profile, *settings: str) -> Profile:
    """The profile with each `path=value` replaced, checked against the type of what it replaces, and then as a whole.

    `train.wd=1e-4` one number; `train.epochs=5` in every stage; `train.128.epochs=5` in the stage of that size;
    `model.options.width=64` a keyword of the model; `run_folds=1`. Raises InputError for anything else.
    """
    for setting in settings:
        path, eq, text = setting.partition("=")
        keys = path.strip().split(".")
        if not eq or not all(keys):
            raise InputError(f"--set {setting}: write it as name=value, for example --set train.epochs=5")
        profile = _replaced(profile, keys, text.strip(), setting)
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
    sizes = [stage.size for stage in profile.train.stages]
    if len(set(sizes)) != len(sizes):
        raise InputError(f"profile {profile.name}: the stages of train have the sizes {sizes}; they must differ")
    if not 1 <= profile.run_folds <= profile.folds.k:
        raise InputError(f"profile {profile.name}: run_folds={profile.run_folds} must be within "
                         f"1..folds.k={profile.folds.k}")


def settings_of(section: Any) -> dict:
    """A section as plain JSON values, for keys and reports."""
    return asdict(section)


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
        raise InputError(f"--set {setting}: {path_hint(node, name)}")
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
    return replace(train, stages=tuple(
        _replaced(s, name, text, setting) if size in (None, s.size) else s for s in train.stages))


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


def path_hint(node: Any, name: str) -> str:
    if name == "stages":
        return "name a number of the stages, such as train.epochs or train.128.epochs"
    return f"{name} is one value of {type(node).__name__.lower()}, or {name}.KEY where it is a table"


def did_you_mean(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
