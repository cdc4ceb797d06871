"""Every number of a run, in one place: a profile is a tree of frozen dataclasses.

A section holds what one stage reads, so a changed number remakes that stage and what follows it, no more.
`--set train.epochs=5` changes one number; see `settings`.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pipeline.salt.errors import InputError, did_you_mean

PSEUDO = "pseudo"  # stands where a size stands, for the step that learns from pseudo-labels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The built-in tiles, for whoever has none of Kaggle's."""

    train: int = 480  # tiles with a mask
    test: int = 200  # tiles to predict; their truth is kept aside for the report
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Folds:
    scheme: Literal["kfold", "coverage"] = "kfold"  # keys of salt.folds.SCHEMES
    k: int = 10
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class Model:
    name: str = "unet_resnext50"  # key of salt.models.MODELS
    encoder: str = "se_resnext50_32x4d"  # key of salt.models.encoders.ENCODERS, or a name timm knows
    weights: Literal["imagenet", "none"] = "imagenet"  # what the encoder starts from
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the model: scse, fpa, width ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of a training tile; the defaults are the article's. p is a probability in [0, 1]."""

    flip_p: float = 0.5  # left-right only: a seismic section has an up and a down
    brightness: float = 0.1  # the grey 0.5 becomes one of 0.5 * (1 -+ brightness), others along the logistic curve
    brightness_p: float = 0.25
    zoom: float = 1.1  # largest magnification, about a random point
    zoom_p: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of progressive resizing; fold k starts from fold k of the step before."""

    size: int  # px, side of the square network input
    batch: int  # tiles per optimizer step
    epochs: int
    lr: float  # peak of the schedule; its base_lr where that is fine_tune


@dataclass(frozen=True, kw_only=True)
class Train:
    stages: tuple[Stage, ...]
    loss: str = "symmetric_lovasz"  # key of salt.losses.LOSSES
    schedule: Literal["one_cycle", "fine_tune"] = "one_cycle"  # fastai's; fine_tune: an epoch more, encoder frozen
    wd: float = 1e-7  # weight decay, apart from the gradient; the article's
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: the fastest the machine has in hardware
    compile: Literal["no", "default", "reduce-overhead"] = "no"  # torch.compile's mode; the last one: CUDA graphs
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pseudo:
    """A last step that also learns from test tiles which fold k's own network, and no other, is sure of."""

    use: bool = False
    low: float = 0.2  # a pixel is sure when its probability is below low or above high
    high: float = 0.8
    share: float = 0.9  # of a tile's pixels that must be sure
    epochs: int = 20  # at the size and batch of the last stage
    lr: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class Predict:
    checkpoint: Literal["best", "last"] = "best"  # the epoch with the best score on its own fold, or the last one
    flip: bool = True  # mean of the tile's logits and its mirror image's
    batch: int = 64  # tiles per forward pass; with flip, twice as many images


@dataclass(frozen=True, kw_only=True)
class Submit:
    threshold: float | Literal["search"] = 0.5  # on the probability; search: the best on the out-of-fold predictions
    black_empty: bool = True  # an all-black tile has no salt: true of every such training tile
    full_empty: bool = True  # no training mask is full: inside salt all is labelled empty


@dataclass(frozen=True, kw_only=True)
class Profile:
    name: str
    about: str
    run_folds: int  # folds 0 .. run_folds-1 are trained, of folds.k
    workers: int = 1  # of them at once where there is no GPU
    needs_gpu: bool = False  # a CPU would take a week
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

    def kept(self, size: int | str) -> list[str]:
        """The epochs whose weights stay: a size that another one follows hands on its best; 400 MB each add up."""
        return ["best"] if size in [stage.size for stage in self.train.stages[:-1]] else ["best", "last"]

    def stage(self, size: int | str) -> tuple[Stage, Stage | None]:
        """The stage of this size, or of PSEUDO, and the one before it. InputError if the profile has no such size."""
        stages = self.train.stages
        if size == PSEUDO:
            return replace(stages[-1], epochs=self.pseudo.epochs, lr=self.pseudo.lr), stages[-1]
        for i, stage in enumerate(stages):
            if stage.size == size:
                return stage, stages[i - 1] if i else None
        raise InputError(f"profile {self.name} has no size {size}; it has {', '.join(str(s.size) for s in stages)}")


PROFILES = {
    p.name: p
    for p in [
        Profile(
            name="demo",
            about="generated tiles, a tiny network from scratch, minutes on two cores",
            run_folds=3,
            folds=Folds(scheme="coverage", k=3),
            workers=3,  # so small a network is no faster on two threads than on one: EXPERIMENTS.md
            model=Model(encoder="test_resnet", weights="none", options={"width": 16}),
            train=Train(
                stages=(Stage(size=64, batch=16, epochs=24, lr=4e-3), Stage(size=96, batch=16, epochs=4, lr=8e-4))
            ),
            predict=Predict(checkpoint="last"),
            submit=Submit(threshold=0.5),
        ),
        Profile(
            name="cpu",
            about="real tiles without a GPU: EfficientNet-Lite0, two folds of five, about an hour on two cores",
            run_folds=2,
            folds=Folds(scheme="coverage", k=5),
            workers=2,  # two folds on one thread each get further than one fold on two: EXPERIMENTS.md
            model=Model(encoder="tf_efficientnet_lite0", options={"width": 16, "stem_skip": True}),
            augment=Augment(zoom=1.35, zoom_p=0.75, brightness_p=0.5),
            train=Train(stages=(Stage(size=128, batch=16, epochs=22, lr=1.5e-3),), wd=1e-2),
            predict=Predict(checkpoint="last"),
        ),
        Profile(
            name="baseline",
            about="the article's first attempt: fastai's DynamicUnet on resnet34, one fold of ten, a GPU",
            run_folds=1,
            needs_gpu=True,
            model=Model(name="dynamic_unet", encoder="resnet34"),
            train=Train(
                stages=(Stage(size=128, batch=32, epochs=20, lr=2e-3),),
                loss="lovasz_hinge",
                schedule="fine_tune",
                wd=1e-2,
            ),  # rate and decay: what unet_learner and fine_tune take where nothing is said
            predict=Predict(checkpoint="last"),
            submit=Submit(black_empty=False, full_empty=False),
        ),
        Profile(
            name="blog",
            about="the article's recipe to the letter: ten folds, 128 px then 224 px, a GPU",
            run_folds=10,
            needs_gpu=True,
            train=Train(
                stages=(Stage(size=128, batch=32, epochs=60, lr=1e-3), Stage(size=224, batch=16, epochs=20, lr=1e-3))
            ),
            submit=Submit(black_empty=False, full_empty=False),
        ),
    ]
}


def profile_named(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"no profile is called {name!r}; {did_you_mean(name, PROFILES)}")
    return PROFILES[name]


def settings_of(section: Any) -> dict:
    """A section as plain JSON values, for keys and reports."""
    return asdict(section)
