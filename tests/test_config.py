"""Profiles and --set: every path form, every refusal in one sentence that names the value and the rule."""

from dataclasses import FrozenInstanceError, asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.salt.config import PROFILES, Profile, profile_named, settings_of
from pipeline.salt.errors import InputError
from pipeline.salt.overrides import LIMITS, changed, check

DEMO = PROFILES["demo"]


def leaves(tree: dict, prefix: str = "") -> dict:
    """'train.stages.0.lr' -> value."""
    flat = {}
    for key, value in tree.items():
        below = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        flat |= leaves(below, f"{prefix}{key}.") if isinstance(below, dict) else {f"{prefix}{key}": below}
    return flat


def moved(profile: Profile) -> dict:
    """What differs from demo."""
    old, new = leaves(asdict(DEMO)), leaves(asdict(profile))
    return {key: new.get(key) for key in {*old, *new} if old.get(key) != new.get(key)}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_profiles_are_valid_and_named_by_their_key(profile):
    check(profile)
    assert PROFILES[profile.name] is profile is profile_named(profile.name)
    assert profile.about
    for i, stage in enumerate(profile.train.stages):
        assert profile.stage(stage.size) == (stage, profile.train.stages[i - 1] if i else None)


def test_blog_is_the_article():
    blog = PROFILES["blog"]
    assert [(s.size, s.batch, s.epochs, s.lr) for s in blog.train.stages] == [(128, 32, 60, 1e-3), (224, 16, 20, 1e-3)]
    assert (blog.folds.scheme, blog.folds.k, blog.folds.seed, blog.run_folds) == ("kfold", 10, 42, 10)
    assert (blog.model.name, blog.model.encoder, blog.model.options) == ("unet_resnext50", "se_resnext50_32x4d", {})
    assert (blog.augment.flip_p, blog.augment.brightness, blog.augment.brightness_p) == (0.5, 0.1, 0.25)
    assert (blog.augment.zoom, blog.augment.zoom_p, blog.train.loss, blog.train.wd) == (
        1.1,
        0.25,
        "symmetric_lovasz",
        1e-7,
    )
    assert blog.submit.threshold == 0.5 and not blog.submit.black_empty and not blog.submit.full_empty


def test_a_profile_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        DEMO.run_folds = 1
    with pytest.raises(FrozenInstanceError):
        DEMO.train.stages[0].lr = 1.0


@pytest.mark.parametrize(
    "setting, change",
    [
        ("run_folds=1", {"run_folds": 1}),
        ("train.wd=1e-4", {"train.wd": 1e-4}),
        ("train.wd=1", {"train.wd": 1.0}),
        (" train.wd = 0.5 ", {"train.wd": 0.5}),
        ("train.loss=bce", {"train.loss": "bce"}),
        ("train.precision=fp32", {"train.precision": "fp32"}),
        ("train.epochs=5", {"train.stages.0.epochs": 5, "train.stages.1.epochs": 5}),
        ("train.64.epochs=5", {"train.stages.0.epochs": 5}),
        ("train.96.lr=1e-5", {"train.stages.1.lr": 1e-5}),
        ("train.96.size=128", {"train.stages.1.size": 128}),
        ("model.encoder=123", {"model.encoder": "123"}),
        ("model.options.width=64", {"model.options.width": 64}),
        ("model.options.scse=True", {"model.options.scse": True}),
        ("model.options.scse=false", {"model.options.scse": False}),
        ("model.options.act=Mish", {"model.options.act": "Mish"}),
        ("model.options.sizes=[1, 2]", {"model.options.sizes.0": 1, "model.options.sizes.1": 2}),
        ("predict.flip=False", {"predict.flip": False}),
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


def test_every_field_of_every_section_can_be_set():
    def said(value: object) -> str:
        return {bool: str(not value), int: str(value), float: str(value), str: str(value)}[type(value)]

    for section in fields(DEMO):
        node = getattr(DEMO, section.name)
        for name in getattr(node, "__dataclass_fields__", {}):
            value = getattr(node, name)
            if name not in ("stages", "options"):
                changed(DEMO, f"{section.name}.{name}={said(value)}")
    for name, value in asdict(DEMO.train.stages[0]).items():
        changed(DEMO, f"train.64.{name}={value}")


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
        ("train.64=5", ["64 is a stage", "epochs"]),
        ("train.64.wd=5", ["wd"]),
        ("train.64.epochs.x=5", ["epochs.x"]),
        ("train.².epochs=5", ["²"]),
        ("train=5", ["section", "loss"]),
        ("train.stages=5", ["train.epochs"]),
        ("train.wd.x=5", ["wd is one value"]),
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
        ("train.size=64", "[64, 64]", "differ"),
        ("train.64.size=96", "[96, 96]", "differ"),
        ("run_folds=0", "0", "folds.k=3"),
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
    ],
)
def test_numbers_that_cannot_be(setting, value, rule):
    with pytest.raises(InputError) as e:
        changed(DEMO, setting)
    name = setting.partition("=")[0].rpartition(".")[2]
    assert value in str(e.value) and rule in str(e.value) and (name in str(e.value) or name == "k"), str(e.value)


def test_the_whole_is_judged_after_all_settings():
    assert changed(DEMO, "run_folds=5", "folds.k=5") == changed(DEMO, "folds.k=5", "run_folds=5")
    assert [s.size for s in changed(DEMO, "train.96.size=128", "train.64.size=96").train.stages] == [96, 128]
    assert changed(DEMO, "train.epochs=5", "train.epochs=6") == changed(DEMO, "train.epochs=6"), "the last one counts"


def test_limits_name_numbers_that_exist():
    for path in LIMITS:
        section, name = path.split(".")
        assert hasattr(getattr(DEMO, section), name) or hasattr(DEMO.train.stages[0], name)


@pytest.mark.parametrize(
    "name, near",
    [("dmeo", "demo"), ("Blog", "blog"), ("", "demo, cpu, baseline, blog"), ("zzzz", "demo, cpu, baseline, blog")],
)
def test_a_profile_that_does_not_exist(name, near):
    with pytest.raises(InputError, match=f"{name!r}.*{near}"):
        profile_named(name)


def test_a_size_that_the_profile_has_not():
    with pytest.raises(InputError, match="demo has no size 128; it has 64, 96"):
        DEMO.stage(128)


@settings(deadline=None)
@given(
    st.text(alphabet=st.sampled_from("train.epochswdlmodptin=0123456789e-[]{}'\"²٣()+* \n\\"), max_size=30),
    st.sampled_from(
        ["", "train.", "model.options.", "train.64.", "model.options.width=", "submit.threshold=", "train.lr="]
    ),
)
def test_any_text_is_taken_or_refused_in_words(text, prefix):
    try:
        assert isinstance(changed(DEMO, prefix + text), Profile)
    except InputError as e:
        assert str(e)


def test_settings_are_plain_and_whole():
    assert settings_of(DEMO.folds) == {"scheme": "coverage", "k": 3, "seed": 42}
    assert settings_of(DEMO.train)["stages"][0] == {
        "size": 64,
        "batch": 16,
        "epochs": DEMO.train.stages[0].epochs,
        "lr": DEMO.train.stages[0].lr,
    }
