"""Profiles, --set and --add-phase: every form of path, and every refusal as a sentence with the value and the rule."""

from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace
from inspect import signature
from typing import get_type_hints

import pytest
from fastai.vision.augment import Rotate

from pipeline.salt import config
from pipeline.salt.config import PROFILES, Limits, Phase, Profile, Submit, profile_named
from pipeline.salt.errors import InputError
from pipeline.salt.overrides import appended, changed, check, describe

DEMO = PROFILES["demo"]


def leaves(tree: dict, prefix: str = "") -> dict:
    """'train.phases.0.lr' -> value."""
    flat = {}
    for key, value in tree.items():
        below = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        flat |= leaves(below, f"{prefix}{key}.") if isinstance(below, dict) else {f"{prefix}{key}": below}
    return flat


def moved(profile: Profile) -> dict:
    """What differs from profile demo."""
    old, new = leaves(asdict(DEMO)), leaves(asdict(profile))
    return {key: new.get(key) for key in {*old, *new} if old.get(key) != new.get(key)}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_profiles_are_valid_and_named_by_their_key(profile):
    check(profile)
    assert PROFILES[profile.name] is profile is profile_named(profile.name)
    assert profile.about and not profile.about.endswith("."), "it stands in a list"


def test_blog_is_the_article():
    blog = PROFILES["blog"]
    assert [(s.size, s.batch, s.epochs, s.lr) for s in blog.train.phases] == [(128, 32, 60, 1e-3), (224, 16, 20, 1e-3)]
    assert (blog.folds.scheme, blog.folds.k, blog.folds.seed, blog.run_folds) == ("kfold", 10, 42, 10)
    assert (blog.model.name, blog.model.encoder, blog.model.options) == ("unet_resnext50", "se_resnext50_32x4d", {})
    assert (blog.augment.flip_p, blog.augment.brightness, blog.augment.brightness_p) == (0.5, 0.1, 0.25)
    assert (blog.augment.zoom, blog.augment.zoom_p, blog.train.loss, blog.train.wd) == (
        1.1,
        0.25,
        "symmetric_lovasz",
        1e-7,
    )
    assert blog.submit == Submit(threshold=0.5, black_empty=False, full_empty=False, peak=0.0)


def test_attention_is_the_articles_second_notebook():
    attention, blog = PROFILES["attention"], PROFILES["blog"]
    assert [(s.size, s.batch, s.epochs, s.lr) for s in attention.train.phases] == [(224, 16, 100, 1e-3)]
    assert (attention.folds, attention.run_folds, attention.submit) == (blog.folds, blog.run_folds, blog.submit)
    assert (attention.model.name, attention.model.encoder, attention.model.options) == (
        "unet_attention",
        "resnet34",
        {},
    )
    assert (attention.train.loss, attention.train.wd, attention.train.schedule) == ("lovasz_hinge", 1e-7, "one_cycle")
    rotate_p = signature(Rotate).parameters["p"].default  # the notebook has Rotate(4)
    assert attention.augment == replace(blog.augment, rotate=4, rotate_p=rotate_p) and attention.needs_gpu


def test_a_profile_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        DEMO.run_folds = 1
    with pytest.raises(FrozenInstanceError):
        DEMO.train.phases[0].lr = 1.0


@pytest.mark.parametrize(
    "setting, change",
    [
        ("run_folds=1", {"run_folds": 1}),
        ("train.wd=1e-4", {"train.wd": 1e-4}),
        ("train.wd=1", {"train.wd": 1.0}),
        (" train.wd = 0.5 ", {"train.wd": 0.5}),
        ("train.loss=bce", {"train.loss": "bce"}),
        ("train.precision=fp32", {"train.precision": "fp32"}),
        ("train.epochs=5", {"train.phases.0.epochs": 5, "train.phases.1.epochs": 5}),
        ("train.64.epochs=5", {"train.phases.0.epochs": 5}),
        ("train.64.name=first", {"train.phases.0.name": "first"}),
        ("train.96.lr=1e-5", {"train.phases.1.lr": 1e-5}),
        (
            "train.96.size=128",
            {"train.phases.1.size": 128, "train.phases.1.name": "128"},
        ),  # it is called after its size
        ("train.96.pseudo=true", {"train.phases.1.pseudo": True, "train.phases.1.name": "pseudo"}),
        ("model.encoder=123", {"model.encoder": "123"}),
        ("model.options.width=64", {"model.options.width": 64}),
        ("model.options.scse=True", {"model.options.scse": True}),
        ("model.options.scse=false", {"model.options.scse": False}),
        ("model.options.act=Mish", {"model.options.act": "Mish"}),
        ("model.options.sizes=[1, 2]", {"model.options.sizes.0": 1, "model.options.sizes.1": 2}),
        ("predict.flip=False", {"predict.flip": False}),
        ("train.average=1", {"train.average": 1.0}),
        ("submit.threshold=0.4", {"submit.threshold": 0.4}),
        ("submit.threshold=search", {"submit.threshold": "search"}),
        ("folds.scheme=kfold", {"folds.scheme": "kfold"}),
    ],
)
def test_set_changes_what_it_names_and_nothing_else(setting, change):
    profile = changed(DEMO, setting)
    assert moved(profile) == change
    for key, value in change.items():
        assert type(leaves(asdict(profile))[key]) is type(value)
    assert moved(DEMO) == {}, "the profile itself stays as it was"


def sections() -> list[type]:
    """All dataclasses of a profile."""
    return [kind for kind in vars(config).values() if isinstance(kind, type) and is_dataclass(kind)]


def test_every_setting_is_listed_with_its_value_and_can_be_set_to_it():
    lines = [line.split(maxsplit=2) for line in describe(DEMO).splitlines()]
    listed = [name for name, _, _ in lines]
    assert len(set(listed)) == len(listed)
    parts = [DEMO, *(part for name in asdict(DEMO) if is_dataclass(part := getattr(DEMO, name))), *DEMO.train.phases]
    assert len({type(part) for part in parts}) == len(sections())
    of_sections = sum(len([f for f in fields(part) if not is_dataclass(getattr(part, f.name))]) for part in parts)
    assert len(listed) == of_sections - 3, "but for a profile's name and about, and the tuple of phases"
    for name in listed:
        node = DEMO
        for key in name.split("."):
            node = node.phase(key) if key.isdecimal() else getattr(node, key)
        if not isinstance(node, dict):
            assert changed(DEMO, f"{name}={node}") == DEMO, name


def test_every_number_has_its_limits_beside_it():
    """And the defaults are within them."""
    for kind in sections():
        hints = get_type_hints(kind, include_extras=True)
        for f in fields(kind):
            if any(word in str(hints[f.name]) for word in ("int", "float")) and "Phase" not in str(hints[f.name]):
                assert "Limits" in str(hints[f.name]), f"{kind.__name__}.{f.name}"
    assert Limits(low=0, high=1) == (0, 1)


@pytest.mark.parametrize(
    "low, high, name",
    [
        (1, 10**4, "train.64.epochs"),
        (2, 10**4, "train.64.batch"),
        (0, 1, "submit.threshold"),
        (0, 2**32 - 1, "train.seed"),
        (0, 0.5, "pseudo.low"),
        (0.5, 1, "pseudo.high"),
    ],
)
def test_both_limits_are_allowed_and_nothing_beyond(low, high, name):
    delta = 1 if name.startswith("train") else 1e-6
    for value in (low, high):
        changed(DEMO, f"{name}={value}")
    for value in (low - delta, high + delta):
        with pytest.raises(InputError, match=rf"profile demo: {name}={value}.* must be within {low:g}\.\."):
            changed(DEMO, f"{name}={value}")


@pytest.mark.parametrize(
    "setting, words",
    [
        ("train.epochs", ["train.epochs", "name=value"]),
        ("=5", ["=5", "name=value"]),
        ("train..epochs=5", ["train..epochs=5", "name=value"]),
        ("", ["name=value"]),
        ("train.epoch=5", ["train.epoch=5", "did you mean epochs"]),
        ("tran.epochs=5", ["tran.epochs=5", "did you mean train"]),
        ("train.xyzzy=5", ["xyzzy", "there are", "epochs", "wd"]),
        ("train.epochs=five", ["'five'", "int"]),
        ("train.epochs=5.0", ["'5.0'", "int"]),
        ("train.epochs=True", ["'True'", "int"]),
        ("train.lr=fast", ["'fast'", "float"]),
        ("train.lr=nan", ["'nan'", "float"]),
        ("train.wd=False", ["'False'", "float"]),
        ("predict.flip=1", ["'1'", "bool"]),
        ("predict.flip=yes", ["'yes'", "bool"]),
        ("train.precision=fp8", ["'fp8'", "fp32", "bf16"]),
        ("folds.scheme=random", ["'random'", "kfold, coverage"]),
        ("submit.threshold=find", ["'find'", "float or search"]),
        ("train.48.epochs=5", ["48", "64", "96"]),
        ("train.64=5", ["64 is a phase", "epochs"]),
        ("train.64.wd=5", ["wd"]),
        ("train.64.epochs.x=5", ["epochs.x"]),
        ("train.².epochs=5", ["²"]),
        ("train=5", ["section", "loss"]),
        ("train.phases=5", ["train.epochs", "--add-phase"]),
        ("train.wd.x=5", ["write wd=VALUE in train"]),
        ("model.options=5", ["options.KEY"]),
        ("model.options.a.b=5", ["options.KEY"]),
        ("name=blog", ["'name'"]),
        ("about=blog", ["'about'"]),
        ("__class__=5", ["__class__"]),
    ],
)
def test_refusals_name_the_value_and_the_rule(setting, words):
    with pytest.raises(InputError) as e:
        changed(DEMO, setting)
    text = str(e.value)
    assert text.startswith(f"--set {setting}: ") and "\n" not in text
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    "setting, value, rule",
    [
        ("train.epochs=0", "0", "1.."),
        ("train.batch=1", "1", "2.."),
        ("train.64.size=16", "16", "32.."),
        ("train.lr=0", "0", "within"),
        ("train.lr=-1", "-1", "within"),
        ("train.lr=1e999", "inf", "within"),
        ("train.wd=-1e-3", "-0.001", "0.."),
        ("train.size=64", "called 64, 64;", "differ"),
        ("train.64.size=96", "called 96, 96;", "differ"),
        ("run_folds=0", "0", "1.."),
        ("run_folds=4", "4", "folds.k=3"),
        ("folds.k=2", "3", "folds.k=2"),
        ("folds.seed=-1", "-1", "0.."),
        ("sample.seed=-1", "-1", "0.."),
        ("sample.train=0", "0", "2.."),
        ("augment.flip_p=1.5", "1.5", "0..1"),
        ("augment.zoom=0.9", "0.9", "1.."),
        ("augment.brightness=1", "1.0", "0.99"),
        ("predict.batch=0", "0", "1.."),
        ("submit.threshold=50", "50", "0..1"),
        ("workers=0", "0", "1.."),
        ("pseudo.low=0.6", "0.6", "0..0.5"),
        ("train.64.pseudo=true", "pseudo", "after the first"),
        ("train.96.name=64", "called 64, 64;", "differ"),
        ("train.96.name=9/6", "'9/6'", "letters, digits"),
    ],
)
def test_numbers_that_cannot_be(setting, value, rule):
    with pytest.raises(InputError) as e:
        changed(DEMO, setting)
    name = setting.partition("=")[0].rpartition(".")[2]
    assert value in str(e.value) and rule in str(e.value), str(e.value)
    assert name in str(e.value) or name == "k" or "called" in str(e.value)


def test_a_profile_is_checked_after_all_settings_are_applied():
    assert changed(DEMO, "run_folds=5", "folds.k=5") == changed(DEMO, "folds.k=5", "run_folds=5")
    assert [s.size for s in changed(DEMO, "train.96.size=128", "train.64.size=96").train.phases] == [96, 128]
    assert changed(DEMO, "train.epochs=5", "train.epochs=6") == changed(DEMO, "train.epochs=6"), "the last one counts"
    width, name = "model.options.width=8", "model.name=unet_lean"
    assert changed(DEMO, width, name) == changed(DEMO, name, width)
    assert changed(DEMO, width, name).model.options == {"width": 8}


@pytest.mark.parametrize(
    "name, near",
    [
        ("dmeo", "demo"),
        ("Blog", "blog"),
        ("", "demo, cpu, night, baseline, blog, attention, best"),
        ("zzzz", "demo, cpu, night, baseline, blog, attention, best"),
    ],
)
def test_a_profile_that_does_not_exist(name, near):
    with pytest.raises(InputError, match=f"{name!r}.*{near}"):
        profile_named(name)


# ---- phases

PHASES = appended(DEMO, "size=128", "pseudo=true,epochs=2", "size=256,pseudo=false").train  # 64, 96, 128, pseudo, 256


def test_a_phase_is_called_after_its_size_or_its_labels_or_as_it_is_said():
    numbers = {"size": 128, "batch": 32, "epochs": 60, "lr": 1e-3}
    assert [Phase(**numbers).name, Phase(**numbers, pseudo=True).name, Phase(**numbers, name="a").name] == [
        "128",
        "pseudo",
        "a",
    ]
    named = changed(DEMO, "train.96.name=fine", "train.fine.size=128")
    assert [phase.name for phase in named.train.phases] == ["64", "fine"], "a name of one's own stays"


def test_phases_know_their_order():
    first, second, third, pseudo, last = PHASES.phases
    assert [phase.name for phase in PHASES.phases] == ["64", "96", "128", "pseudo", "256"]
    assert PHASES.last is last and PHASES.labeller is third
    assert [PHASES.before(phase) for phase in PHASES.phases] == [None, first, second, third, pseudo]
    assert all(PHASES.phase(phase.name) is phase for phase in PHASES.phases)
    with pytest.raises(InputError, match="there is no phase 99; the profile has 64, 96, 128, pseudo, 256"):
        PHASES.phase("99")


def test_both_epochs_stay_only_of_a_phase_that_predicts():
    """Only their last weights may be needed again (400 MB each); pseudo-labels are predictions, too."""
    assert {phase.name: PHASES.epochs_kept(phase) for phase in PHASES.phases} == {
        "64": ("best",),
        "96": ("best",),
        "128": ("best", "last"),
        "pseudo": ("best",),
        "256": ("best", "last"),
    }


def test_averaged_weights_stay_where_there_are_some_and_a_profile_that_predicts_with_them_makes_them():
    averaged = changed(DEMO, "train.average=0.1", "predict.checkpoint=average")
    assert averaged.train.epochs_kept(averaged.train.last) == ("best", "last", "average")
    assert averaged.train.epochs_kept(averaged.train.phases[0]) == ("best",)
    with pytest.raises(InputError, match="predict.checkpoint=average needs train.average above 0"):
        changed(DEMO, "predict.checkpoint=average")


def test_settings_reach_the_phases_that_were_added():
    profile = changed(appended(DEMO, "size=128,epochs=3"), "train.128.lr=1e-5", "train.batch=8")
    assert profile.train.last == Phase(size=128, batch=8, epochs=3, lr=1e-5)
    assert appended(DEMO) == DEMO and len(DEMO.train.phases) == 2


def test_settings_are_plain_and_whole():
    assert asdict(DEMO.folds) == {"file": "", "scheme": "coverage", "k": 3, "seed": 42}
    assert asdict(DEMO.train)["phases"][0] == {
        "name": "64",
        "size": 64,
        "batch": 16,
        "epochs": DEMO.train.phases[0].epochs,
        "lr": DEMO.train.phases[0].lr,
        "pseudo": False,
    }
