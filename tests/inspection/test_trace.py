"""Traces, tables and drawings of a model, against the model itself and the article's description."""

import re
from xml.etree import ElementTree

import pytest
import torch
from fastai.callback.hook import layer_info
from fastai.data.core import DataLoaders
from fastai.learner import Learner

from pipeline.salt.errors import InputError
from pipeline.salt.inspection.drawing import draw
from pipeline.salt.inspection.summary import layers_table, parts_table
from pipeline.salt.inspection.trace import Part, trace
from pipeline.salt.models import MODELS, build_model

meta = torch.device("meta")
EVERYTHING = {"scse": True, "fpa": True, "half_skip": True, "deep_supervision": True, "classifier": True}
CASES = [
    *((name, "test_resnet", {}) for name in MODELS),
    ("unet_resnext50", "test_resnet", EVERYTHING),
    ("dynamic_unet", "test_efficientnet", {}),
    ("more_dynamic_unet", "test_convnext", {}),
    ("unet_resnext50", "se_resnext50_32x4d", {}),
    ("dynamic_unet", "resnet34", {}),
]


def seen(name, encoder, options=None, size=128) -> dict[str, Part]:
    with meta:
        return {part.title: part for part in trace(build_model(name, encoder, options), size)}


@pytest.mark.parametrize("name, encoder, options", CASES)
def test_no_parameter_is_lost_or_counted_twice(name, encoder, options):
    with meta:
        model = build_model(name, encoder, options)
    model.encoder.requires_grad_(False)
    parts = trace(model, 64)
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in model.parameters())
    assert sum(p.trainable for p in parts) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert [p.output for p in parts].count("salt") == 1
    fed = {source for p in parts for source in p.sources}
    assert all(p in fed or p.output for p in parts), "a part that nothing uses"
    assert all(p.sources for p in parts[1:]), "a part that nothing feeds"


def test_multiply_adds():
    parts = seen("unet_resnext50", "se_resnext50_32x4d")
    # 14.79 GFLOP forward at 128 px, two for each multiply-add
    assert sum(p.macs for p in parts.values()) == pytest.approx(14.79e9 / 2, rel=1e-3)
    assert parts["decoder1"].macs == 2 * 9 * 32 * 32 * 128 * 128
    # docs/models.md: more than half of the weights in `center`, a fifth of the work in the first layer of `logit`
    total = sum(p.macs for p in parts.values())
    assert parts["center"].parameters / sum(p.parameters for p in parts.values()) == pytest.approx(0.567, abs=1e-3)
    assert 9 * 160 * 64 * 128 * 128 / total == pytest.approx(0.204, abs=1e-3) and parts["logit"].macs / total < 0.25
    assert parts["center"].macs == 9 * (2048 * 2048 + 2048 * 1024) * 4 * 4


def test_skips_and_concatenations_of_the_article():
    parts = seen("unet_resnext50", "se_resnext50_32x4d")
    edges = {title: [s.title for s in part.sources] for title, part in parts.items()}
    assert edges == {
        "image": [],
        "layer0 … layer1": ["image"],
        "layer2": ["layer0 … layer1"],
        "layer3": ["layer2"],
        "layer4": ["layer3"],
        "center": ["layer4"],
        "decoder16": ["center", "layer4"],
        "decoder8": ["decoder16", "layer3"],
        "decoder4": ["decoder8", "layer2"],
        "decoder2": ["decoder4", "layer0 … layer1"],
        "decoder1": ["decoder2"],
        "logit": ["decoder1", "decoder2", "decoder4", "decoder8", "decoder16"],
    }
    assert parts["decoder16"].concatenated == (1024, 2048) and parts["logit"].concatenated == (32,) * 5
    assert parts["layer2"].shape == (512, 16, 16) and parts["layer2"].kind == "4 × SEResNeXtBottleneck"


def test_hooked_skips_of_fastai():
    parts = list(seen("dynamic_unet", "resnet34").values())
    blocks = {part.sources[1].title: part.concatenated for part in parts if part.kind == "UnetBlock"}
    assert blocks == {
        "layer3": (256, 256),
        "layer2": (256, 128),
        "maxpool, layer1": (192, 64),
        "conv1 … relu": (128, 64),
    }
    merge = next(part for part in parts if part.kind == "MergeLayer")
    assert parts[0] in merge.sources and merge.concatenated == (96, 3)


def test_heads_and_the_classifiers_way_into_the_logits():
    parts = seen("unet_resnext50", "test_resnet", EVERYTHING)
    assert [p.output for p in parts.values() if p.output] == ["any_salt", "salt"] + ["deep"] * 5
    assert parts["classifier"] in parts["logit"].sources and parts["logit"].concatenated == (32,) * 6


def test_attention_belongs_to_the_encoder():
    parts = seen("unet_attention", "resnet34")
    assert parts["layer2, attention.2"].encoder and not parts["decoder8"].encoder
    assert parts["logit"].concatenated == (16,) * 4 + (1,) * 5 and parts["classifier"] in parts["logit"].sources


def test_heads_that_feed_the_logits_are_drawn_as_concatenated():
    svg = draw(list(seen("unet_attention", "resnet34").values()), "unet_attention")
    assert "joins 4 × 16 + 5 × 1 = 69 channels" in svg and "joins 8 + 8 = 16 channels" in svg


def test_too_small_an_image():
    with pytest.raises(InputError, match="16 x 16 px is too small"):
        seen("resnet_unet", "resnet18", size=16)


@pytest.mark.parametrize("name, encoder, options", CASES)
def test_the_drawing_shows_every_part_and_shape_apart_from_the_others(name, encoder, options):
    parts = list(seen(name, encoder, options).values())
    svg = ElementTree.fromstring(draw(parts, f"{name} on {encoder}, 128 px: <all> & more"))
    tag = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in svg.iter(f"{tag}text")]
    for part in parts:
        assert part.title in texts
        assert any(" × ".join(map(str, part.shape)) in t for t in texts)
    width, height = map(float, svg.get("viewBox").split()[2:])
    _, *rects = svg.iter(f"{tag}rect")  # without the background
    boxes = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in rects]
    assert len(boxes) == len(parts)
    for i, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert not any(x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h for x2, y2, w2, h2 in boxes[i + 1 :])
    for text in svg.iter(f"{tag}text"):  # 7.2 px a letter of 13 px, at most
        assert float(text.get("x")) + 7.2 * len(text.text) <= width or "headline" in text.get("class")
    arrows = [p.get("d") for p in svg.iter(f"{tag}path") if p.get("marker-end")]
    assert len(arrows) == sum(len(p.sources) + bool(p.output) for p in parts)
    assert all(re.fullmatch(r"M [-\d. CHVvh]+", d) for d in arrows)


# --- layer by layer


@pytest.mark.parametrize(
    "name, encoder", [("dynamic_unet", "resnet34"), ("unet_resnext50", "xresnet34"), ("resnet_unet", "resnet18")]
)
def test_layers_are_those_of_fastais_summary(name, encoder):
    """Kind, output shape and parameters of every layer. fastai does not count multiply-adds."""
    model = build_model(name, encoder).eval()
    learn = Learner(DataLoaders([], []), model, loss_func=torch.nn.MSELoss(), default_cbs=False)
    theirs = [
        (kind, list(shape[1:]), int(parameters or 0), trainable is not False)
        for kind, parameters, trainable, shape, _ in filter(None, layer_info(learn, torch.zeros(1, 3, 64, 64)))
    ]
    head, _, *lines = layers_table(model, 64).splitlines()
    assert head.split() == ["layer", "kind", "output", "parameters", "trainable", "multiply-adds"]
    *lines, _, total = lines
    ours, shape, new = [], None, False
    for line in lines:
        if set(line) == {"-"}:
            new = True
            continue
        _, kind, *cells, parameters, trainable, _, _ = line.split()
        assert bool(cells) == (new or not ours), "a shape stands at the first layer that has it, below a rule"
        shape, new = [int(n) for n in cells if n != "x"] or shape, False
        ours.append((kind, shape, int(parameters.replace(",", "")), trainable == parameters))
    assert sorted(ours, key=str) == sorted(theirs, key=str)
    assert total.split()[1] == f"{sum(p.numel() for p in model.parameters()):,}"


@pytest.mark.parametrize("name, encoder, options", CASES)
def test_layers_add_up_to_the_parts(name, encoder, options):
    with meta:
        tables = (
            parts_table(trace(build_model(name, encoder, options), 64)),
            layers_table(build_model(name, encoder, options), 64),
        )
    of_parts, of_layers = (table.splitlines()[-1].split()[1:] for table in tables)
    assert of_parts[:2] == of_layers[:2]
    assert float(of_parts[2].replace(",", "")) == pytest.approx(float(of_layers[2].replace(",", "")), abs=0.2)


def test_the_frozen_layers_of_a_table():
    with meta:
        model = build_model("unet_resnext50", "test_resnet")
    model.encoder.requires_grad_(False)
    total = layers_table(model, 64).splitlines()[-1].split()
    assert int(total[2].replace(",", "")) == sum(p.numel() for p in model.parameters() if p.requires_grad)
