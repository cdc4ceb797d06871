"""Settings and profiles: every number with its limits, and for each profile what it costs and what it scored.

A profile is a tree of frozen dataclasses. A section holds what one stage reads, so that a changed number reruns only
that stage and those after it. `--set train.epochs=5` changes one number; see `overrides`.
"""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from pipeline.salt.errors import InputError, did_you_mean


class Limits(NamedTuple):
    """Smallest and largest allowed value of a number, both inclusive."""

    low: float
    high: float


T = TypeVar("T")
Count = Annotated[int, Limits(1, 10**4)]
Seed = Annotated[int, Limits(0, 2**32 - 1)]
Share = Annotated[float, Limits(0, 1)]  # a probability or a fraction
Rate = Annotated[float, Limits(1e-9, 10)]
Loss = Literal[  # keys of salt.losses.LOSSES
    "lovasz_hinge", "lovasz_hinge_relu", "symmetric_lovasz", "symmetric_lovasz_relu", "bce", "bce_lovasz", "focal"
]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The built-in tiles, for use without Kaggle's."""

    train: Annotated[int, Limits(2, 10**6)] = 480  # tiles with a mask
    test: Annotated[int, Limits(1, 10**6)] = 200  # tiles to predict; their truth is used only in the report
    seed: Seed = 7


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How the user's own images become tiles."""

    side: Annotated[int, Limits(32, 4096)] | Literal["whole"] = "whole"  # px, side of the square tiles cut from images
    stride: Annotated[int, Limits(8, 4096)] | Literal["side"] = "side"  # px from tile to tile; side: no overlap


@dataclass(frozen=True, kw_only=True)
class Folds:
    """How tiles are assigned to folds."""

    file: str = ""  # csv with id and fold, instead of a scheme
    scheme: Literal["kfold", "coverage", "mosaic"] = "kfold"  # random; stratified by share of salt; neighbours together
    k: Annotated[int, Limits(2, 10**4)] = 10
    seed: Seed = 42


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model and its first weights."""

    name: str = "unet_resnext50"  # key of salt.models.MODELS
    encoder: str = "se_resnext50_32x4d"  # key of ENCODERS in salt.models.encoders, or a name timm knows
    weights: Literal["imagenet", "none"] = "imagenet"  # initial weights of the encoder
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the model: scse, fpa, width ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes to a training tile; the defaults are the article's."""

    flip_p: Share = 0.5  # left-right only: up and down differ in a seismic section
    brightness: Annotated[float, Limits(0, 0.99)] = 0.1  # grey 0.5 becomes a random value in 0.5 * (1 ± brightness)
    brightness_p: Share = 0.25
    zoom: Annotated[float, Limits(1, 10)] = 1.1  # largest magnification, about a random point
    zoom_p: Share = 0.25
    rotate: Annotated[float, Limits(0, 180)] = 0.0  # degrees at most, either way; the tile's edges are mirrored
    rotate_p: Share = 0.5
    stretch: Annotated[float, Limits(1, 10)] = 1.0  # largest ratio of width to height, or the reverse
    shear: Annotated[float, Limits(0, 10)] = 0.0  # px sideways per px down, at most, either way
    shift: Share = 0.0  # fraction of the side, at most, either way, across and down
    warp_p: Share = 0.5  # of stretch, shear and shift, each drawn on its own


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One leg of a fold's training; fold k starts from the weights of fold k in the phase before."""

    name: str = ""  # name of its files; by default its size, or 'pseudo'
    size: Annotated[int, Limits(32, 4096)]  # px, side of the model's square input
    batch: Annotated[int, Limits(2, 10**4)]  # tiles per optimizer step
    epochs: Count
    lr: Rate  # peak of the schedule; for fine_tune its base_lr
    pseudo: bool = False  # also learn from pseudo-labels made by the phase before

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "pseudo" if self.pseudo else str(self.size))


@dataclass(frozen=True, kw_only=True)
class Train:
    """Phases, loss, schedule and optimizer."""

    phases: tuple[Phase, ...]
    loss: Loss = "symmetric_lovasz"  # symmetric: mean over salt and rock; _relu: relu as in the paper, else elu + 1
    schedule: Literal["one_cycle", "fine_tune"] = "one_cycle"  # fastai's; fine_tune adds an epoch with frozen encoder
    wd: Annotated[float, Limits(0, 10)] = 1e-7  # decoupled weight decay; the article's
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: the fastest in hardware
    average: Share = 0.0  # of all steps: mean age of the weights in their moving average; 0: no average
    compile: Literal["no", "default", "reduce-overhead"] = "no"  # torch.compile's mode; reduce-overhead: CUDA graphs
    seed: Seed = 0

    @property
    def last(self) -> Phase:
        """The last phase, whose weights predict."""
        return self.phases[-1]

    @property
    def labeller(self) -> Phase:
        """The phase whose weights make the pseudo-labels: the one before the phase that learns from them."""
        return next(before for before, phase in pairwise(self.phases) if phase.pseudo)

    def phase(self, name: str) -> Phase:
        """The phase of this name; InputError if there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise InputError(f"there is no phase {name}; the profile has {', '.join(p.name for p in self.phases)}")

    def before(self, phase: Phase) -> Phase | None:
        """The phase whose weights this one starts from; None for the first."""
        i = self.phases.index(phase)
        return self.phases[i - 1] if i else None

    def epochs_kept(self, phase: Phase) -> tuple[str, ...]:
        """The epochs whose weights (400 MB each) are kept; only the best if the phase just starts the next one."""
        predicts = phase == self.last or self.phases[self.phases.index(phase) + 1].pseudo
        return ("best", "last", *["average"] * bool(self.average)) if predicts else ("best",)


@dataclass(frozen=True, kw_only=True)
class Pseudo:
    """Which test tiles a phase with pseudo-labels learns from: those that fold k's own model is sure of."""

    low: Annotated[float, Limits(0, 0.5)] = 0.2  # a pixel is sure if its probability is below low or above high
    high: Annotated[float, Limits(0.5, 1)] = 0.8
    share: Share = 0.9  # of a tile's pixels that must be sure


@dataclass(frozen=True, kw_only=True)
class Predict:
    """How tiles are predicted."""

    checkpoint: Literal["best", "last", "average"] = "best"  # best score on the held-out fold; average: train.average
    flip: bool = True  # average the logits of the tile and of its mirror image
    scale: Annotated[float, Limits(1, 4)] = 1.0  # above 1: average with the logits at this multiple of the input's size
    batch: Count = 64  # tiles per forward pass; flip doubles the images


@dataclass(frozen=True, kw_only=True)
class Submit:
    """How probabilities become masks."""

    threshold: Share | Literal["search"] = 0.5  # on the probability; search: best out of fold
    black_empty: bool = True  # an all-black tile has no salt, as in all of Kaggle's training tiles
    full_empty: bool = True  # a full mask becomes empty: none of Kaggle's is full, tiles inside salt are labelled empty
    peak: Share = 0.0  # a mask becomes empty unless the probability of one of its pixels exceeds this; 0: no such rule


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A complete recipe: the same profile, tiles and seed give the same submission on the same machine."""

    name: str = ""
    about: str = ""
    run_folds: Count  # folds 0 .. run_folds-1 of folds.k are trained
    workers: Count = 1  # folds at once without a GPU
    needs_gpu: bool = False  # on a CPU it would take a week
    sample: Sample = Sample()
    tiles: Tiling = Tiling()
    folds: Folds = Folds()
    model: Model = Model()
    augment: Augment = Augment()
    train: Train
    pseudo: Pseudo = Pseudo()
    predict: Predict = Predict()
    submit: Submit = Submit()


def demo() -> Profile:
    """Generated tiles, a tiny model from scratch, minutes on two cores.

    ./run_all.sh
    2.6 minutes on two cores of a Xeon; on an EPYC .7710 out of fold, .7530 on the test tiles (empty masks: .3700).
    """
    return Profile(
        run_folds=3,
        folds=Folds(scheme="coverage", k=3),
        workers=3,  # a model this small is no faster on two threads than on one: EXPERIMENTS.md
        model=Model(name="unet_lean", encoder="test_resnet", weights="none", options={"width": 16}),
        train=Train(phases=(Phase(size=64, batch=16, epochs=32, lr=4e-3), Phase(size=96, batch=16, epochs=6, lr=8e-4))),
        predict=Predict(checkpoint="last"),
        submit=Submit(peak=0.6),
    )


def cpu() -> Profile:
    """Real tiles without a GPU: a lean U-Net on EfficientNet-Lite0, two folds of five, under an hour on two cores.

    ./run_all.sh --data DIR --profile cpu
    41 minutes on two cores of a Xeon, 24 epochs of 97 s, before a second size in prediction added 2 to 4; .8342 out of
    fold on 1,440 of 3,600 tiles (EPYC).
    """
    return Profile(
        run_folds=2,
        folds=Folds(scheme="coverage", k=5),
        workers=2,  # two folds on one thread each get further than one fold on two: EXPERIMENTS.md
        model=Model(name="unet_lean", encoder="tf_efficientnet_lite0", options={"width": 24}),
        augment=Augment(zoom=1.35, zoom_p=0.75, brightness_p=0.5),
        train=Train(phases=(Phase(size=128, batch=16, epochs=24, lr=1.5e-3),), wd=1e-2),
        predict=Predict(checkpoint="last", scale=1.25),
        submit=Submit(peak=0.6),
    )


def night() -> Profile:
    """Profile cpu with more of everything: a larger model, warped tiles, twice the epochs, five folds, a night.

    ./run_all.sh --data DIR --profile night
    48 epochs a fold on each of two cores: 131 s each and 5.5 hours in all on a Xeon, 153 s and 6.3 hours on an EPYC;
    10 minutes on an H100 with --workers 5, extrapolated from 45 epochs. .8372 out of fold on two of its five folds;
    .8336 on all five, before a second size in prediction.
    """
    less = cpu()
    return replace(
        less,
        run_folds=5,
        model=replace(less.model, encoder="tf_efficientnet_lite2", options={"width": 32}),
        augment=replace(less.augment, rotate=5, stretch=1.2, shear=0.15, shift=0.08),
        train=replace(less.train, phases=(Phase(size=128, batch=16, epochs=48, lr=1.5e-3),), average=0.1),
        predict=replace(less.predict, checkpoint="average"),
    )


def baseline() -> Profile:
    """The article's first attempt: fastai's DynamicUnet on resnet34, one fold of ten, a GPU.

    ./run_all.sh --data DIR --profile baseline
    Not yet run on a GPU.
    """
    return Profile(
        run_folds=1,
        needs_gpu=True,
        model=Model(name="dynamic_unet", encoder="resnet34"),
        train=Train(
            phases=(Phase(size=128, batch=32, epochs=20, lr=2e-3),),
            loss="lovasz_hinge",
            schedule="fine_tune",
            wd=1e-2,  # rate and decay: the defaults of unet_learner and fine_tune
        ),
        predict=Predict(checkpoint="last"),
        submit=Submit(black_empty=False, full_empty=False),
    )


def blog() -> Profile:
    """The article's recipe: SE-ResNeXt50, ten folds, 128 px then 224 px, a GPU.

    ./run_all.sh --data DIR --profile blog
    1.5 hours on an H100, extrapolated from an epoch at each size; not yet run to its end. The article reports a mean
    of .8540 over its folds. docs/article.md lists what differs.
    """
    return Profile(
        run_folds=10,
        needs_gpu=True,
        train=Train(
            phases=(Phase(size=128, batch=32, epochs=60, lr=1e-3), Phase(size=224, batch=16, epochs=20, lr=1e-3))
        ),
        submit=Submit(black_empty=False, full_empty=False),
    )


def attention() -> Profile:
    """The article's second notebook: U-Net with BAM on resnet34, ten folds at 224 px, a GPU.

    ./run_all.sh --data DIR --profile attention
    Not yet run on a GPU.
    """
    return Profile(
        run_folds=10,
        needs_gpu=True,
        model=Model(name="unet_attention", encoder="resnet34"),
        augment=Augment(rotate=4),  # fastai's Rotate(4), with probability 0.5
        train=Train(phases=(Phase(size=224, batch=16, epochs=100, lr=1e-3),), loss="lovasz_hinge"),
        submit=Submit(black_empty=False, full_empty=False),
    )


def best() -> Profile:
    """Profile night's recipe on the article's encoder: ten folds at 128 px then 224 px, a GPU.

    ./run_all.sh --data DIR --profile best
    Not yet run to its end, nor from ImageNet's weights.
    """
    recipe = night()
    return replace(
        recipe,
        run_folds=10,
        workers=1,
        needs_gpu=True,
        folds=Folds(scheme="coverage", k=10),
        model=Model(name="unet_lean", options={"width": 32}),
        train=replace(
            recipe.train,
            phases=(Phase(size=128, batch=32, epochs=48, lr=1e-3), Phase(size=224, batch=16, epochs=16, lr=5e-4)),
        ),
    )


PROFILES = {
    recipe.__name__: replace(recipe(), name=recipe.__name__, about=(recipe.__doc__ or "").splitlines()[0].rstrip("."))
    for recipe in (demo, cpu, night, baseline, blog, attention, best)
}


DEFAULTS = {  # for settings missing in an earlier version's sidecar: the default is what the code did before
    f"{section}.{setting.name}": setting.default
    for section, kind in [*get_type_hints(Profile).items(), ("train.phase", Phase)]  # stages.trained names a phase so
    if is_dataclass(kind)
    for setting in fields(kind)
    if isinstance(setting.default, bool | int | float | str)
}


def section_from(kind: type[T], settings: dict[str, Any], source: str) -> T:
    """The section, or whole Profile, that `asdict` turned into these settings, read back from JSON.

    source  the file they were read from
    InputError for settings of a newer version.
    """
    known: dict[str, Any] = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(settings.keys() - known):
        name = unknown[0]
        raise InputError(
            f"{source} was made by a newer version of the code, with the setting {name}={settings[name]!r}; "
            "update yours"
        )
    values = {n: section_from(known[n], v, source) if is_dataclass(known[n]) else v for n, v in settings.items()}
    if "phases" in values:
        values["phases"] = tuple(section_from(Phase, phase, source) for phase in values["phases"])
    return kind(**values)


def profile_named(name: str, own_data: bool = False) -> Profile:
    """The profile of this name; for the user's own data without the rules on empty masks, which fit only Kaggle's.

    InputError for an unknown name.
    """
    if name not in PROFILES:
        raise InputError(f"no profile is called {name!r}; {did_you_mean(name, PROFILES)}")
    profile = PROFILES[name]
    if own_data:
        return replace(profile, submit=replace(profile.submit, black_empty=False, full_empty=False, peak=0.0))
    return profile
