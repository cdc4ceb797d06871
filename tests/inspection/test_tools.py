"""The tools summary, draw and export, on every model."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from pipeline.salt.artifacts import Origin, publish
from pipeline.salt.cli import parse
from pipeline.salt.errors import InputError
from pipeline.salt.inspection.onnx import Probability
from pipeline.salt.inspection.trace import trace
from pipeline.salt.models import MODELS, build_model
from pipeline.salt.training import checkpoints
from pipeline.tools import draw, export, summary

DOCS = Path(__file__).parents[2] / "docs"


def flags(model: str = "unet_resnext50", *extra: str) -> list[str]:
    return ["--profile", "blog", "--model", model, "--encoder", "test_resnet", *extra]


@pytest.mark.parametrize("model", MODELS)
def test_summary(model, tmp_path, capsys):
    summary.main(flags(model, "--size", "64"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model} on test_resnet, one image of 64 x 64 px"
    assert lines[2].split() == ["part", "layers", "output", "parameters", "trainable", "multiply-adds"]
    assert len({len(line) for line in lines[2:]}) == 1 and len(lines[2]) <= 120  # aligned, and within a terminal
    with torch.device("meta"):
        built = checkpoints.build(parse("", flags(model))[0].profile.model)
    parameters = sum(p.numel() for p in built.parameters())
    assert lines[-1].split()[:3] == ["total", f"{parameters:,}", f"{parameters:,}"]


def test_summary_of_every_layer(tmp_path, capsys):
    summary.main(flags("unet_resnext50", "--size", "64", "--layers"))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["decoder16.conv1.0", "Conv2d"] for line in lines)
    assert len({len(line) for line in lines[2:]}) == 1


@pytest.mark.parametrize("model", MODELS)
def test_draw(model, tmp_path, capsys):
    draw.main(flags(model, "--size", "64", "--to", str(tmp_path / "net.svg")))
    svg = (tmp_path / "net.svg").read_text()
    ElementTree.fromstring(svg)
    assert f"{model} on test_resnet" in svg and "1 × 64 × 64" in svg
    assert capsys.readouterr().out == f"drawn    {tmp_path / 'net.svg'}\n"


TRIED = ("fpa", "scse", "deep_supervision", "classifier")
PICTURES = {  # docs/models/<name>.svg: model, encoder, settings
    "unet_resnext50": ("unet_resnext50", "se_resnext50_32x4d"),
    "unet_resnext50_options": ("unet_resnext50", "tf_efficientnet_lite0", *(f"model.options.{o}=true" for o in TRIED)),
    "dynamic_unet": ("dynamic_unet", "resnet34"),
    "unet_attention": ("unet_attention", "resnet34"),
    "more_dynamic_unet": ("more_dynamic_unet", "convnext_tiny", "model.options.reduction=eq_skip"),
    "resnet_unet": ("resnet_unet", "resnet18"),
    "unet_lean": ("unet_lean", "tf_efficientnet_lite0"),
}


def test_the_pictures_in_the_docs_are_what_the_tool_draws(tmp_path):
    for name, (model, encoder, *settings) in PICTURES.items():
        sets = [f"--set={setting}" for setting in settings]
        draw.main([*flags(model, "--size", "128", "--to", str(tmp_path / "net.svg")), "--encoder", encoder, *sets])
        assert (tmp_path / "net.svg").read_text() == (DOCS / "models" / f"{name}.svg").read_text(), name
    assert {path.stem for path in (DOCS / "models").iterdir()} == set(PICTURES)


def test_the_numbers_in_the_docs_are_the_tools():
    """| [name](#name) | decoder | encoder | 99.9 M | 7.4 G | at 128 px, in docs/models.md."""
    rows = re.findall(
        r"^\| \[(\w+)\]\(#.*?\| (\w+) \| ([\d.]+) M \| ([\d.]+) G \|$", (DOCS / "models.md").read_text(), re.M
    )
    assert {name for name, *_ in rows} == set(MODELS) - {"more_dynamic_unet"}  # by choice
    for name, encoder, parameters, macs in rows:
        with torch.device("meta"):
            parts = trace(build_model(name, encoder), 128)
        assert f"{sum(p.parameters for p in parts) / 1e6:.1f}" == parameters, name
        assert f"{sum(p.macs for p in parts) / 1e9:.1f}" == macs, name


@pytest.mark.parametrize("model", MODELS)
def test_export(model, tmp_path, capsys, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export.main(flags(model, "--untrained"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[:3]] == ["101", "128", "224"]
    graph = onnx.load(tmp_path / f"{model}.onnx").graph
    dims = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert dims == [["batch", 3, "height", "width"], ["batch", 1, "height", "width"]]
    assert [file.name for file in tmp_path.iterdir()] == [f"{model}.onnx"]


def test_export_with_options_that_change_the_output(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    several = flags("more_dynamic_unet", "--untrained", "--set", "model.options.n_out=3")
    export.main([*several, "--to", str(tmp_path / "n.onnx")])
    [output] = onnx.load(tmp_path / "n.onnx").graph.output
    assert output.type.tensor_type.shape.dim[1].dim_value == 3
    model = build_model("dynamic_unet", "test_resnet", {"y_range": (0.0, 1.0)}).eval()
    x = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.encoder.mean, model.encoder.std))
    with torch.no_grad():
        expected = model((x - mean) / std)
        torch.testing.assert_close(Probability(model)(x), expected)
    assert (expected > 0).all() and (expected < 1).all()


def test_export_of_a_trained_fold(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    place = ["--data", "sample", "--out", str(tmp_path), "--fold", "3"]
    run, _ = parse("", [*flags("unet_resnext50", "--set", "model.options.width=4"), *place])
    small = [*flags("unet_resnext50", "--set", "model.options.width=4"), *place, "--to", str(tmp_path / "n.onnx")]
    with pytest.raises(InputError, match="run python -m pipeline.train --fold 3 --phase 224 first.* --untrained"):
        export.main(small)
    model = checkpoints.build(run.profile.model)
    torch.nn.init.constant_(model.logit[-1].bias, 20.0)  # certain of salt everywhere
    settings = {"fold": 3, "train": {"phase": {"name": "224"}}}
    with publish(run.files.weights(3, run.profile.train.last), Origin(settings, {})) as tmp:
        save_file(model.state_dict(), tmp)
    export.main(small)
    assert "fold_3/224.safetensors" in capsys.readouterr().out
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    [probs] = session.run(None, {"image": torch.rand(2, 3, 70, 90).numpy()})
    assert probs.shape == (2, 1, 70, 90) and (probs > 0.99).all()


def test_export_that_is_not_the_model_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("pipeline.salt.inspection.onnx.difference", lambda *_: float("nan"))
    with pytest.raises(InputError, match="nothing was written"):
        export.main(flags("resnet_unet", "--untrained", "--to", str(tmp_path / "n.onnx")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tool", [summary, draw, export])
@pytest.mark.parametrize(
    "change, says",
    [
        (["--encoder", "resnet43"], "unknown; did you mean"),
        (["--model", "unet"], "unknown"),
        (["--encoder", "convnext_tiny"], "strides 4, 8, 16, 32"),
    ],
)
def test_impossible_arguments_are_refused_in_words(tool, change, says, tmp_path):
    with pytest.raises(InputError, match=says):
        tool.main([*flags(), *change])


@pytest.mark.parametrize("tool", [summary, draw])
def test_too_small(tool, tmp_path):
    with pytest.raises(InputError, match="16 x 16 px is too small"):
        tool.main(flags("unet_resnext50", "--size", "16"))
