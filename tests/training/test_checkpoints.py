"""Weights on disk: bit for bit, and refused with a sentence if they do not fit."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline.salt.config import Model
from pipeline.salt.errors import InputError
from pipeline.salt.training import checkpoints


def model_of(width: int = 8):
    return checkpoints.build(Model(encoder="test_resnet", weights="none", options={"width": width}))


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path, model = tmp_path / "64.safetensors", model_of()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path, model


def test_weights_come_back_bit_for_bit(saved):
    path, model = saved
    torch.manual_seed(1)
    other = model_of()
    assert checkpoints.load(path, other) is other
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_same_weights_are_the_same_bytes(saved, tmp_path):
    """Otherwise repeating a training would make all later artifacts outdated."""
    path, model = saved
    for again in range(4):
        weights = {k: v.contiguous() for k, v in reversed(model.state_dict().items())}
        save_file(weights, tmp_path / f"{again}.safetensors")
        assert (tmp_path / f"{again}.safetensors").read_bytes() == path.read_bytes()


def test_weights_of_another_architecture_are_refused_and_change_nothing(saved):
    path, _ = saved
    other = model_of(width=16)
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
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=rf"1 of {len(model.state_dict())} arrays differ, such as {name}"):
        checkpoints.load(tmp_path / "x.safetensors", model_of())


@pytest.mark.parametrize("keep", [0, 4, 1000, -10])
def test_a_damaged_file_is_refused(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"64\.safetensors cannot be read .*--force") as e:
        checkpoints.load(path, model_of())
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "64.safetensors", model_of())


def test_nothing_is_unpickled(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "64.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.load(tmp_path / "64.safetensors", model_of())


@pytest.mark.parametrize(
    "model, words",
    [
        (Model(name="unet_resnext5", encoder="test_resnet"), "unet_resnext5"),
        (Model(encoder="test_resnett"), "test_resnett"),
        (Model(encoder="test_resnet", options={"widht": 8}), "widht"),
    ],
)
def test_a_model_nobody_knows_is_said(model, words):
    with pytest.raises(InputError, match=words):
        checkpoints.build(model)


def test_a_model_whose_output_is_no_salt_logit_is_refused():
    with pytest.raises(InputError, match=r"y_range=.*does not give one unbounded logit per pixel"):
        checkpoints.build(Model(name="dynamic_unet", encoder="resnet34", options={"y_range": (0, 1)}))
