"""Choice of device, number format and memory, with simulated GPUs."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.salt import cli, device
from pipeline.salt.device import pick_device, pick_devices, resolve_precision
from pipeline.salt.errors import InputError
from pipeline.salt.training import fold as fold_setup

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    "error, words",
    [
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device"),
            "no code for the Tesla P100-PCIE-16GB; on Kaggle choose the accelerator GPU T4 x2",
        ),
        (RuntimeError("CUDA error: out of memory"), "the memory of the Tesla P100-PCIE-16GB is full; nvidia-smi shows"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"), "is full; nvidia-smi shows"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_what_to_do(monkeypatch, error, words):
    """Kaggle's P100 is reported as available and fails at the first operation, as does a full GPU."""

    class Conv2d:
        def __init__(self, *args, **kwargs):
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(nn, "Conv2d", Conv2d)
    with pytest.raises(InputError, match=words):
        pick_device()


def test_a_gpu_that_torch_does_not_see_is_no_reason_to_take_a_week(monkeypatch, tmp_path):
    """With an old driver, or torch without CUDA. The demo is quick on a CPU and is trained."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(fold_setup, "visible_gpus", lambda: ["0"])
    for profile, words in [
        ("blog", "profile blog needs a GPU, and torch .* cannot use the one here"),
        ("demo", "prepare"),
    ]:
        run, _ = cli.parse("", ["--data=sample", f"--out={tmp_path}", f"--profile={profile}"])
        with pytest.raises((InputError, OSError), match=words):
            fold_setup.set_up_fold(run, 0, run.profile.train.phases[0])


def test_all_gpus_or_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_devices() == [pick_device()] == [torch.device("cpu")]
    tried = []
    monkeypatch.setattr(device, "pick_device", lambda: GPU)
    monkeypatch.setattr(device, "try_out", tried.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_devices() == tried == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_a_cpu_keeps_freed_memory(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "keep_freed_memory", lambda: called.append(True))
    assert pick_device().type == "cpu" and called


@pytest.mark.parametrize("name, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)])
def test_the_number_format_is_the_one_that_is_named(name, dtype):
    with device.autocast(name, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("in_hardware, wanted", [(True, "bf16"), (False, "fp16")])
def test_bf16_only_where_a_gpu_has_it_in_hardware(monkeypatch, in_hardware, wanted):
    """On a T4, torch reports bf16 as supported unless emulation is excluded."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or in_hardware
    )
    assert resolve_precision("auto", GPU) == wanted
    assert resolve_precision("fp32", GPU) == "fp32"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator alone gives memory back so readily")
def test_a_step_takes_no_new_memory_from_the_system():
    """Page faults of 640 MB of tensors, allocated one after the other."""
    faults = """
import resource, sys, torch
from pipeline.salt.device import keep_freed_memory

def work():
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    keep_freed_memory()
before = work()
print(work() - before)
"""
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", faults, mode])) for mode in ("default", "keep")
    )
    if given_back < 10_000:
        pytest.skip("another allocator, or one with huge pages: nothing to see")
    assert kept < 100
