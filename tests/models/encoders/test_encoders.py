"""Encoders of every library have the channels, strides and statistics that they declare."""

import importlib.util

import pytest
import timm
import torch
from torch.nn import functional as F

from pipeline.salt.errors import InputError
from pipeline.salt.models.encoders.build import build_classifier, build_encoder, build_pyramid, build_sequential
from pipeline.salt.models.encoders.sequential import remove_early_pool_, unstride_stem_
from pipeline.salt.models.encoders.table import ENCODERS, STRIDES
from pipeline.salt.models.encoders.weights import load_imagenet

meta = torch.device("meta")  # shapes without arithmetic: the largest models cost nothing


@pytest.mark.parametrize("name", [*ENCODERS, "test_resnet", "test_efficientnet", "tf_efficientnet_lite0", "vgg11"])
def test_maps_have_the_channels_and_strides_the_encoder_names(name):
    with meta:
        encoder = build_encoder(name)
        maps = encoder(torch.empty(2, 3, 64, 96))
    assert [m.shape for m in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, STRIDES, strict=True)]
    assert encoder.strides == STRIDES
    assert all(0 < value < 1 for value in (*encoder.mean, *encoder.std))


def test_shapes_of_the_article():
    # Printed in the article for a batch of 32 at 128 px; its first feature is the stem after the pool.
    with meta:
        encoder = build_encoder("se_resnext50_32x4d")
        stem, *maps = encoder(torch.empty(32, 3, 128, 128))
        pooled = encoder.pool0(stem)
    assert [tuple(m.shape) for m in [pooled, *maps]] == [
        (32, 64, 32, 32),
        (32, 256, 32, 32),
        (32, 512, 16, 16),
        (32, 1024, 8, 8),
        (32, 2048, 4, 4),
    ]


def test_pretrainedmodels_and_timm_are_one_encoder():
    pytest.importorskip("pretrainedmodels")
    ours, timms = build_encoder("se_resnext50_32x4d").eval(), build_encoder("legacy_seresnext50_32x4d").eval()
    assert "layer0.conv1.weight" in ours.state_dict()
    timms.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(x), timms(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_without_pretrainedmodels_timm_builds_the_same_keys(monkeypatch):
    pytest.importorskip("pretrainedmodels")
    with meta:
        with_it = build_encoder("se_resnext50_32x4d").state_dict()
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        without = build_encoder("se_resnext50_32x4d").state_dict()
    assert {k: v.shape for k, v in with_it.items()} == {k: v.shape for k, v in without.items()}


def test_early_pool_left_out():
    with meta:
        encoder = build_encoder("se_resnext50_32x4d")
        remove_early_pool_(encoder)
        before = build_encoder("se_resnext50_32x4d").state_dict()
        maps = encoder(torch.empty(1, 3, 64, 64))
    assert [64 // m.shape[-1] for m in maps] == [2, 2, 4, 8, 16] == list(encoder.strides)
    assert encoder.state_dict().keys() == before.keys()
    with pytest.raises(InputError, match="no early max-pool"):
        remove_early_pool_(build_encoder("test_efficientnet"))


def test_stem_at_full_size():
    with meta:
        encoder = build_encoder("xresnet34")
        unstride_stem_(encoder)
        maps = encoder(torch.empty(1, 3, 64, 64))
    assert [64 // m.shape[-1] for m in maps] == [1, 2, 4, 8, 16] == list(encoder.strides)
    with pytest.raises(InputError, match="does not begin with a convolution of stride 2"):
        unstride_stem_(encoder)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_a_sequence_of_layers_gives_what_timms_own_pyramid_gives(name, tmp_path):
    torch.save(build_classifier(name).state_dict(), tmp_path / "weights.pth")
    ours, timms = build_sequential(name).eval(), build_pyramid(name).eval()
    for encoder in (ours, timms):
        load_imagenet(encoder, tmp_path / "weights.pth")
    assert (ours.channels, ours.strides, ours.mean) == (timms.channels, timms.strides, timms.mean)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(x), timms(x), strict=True):
            torch.testing.assert_close(a, b)


def test_layers_after_each_map():
    encoder = build_sequential("test_resnet").eval()
    with torch.no_grad():
        silent = encoder(torch.randn(1, 3, 64, 64), after=[torch.nn.Threshold(1e9, 0.0)] * 5)
    assert all((m == 0).all() for m in silent)


def test_maps_of_channels_last_models_come_channels_first():
    swin = build_pyramid("swin_tiny_patch4_window7_224").eval()
    body = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, img_size=96).eval()
    assert body(torch.zeros(1, 3, 96, 96))[0].shape == (1, 24, 24, 96)  # which is why
    with torch.no_grad():
        maps = swin(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]


@pytest.mark.parametrize(
    "build, name, says",
    [
        (build_encoder, "convnext_tiny", "strides 4, 8, 16, 32, this model needs 2, 4, 8, 16, 32"),
        (build_encoder, "swin_tiny_patch4_window7_224", "strides 4, 8, 16, 32"),
        (build_encoder, "test_vit", "strides 16, 16, 16"),
        (build_encoder, "resnet3", "unknown; did you mean .*resnet34"),
        (build_encoder, "xyzzy", "unknown; see timm.list_models"),
        (build_encoder, "resnet34.nope", "Invalid pretrained tag"),
        (build_pyramid, "test_vit", "a pyramid, each stride twice the one before"),
        (build_pyramid, "test_maxvit", "images of 160 x 160 px only"),
        (build_sequential, "test_vit", "not a plain sequence of layers"),
        (build_sequential, "hrnet_w18_small", "not a plain sequence of layers"),
        (build_sequential, "resnet3", "unknown; did you mean"),
    ],
)
def test_what_is_no_pyramid_is_refused_in_words(build, name, says):
    if name == "test_maxvit" and not timm.is_model(name):
        pytest.skip("this timm is older than the model")
    with pytest.raises(InputError, match=says):
        build(name)


def test_2x2_pool_is_the_articles():
    encoder = build_encoder("legacy_seresnext50_32x4d").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = encoder.layer0(x)
        torch.testing.assert_close(encoder(x)[1], encoder.layer1(F.max_pool2d(stem, 2, 2)))
