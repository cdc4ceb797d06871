"""The table of models: it is right, bad settings are refused with a sentence, and nothing heavy is imported."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.salt import models
from pipeline.salt.errors import InputError
from pipeline.salt.models import MODELS, build_model, check_model, check_trainable
from pipeline.salt.models.encoders.build import BUILDERS, check_encoder
from pipeline.salt.models.encoders.table import ENCODERS

ROOT = Path(__file__).parents[2]
TINY = "test_resnet"  # 0.37 M parameters, strides 2..32

# What nobody can build, and the words for it.
REFUSED = [
    ("unet_resnext", TINY, {}, "model 'unet_resnext' is unknown; did you mean unet_resnext50"),
    ("unet_resnext50", "convnext_tiny", {}, "strides 4, 8, 16, 32, this model needs 2, 4, 8, 16, 32"),
    ("unet_resnext50", "test_vit", {}, "strides 16, 16, 16"),
    ("unet_resnext50", "resnet43", {}, "'resnet43' is unknown; did you mean"),
    ("unet_attention", "test_convnext", {}, "strides 4, 8, 16, 32"),
    ("resnet_unet", "swin_tiny_patch4_window7_224", {}, "strides 4, 8, 16, 32"),
    ("dynamic_unet", "test_vit", {}, "not a plain sequence"),
    ("more_dynamic_unet", "test_vit", {}, "a pyramid"),
    ("more_dynamic_unet", "se_resnext50_32x4d", {}, "is unknown; did you mean"),  # not one of timm's names
    ("more_dynamic_unet", TINY, {"upsampler": "shufle"}, "did you mean shuffle"),
    ("more_dynamic_unet", TINY, {"middle_scale": "wide"}, "middle_scale='wide' .* must be of type float"),
    ("unet_resnext50", TINY, {"wdth": 8}, "option of unet_resnext50 'wdth' is unknown; did you mean width"),
    ("unet_resnext50", TINY, {"encoder": "x"}, "option of unet_resnext50 'encoder' is unknown"),
    ("unet_resnext50", TINY, {"width": 8.5}, "width=8.5 of unet_resnext50 must be of type int"),
    ("unet_resnext50", TINY, {"width": True}, "must be of type int"),
    ("unet_resnext50", TINY, {"width": 0}, "must be at least 1"),
    ("unet_resnext50", TINY, {"scse": 1}, "must be of type bool"),
    ("unet_resnext50", TINY, {"dropout": None}, "must be of type float"),
    ("dynamic_unet", TINY, {"y_range": 1.0}, r"y_range=1.0 .* must be of type tuple\[float, float\] | None"),
    ("dynamic_unet", TINY, {"y_range": (0, 1, 2)}, "must be of type tuple"),
    ("dynamic_unet", TINY, {"y_range": ("a", 1)}, "must be of type tuple"),
]
# What only the building itself finds out.
REFUSED_WHEN_BUILT = [
    ("unet_resnext50", "test_efficientnet", {"half_skip": True}, "no early max-pool"),
    ("unet_resnext50", TINY, {"dropout": 1.5}, "cannot be built with"),
    ("more_dynamic_unet", TINY, {"middle_scale": 0.1}, "leaves 9 of 96 channels"),
]


@pytest.mark.parametrize("name, encoder, options, says", REFUSED + REFUSED_WHEN_BUILT)
def test_what_cannot_be_built_is_refused_in_words(name, encoder, options, says):
    with pytest.raises(InputError, match=says):
        build_model(name, encoder, options)
    if (name, encoder, options, says) in REFUSED:
        with pytest.raises(InputError, match=says):
            check_model(name, encoder, options)


def test_the_check_lets_pass_what_can_be_built():
    for name, encoder, options in [
        ("unet_resnext50", "se_resnext50_32x4d", {"width": 16, "stem_skip": True, "dropout": 0}),
        ("dynamic_unet", "alexnet", {"y_range": (0, 1.5), "n_out": 3}),
        ("dynamic_unet", "test_convnext", {"y_range": [0.0, 1.0]}),
        ("unet_attention", "test_efficientnet", {}),
        ("more_dynamic_unet", "swin_tiny_patch4_window7_224", {"middle_scale": 1}),
    ]:
        check_model(name, encoder, options)
        with torch.device("meta"):
            build_model(name, encoder, options)


def test_the_options_read_from_a_models_text_are_its_classs():
    for name, spec in MODELS.items():
        module = __import__(f"pipeline.salt.models.{spec.module}", fromlist=[spec.name])
        _, *arguments = inspect.signature(getattr(module, spec.name)).parameters.values()
        assert models._options(spec) == {a.name: a.annotation for a in arguments}, name


def test_what_the_table_says_of_encoders_is_what_the_models_do():
    """A model takes an encoder if and only if the builder that its row names does."""
    odd = ["test_convnext", "test_vit", "test_efficientnet", "alexnet", "hrnet_w18_small", "xresnet34", "resnet18"]
    for name, spec in MODELS.items():
        for encoder in odd:
            with torch.device("meta"):
                assert _refused(check_encoder, encoder, spec.encoder) == _refused(build_model, name, encoder), encoder
    assert {spec.encoder for spec in MODELS.values()} == set(BUILDERS)


def _refused(build, *args) -> bool:
    try:
        build(*args)
    except InputError:
        return True
    return False


def test_every_encoder_of_the_table_suits_without_a_look():
    # check_model takes their names on trust
    for needs in set(BUILDERS) - {"pyramid"}:
        for name in ENCODERS:
            check_encoder(name, needs)


def test_only_one_unbounded_logit_a_pixel_can_be_trained():
    for name in MODELS:
        check_trainable(name)
    check_trainable("dynamic_unet", {"n_out": 1, "y_range": None})
    for name, options in [
        ("dynamic_unet", {"n_out": 3}),
        ("dynamic_unet", {"y_range": (0.0, 1.0)}),
        ("more_dynamic_unet", {"n_out": 2}),
        ("resnet_unet", {"n_class": 6}),
    ]:
        [option] = options
        with pytest.raises(InputError, match=f"{name} with {option}=.* one unbounded logit per pixel.* leave {option}"):
            check_trainable(name, options)


def test_several_outputs_a_pixel():
    for name, option in [("dynamic_unet", "n_out"), ("more_dynamic_unet", "n_out"), ("resnet_unet", "n_class")]:
        with torch.device("meta"):
            assert build_model(name, TINY, {option: 3})(torch.empty(2, 3, 64, 64)).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    "program, allowed, barred",
    [
        (
            "from pipeline.salt.models.more_dynamic_unet import MoreDynamicUnet",
            ["torch", "timm"],
            ["fastai", "pretrainedmodels", "pandas"],
        ),
        (
            "from pipeline.salt.models import build_model; build_model('resnet_unet', 'test_resnet')",
            ["torch", "timm"],
            ["fastai", "pretrainedmodels", "pandas"],
        ),
        (
            "from pipeline.salt.models import check_model, check_trainable; "
            "options = {'stem_skip': True, 'width': 8}; "
            "check_model('unet_resnext50', 'se_resnext50_32x4d', options); "
            "check_trainable('unet_resnext50', options)",
            [],
            ["torch", "timm", "fastai", "numpy"],
        ),
    ],
)
def test_what_is_imported(program, allowed, barred):
    after = f"{program}\nimport sys\nprint(*(m for m in {[*allowed, *barred]} if m in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", after],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.stdout.split() == allowed
