"""The three commands that look into a network, on every network."""

from xml.etree import ElementTree

import pytest
import torch

from pipeline.salt.artifacts import origin
from pipeline.salt.cli import parse
from pipeline.salt.errors import InputError
from pipeline.salt.models import MODELS
from pipeline.salt.training import checkpoints
from pipeline.tools import draw, export, summary


def flags(tmp_path, model: str = "unet_resnext50", *more: str) -> list[str]:
    return [
        "--profile",
        "blog",
        "--data",
        "sample",
        "--out",
        str(tmp_path),
        "--model",
        model,
        "--encoder",
        "test_resnet",
        *more,
    ]


@pytest.mark.parametrize("model", MODELS)
def test_summary(model, tmp_path, capsys):
    summary.main(flags(tmp_path, model, "--size", "64"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model} on test_resnet, one image of 64 x 64 px"
    assert lines[2].split() == ["part", "layers", "output", "parameters", "trainable", "multiply-adds"]
    assert len({len(line) for line in lines[2:]}) == 1 and len(lines[2]) <= 120  # aligned, and within a terminal
    with torch.device("meta"):
        network = checkpoints.network(parse("", flags(tmp_path, model))[0].profile.model)
    parameters = sum(p.numel() for p in network.parameters())
    assert lines[-1].split()[:3] == ["total", f"{parameters:,}", f"{parameters:,}"]


@pytest.mark.parametrize("model", MODELS)
def test_draw(model, tmp_path, capsys):
    draw.main(flags(tmp_path, model, "--size", "64", "--to", str(tmp_path / "net.svg")))
    svg = (tmp_path / "net.svg").read_text()
    ElementTree.fromstring(svg)
    assert f"{model} on test_resnet" in svg and "1 × 64 × 64" in svg
    assert capsys.readouterr().out == f"drawn    {tmp_path / 'net.svg'}\n"


@pytest.mark.parametrize("model", MODELS)
def test_export(model, tmp_path, capsys, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export.main(flags(tmp_path, model, "--untrained"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[:3]] == ["101", "128", "224"]
    graph = onnx.load(tmp_path / f"{model}.onnx").graph
    dims = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert dims == [["batch", 3, "height", "width"], ["batch", 1, "height", "width"]]
    assert [file.name for file in tmp_path.iterdir()] == [f"{model}.onnx"]


def test_export_of_a_trained_fold(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    small = flags(
        tmp_path, "unet_resnext50", "--set", "model.options.width=4", "--fold", "3", "--to", str(tmp_path / "n.onnx")
    )
    with pytest.raises(InputError, match="fold 3 is not trained at 224 px.* --untrained"):
        export.main(small)
    run, _ = parse("", small[:-2])
    model = checkpoints.network(run.profile.model)
    torch.nn.init.constant_(model.logit[-1].bias, 20.0)  # certain of salt everywhere
    checkpoints.save(run.files.checkpoint(3, 224, "best"), origin({}), model.state_dict())
    export.main(small)
    assert "fold_3/224.safetensors" in capsys.readouterr().out
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "n.onnx")
    [found] = session.run(None, {"image": torch.rand(2, 3, 70, 90).numpy()})
    assert found.shape == (2, 1, 70, 90) and (found > 0.99).all()


def test_export_that_is_not_the_network_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.salt.inspection.onnx.difference", lambda *_: float("nan"))
    with pytest.raises(InputError, match="nothing was written"):
        export.main(flags(tmp_path, "resnet_unet", "--untrained", "--to", str(tmp_path / "n.onnx")))
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
def test_words_for_what_cannot_be(tool, change, says, tmp_path):
    with pytest.raises(InputError, match=says):
        tool.main([*flags(tmp_path), *change])


@pytest.mark.parametrize("tool", [summary, draw])
def test_too_small(tool, tmp_path):
    with pytest.raises(InputError, match="16 x 16 px is too small"):
        tool.main(flags(tmp_path, "unet_resnext50", "--size", "16"))
