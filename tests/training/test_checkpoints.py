"""Weights on disk: bit for bit, with their story, and refused in words where they do not fit."""

import json

import pytest
import torch
from safetensors import safe_open

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin
from pipeline.salt.config import Model
from pipeline.salt.errors import InputError
from pipeline.salt.training import checkpoints

ORIGIN = Origin({"lr": 1}, {})


def network(width: int = 8):
    return checkpoints.network(Model(encoder="test_resnet", weights="none", options={"width": width}))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path, model = tmp_path / "64.safetensors", network()
    checkpoints.save(
        path,
        ORIGIN,
        {k: v.contiguous() for k, v in model.state_dict().items()},
        profile="demo",
        fold=2,
        epoch=7,
        score=0.75,
    )
    return path, model


def test_weights_come_back_bit_for_bit(saved):
    path, model = saved
    torch.manual_seed(1)
    other = network()
    assert checkpoints.load(path, other) is other
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_file_tells_its_story(saved):
    path, _ = saved
    with safe_open(path, framework="pt") as f:
        notes = f.metadata()
    assert (notes["profile"], notes["fold"], notes["epoch"], notes["score"]) == ("demo", "2", "7", "0.75")
    assert notes["fingerprint"] == ORIGIN.key() and "torch" in json.loads(notes["versions"])
    assert artifacts.read_sidecar(path)["score"] == 0.75 and artifacts.is_fresh(path, ORIGIN)


def test_the_same_weights_are_the_same_bytes(saved, tmp_path):
    """Or a training that is redone would make everything after it stale."""
    path, model = saved
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    for again in range(4):
        other = tmp_path / f"{again}.safetensors"
        checkpoints.save(other, ORIGIN, weights, profile="demo", fold=2, epoch=7, score=0.75, device="Tesla™ T4")
    assert len({(tmp_path / f"{again}.safetensors").read_bytes() for again in range(4)}) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as f:
        assert f.metadata()["device"] == "Tesla™ T4" and torch.equal(
            f.get_tensor("logit.0.0.weight"), weights["logit.0.0.weight"]
        )


def test_weights_of_another_architecture_are_refused_and_change_nothing(saved):
    path, _ = saved
    other = network(width=16)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(
        InputError, match=r"64\.safetensors holds weights of another architecture than UnetResNext50 .*--encoder"
    ):
        checkpoints.load(path, other)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_arrays_too_few_or_too_many_are_refused(saved, tmp_path, change):
    _, model = saved
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    if change == "missing":
        name = sorted(weights)[3]
        del weights[name]
    else:
        name = "head.weight"
        weights[name] = torch.zeros(1)
    checkpoints.save(tmp_path / "x.safetensors", ORIGIN, weights)
    with pytest.raises(InputError, match=rf"1 of {len(model.state_dict())} arrays differ, among them {name}"):
        checkpoints.load(tmp_path / "x.safetensors", network())


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_a_damaged_file_is_refused(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"64\.safetensors cannot be read .*--force") as e:
        checkpoints.load(path, network())
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "64.safetensors", network())


def test_nothing_is_unpickled(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "64.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "64.safetensors", network())


@pytest.mark.parametrize(
    "model, words",
    [
        (Model(name="unet_resnext5", encoder="test_resnet"), "unet_resnext5"),
        (Model(encoder="test_resnett"), "test_resnett"),
        (Model(encoder="test_resnet", options={"widht": 8}), "widht"),
    ],
)
def test_a_network_nobody_knows_is_said(model, words):
    with pytest.raises(InputError, match=words):
        checkpoints.network(model)
