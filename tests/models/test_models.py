"""Every model: output shapes, number of parameters, a gradient for every weight."""

import copy
from functools import partial

import pytest
import torch
from fastai.vision.learner import create_unet_model
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet34

from pipeline.salt.models import MODELS, build_model, unet_lean
from pipeline.salt.models.blocks import BAM, Heads, ScSE, concat_global, hypercolumn, pad_to_multiple
from pipeline.salt.models.dynamic_unet import DynamicUnet
from pipeline.salt.models.more_dynamic_unet import UPSAMPLERS, PixelShuffleICNR

meta = torch.device("meta")  # shapes without arithmetic: the largest models cost nothing

TINY = "test_resnet"  # 0.37 M parameters, strides 2..32
ALL_OPTIONS = {
    "scse": True,
    "fpa": True,
    "half_skip": True,
    "dropout": 0.5,
    "deep_supervision": True,
    "classifier": True,
}
VARIANTS = {
    **{name: (name, TINY, {}) for name in MODELS},
    "unet_resnext50 with everything": ("unet_resnext50", TINY, {"width": 4, **ALL_OPTIONS}),
    "unet_lean with its heads": ("unet_lean", TINY, {"width": 4, "deep_supervision": True, "classifier": True}),
    "dynamic_unet on EfficientNet": ("dynamic_unet", "test_efficientnet", {}),
    "more_dynamic_unet on ConvNeXt": ("more_dynamic_unet", "test_convnext", {"reduction": "eq_skip"}),
    **{f"more_dynamic_unet, {u}": ("more_dynamic_unet", TINY, {"upsampler": u}) for u in UPSAMPLERS},
    "more_dynamic_unet, attention": ("more_dynamic_unet", TINY, {"attention": "bam", "middle_scale": 0.5}),
}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return build_model(*VARIANTS[request.param])


@pytest.mark.parametrize("size", [(64, 64), (101, 101), (127, 95), (96, 128)])
def test_one_logit_a_pixel_at_any_size(model, size):
    with torch.no_grad():
        logits = model.eval()(torch.randn(1, 3, *size))
    assert type(logits) is Tensor
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


def test_every_weight_learns(model):
    model.train().zero_grad()
    out = model(torch.randn(2, 3, 64, 64))
    if isinstance(out, Heads):
        assert out.logits.shape == (2, 1, 64, 64)
        assert out.any_salt.shape == (2, 1)
        assert len(out.deep) in (4, 5) and all(d.shape[:2] == (2, 1) for d in out.deep)
        out = torch.cat([part.flatten() for part in (out.logits, *out.deep, out.any_salt)])
    out.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_encoder_says_how_to_normalise(model):
    encoder = model.encoder
    assert len(encoder.mean) == len(encoder.std) == 3
    assert len(encoder.channels) == len(encoder.strides)
    assert {id(p) for p in encoder.parameters()} < {id(p) for p in model.parameters()}


def test_a_copy_and_a_state_dict_are_the_model(model):
    x = torch.randn(1, 3, 64, 64)
    again = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = model.eval()(x)
        assert torch.equal(again(x), expected)
        for p in again.parameters():
            p.add_(1)
        assert torch.equal(model(x), expected)
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x), expected)


def test_bfloat16_channels_last(model):
    model = model.eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()


# --- sizes, with their sources


def test_unet_resnext50_is_the_articles():
    with meta:
        model = build_model("unet_resnext50", "se_resnext50_32x4d")
        assert model(torch.empty(2, 3, 128, 128)).shape == (2, 1, 128, 128)
    assert parameters(model) == 99_929_553  # printed in the article; the sum below is by hand
    conv = lambda c_in, c_out: 9 * c_in * c_out + 2 * c_out  # noqa: E731   3x3 without bias, BatchNorm's two
    center = conv(2048, 2048) + conv(2048, 1024)
    decoder = sum(conv(a, b) + conv(b, 32) for a, b in [(3072, 512), (1056, 256), (544, 128), (288, 64), (32, 32)])
    head = conv(160, 64) + conv(64, 32) + 32 + 1
    assert parameters(model) == parameters(model.encoder) + center + decoder + head
    # SE-ResNeXt50 has 27,559,896 (timm's results table) with its classifier of 2048 * 1000 + 1000.
    assert parameters(model.encoder) == 27_559_896 - 2_049_000


def test_unet_lean_spends_nothing_above_half_resolution():
    """Counted by hand for maps of 16, 24, 40, 112 and 320 channels: tf_efficientnet_lite0, 3.4 M weights."""
    with meta:
        model = build_model("unet_lean", "tf_efficientnet_lite0")
    conv = lambda c_in, c_out: 9 * c_in * c_out + 2 * c_out  # noqa: E731   3x3 without bias, BatchNorm's two
    blocks = [(128 + 112, 128, 32), (32 + 40, 64, 32), (32 + 24, 64, 32), (32 + 16, 32, 16)]
    decoder = sum(conv(a, b) + conv(b, c) for a, b, c in blocks)
    column = (16 + 32 + 32 + 32 + 128) * 32 + 2 * 32
    assert parameters(model) - parameters(model.encoder) == conv(320, 128) + decoder + column + conv(32, 32) + 32 + 1
    largest = 0

    def note(layer, inputs, output):
        nonlocal largest
        largest = max(largest, output.shape[-1])

    decoder = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and not name.startswith("encoder.")
    ]
    for layer in decoder:
        layer.register_forward_hook(note)
    assert model(torch.empty(2, 3, 128, 128, device=meta)).shape == (2, 1, 128, 128)
    assert largest == 64


@pytest.mark.parametrize("side", [8, 11])
def test_the_lean_hypercolumn_is_the_stacked_ones_1x1_convolution(side):
    """Equal up to rounding for two maps. More are upsampled in steps instead of at once: hence constant maps."""
    torch.manual_seed(0)
    lean = unet_lean.Hypercolumn([3, 5], 4).eval()
    maps = [torch.randn(2, 3, side, side), torch.randn(2, 5, side // 2, side // 2)]
    weight = torch.cat([project.weight for project in lean.project], dim=1)
    torch.testing.assert_close(lean(maps), lean.norm(F.conv2d(hypercolumn(maps), weight)), atol=1e-5, rtol=1e-5)
    lean = unet_lean.Hypercolumn([1, 1, 1], 4).eval()
    flat = [torch.full((1, 1, s, s), v) for s, v in [(8, 1.0), (4, 2.0), (2, 3.0)]]
    weight = torch.cat([project.weight for project in lean.project], dim=1)
    features = torch.randn(1, 4, 1, 1)
    stacked = lean.norm(F.conv2d(hypercolumn(flat), weight) + features)
    torch.testing.assert_close(lean(flat, features), stacked, atol=1e-5, rtol=0)


def test_unet_resnext50_of_either_library_is_one():
    pytest.importorskip("pretrainedmodels")
    options = {"width": 4, "fpa": True}  # a small decoder; the encoder is whole
    ours, timms = (
        build_model("unet_resnext50", name, options).eval()
        for name in ("se_resnext50_32x4d", "legacy_seresnext50_32x4d")
    )
    timms.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), timms(x))
    with meta:
        full = [build_model("unet_resnext50", m.encoder.name).state_dict() for m in (ours, timms)]
    assert {k: v.shape for k, v in full[0].items()} == {k: v.shape for k, v in full[1].items()}


def test_resnet_unet_is_usuyamas():
    # https://github.com/usuyama/pytorch-unet at n_class=6, less the classifier that it keeps and never uses.
    with meta:
        model = build_model("resnet_unet", "resnet18", {"n_class": 6})
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 6, 224, 224)
    assert parameters(model) == 17_800_134


DYNAMIC_UNET = [  # learn.summary() of unet_learner(resnet34, n_out=3, y_range) at 128 px: channels, side, parameters
    ("Body", 512, 4, 21_284_672),  # 21,797,672 of resnet34 less its classifier's 513,000
    ("BatchNorm2d", 512, 4, 1_024),
    ("ReLU", 512, 4, 0),
    ("Sequential", 512, 4, 9_438_720),  # 2 * 9 * 512 * 1024, biases 1024 + 512: no BatchNorm in the decoder
    ("UnetBlock", 512, 8, 5_245_440),  # 1x1 512 -> 1024, BatchNorm 256, two 3x3 512 -> 512
    ("UnetBlock", 384, 16, 3_180_544),  # 512/2 + 128 = 384 channels after the join, and so on
    ("UnetBlock", 256, 32, 1_475_968),
    ("UnetBlock", 96, 64, 380_736),  # the last one halves its concatenated input: (128 + 64) / 2
    ("PixelShuffle_ICNR", 96, 128, 37_248),
    ("ResizeToOrig", 96, 128, 0),
    ("MergeLayer", 99, 128, 0),  # joins the image itself
    ("ResBlock", 99, 128, 176_616),
    ("ConvLayer", 3, 128, 300),
    ("SigmoidRange", 3, 128, 0),
]


def test_dynamic_unet_is_fastais_group_by_group():
    with meta:
        model = DynamicUnet("resnet34", n_out=3, y_range=(0.0, 1.0)).eval()
        fastais = create_unet_model(resnet34, 3, (128, 128), pretrained=False, y_range=(0.0, 1.0))
        shapes = []
        for layer in model.layers:
            layer.register_forward_hook(lambda *io: shapes.append(io[2].shape))
        model(torch.empty(1, 3, 128, 128))
    table = [
        (type(layer).__name__, shape[1], shape[2], parameters(layer))
        for layer, shape in zip(model.layers, shapes, strict=True)
    ]
    assert table == DYNAMIC_UNET
    assert parameters(model) == 41_221_268
    assert [p.shape for p in model.parameters()] == [p.shape for p in fastais.parameters()]


def test_dynamic_unet_equals_fastais_for_the_same_weights():
    fastais = create_unet_model(resnet18, 1, (128, 128), pretrained=False).eval()
    model = DynamicUnet("resnet18").eval()
    model.load_state_dict(dict(zip(model.state_dict(), fastais.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), fastais(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "encoder, first",
    [
        ("resnet34", 1_347_904),  # fastai splits a ResNet after layer2: 9,536 + 221,952 + 1,116,416
        ("xresnet34", 28_768),  # an XResNet after its stem: 3x3 convolutions 3 -> 32 -> 32 -> 64, and BatchNorm
        ("test_efficientnet", 82_300),  # others have no split of their own in fastai
    ],
)
def test_dynamic_unet_groups(encoder, first):
    with meta:
        model = DynamicUnet(encoder)
    groups = model.groups()
    assert sum(p.numel() for p in groups[0]) == first
    assert [id(p) for group in groups for p in group] == [id(p) for p in model.parameters()]
    assert sum(p.numel() for group in groups[:-1] for p in group) == parameters(model.encoder)


@pytest.mark.parametrize(
    "name", ["alexnet", "squeezenet1_0", "mobilenet_v2", "xresnet34", "se_resnext50_32x4d", "test_convnext"]
)
def test_dynamic_unet_on_any_body(name):
    with meta:
        model = build_model("dynamic_unet", name)
        assert model(torch.empty(1, 3, 101, 128)).shape == (1, 1, 101, 128)


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "senet154", "xresnet50", "tf_efficientnet_lite0"])
def test_unet_resnext50_on_the_articles_other_encoders(name):
    with meta:
        assert build_model("unet_resnext50", name)(torch.empty(1, 3, 64, 64)).shape == (1, 1, 64, 64)


# --- options


@pytest.mark.parametrize("option", [{"scse": True}, {"half_skip": True}, {"dropout": 0.5}, {"deep_supervision": True}])
def test_an_option_leaves_the_names_and_shapes_of_the_others_alone(option):
    with meta:
        plain, changed = build_model("unet_resnext50", TINY), build_model("unet_resnext50", TINY, option)
    shapes = {k: v.shape for k, v in changed.state_dict().items()}
    assert {k: v.shape for k, v in plain.state_dict().items()}.items() <= shapes.items()


def test_width_scales_the_decoder():
    with meta:
        model = build_model("unet_resnext50", TINY, {"width": 16})
    assert model.decoder16.conv1[0].out_channels == 256 and model.decoder1.conv2[0].out_channels == 16
    assert model.logit[0][0].in_channels == 5 * 16


def test_half_skip_is_the_first_skip_at_half_resolution():
    with meta:
        model = build_model("unet_resnext50", "resnet34", {"half_skip": True})
        seen = {}
        for key in ("decoder2", "decoder1"):
            getattr(model, key).register_forward_pre_hook(lambda _, args, key=key: seen.update({key: args[0].shape}))
        model(torch.empty(1, 3, 128, 128))
    assert seen["decoder2"][-1] == seen["decoder1"][-1] == 64


def test_heads_come_in_training_only():
    model = build_model("unet_resnext50", TINY, {"width": 4, "deep_supervision": True})
    x = torch.randn(2, 3, 64, 64)
    heads = model.train()(x)
    assert heads.any_salt is None and [d.shape[-1] for d in heads.deep] == [64, 32, 16, 8, 4]
    assert type(model.eval()(x)) is Tensor


def test_the_hypercolumn_loses_whole_channels():
    model = build_model("unet_resnext50", TINY, {"width": 4, "dropout": 0.5}).train()
    dropped = []
    model.logit.register_forward_pre_hook(lambda _, args: dropped.append((args[0] == 0).all(-1).all(-1).float().mean()))
    torch.manual_seed(0)
    model(torch.rand(8, 3, 64, 64))
    assert 0.3 < dropped[0] < 0.7


# --- blocks


@pytest.mark.parametrize("scale", [2, 4])
def test_icnr_starts_as_the_nearest_neighbour_image(scale):
    up = PixelShuffleICNR(6, 5, scale)
    with torch.no_grad():
        image = up(torch.randn(2, 6, 4, 3))
    assert image.shape == (2, 5, 4 * scale, 3 * scale)
    torch.testing.assert_close(image, F.interpolate(image[..., ::scale, ::scale], scale_factor=scale, mode="nearest"))
    assert image.std() > 0


@pytest.mark.parametrize("name", UPSAMPLERS)
@pytest.mark.parametrize("scale", [2, 4])
def test_upsamplers(name, scale):
    up = UPSAMPLERS[name](6, 5, scale)
    c_out = 6 if name == "bilinear" else 5
    assert up(torch.randn(2, 6, 4, 3)).shape == (2, c_out, 4 * scale, 3 * scale)
    assert (parameters(up) == 0) == (name == "bilinear")


@pytest.mark.parametrize("block", [ScSE, partial(ScSE, reduction=2), BAM])
def test_attention_weighs_and_keeps_the_shape(block):
    x = torch.rand(2, 8, 6, 5) + 0.1
    share = block(8)(x) / x
    assert share.shape == x.shape
    assert (share > 0).all() and (share < 2).all()


def test_hypercolumn_is_the_articles_cat_of_upsampled_maps():
    maps = [torch.randn(1, 2, 32 // s, 32 // s) for s in (1, 2, 4)]
    by_factor = torch.cat(
        [
            maps[0],
            *(
                F.interpolate(m, scale_factor=s, mode="bilinear", align_corners=False)
                for m, s in zip(maps[1:], (2, 4), strict=True)
            ),
        ],
        1,
    )
    torch.testing.assert_close(hypercolumn(maps), by_factor)


def test_padding_repeats_the_edge():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = pad_to_multiple(x, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(pad_to_multiple(padded, 4), padded)
    assert concat_global(torch.ones(1, 7, 1, 1), x).shape == (1, 8, 2, 3)
