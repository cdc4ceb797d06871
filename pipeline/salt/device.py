"""Device, mixed precision and memory."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

import torch
from torch import nn

from pipeline.salt.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
CUDNN_IS_FULL = ("unable to find an engine", "CUDNN_STATUS_ALLOC_FAILED")
OUT_OF_MEMORY = (RuntimeError, MemoryError)  # torch's own, for GPU and CPU, are RuntimeErrors


def pick_device() -> torch.device:
    """The first GPU, or the CPU if there is none. InputError if the GPU does not work.

    With a GPU too old for this build of torch (Kaggle's P100), is_available() is True and the first operation fails, so
    one real convolution is run; the InputError says what to choose instead.
    """
    gc.collect()  # a Learner and its callbacks refer to each other, and so keep the last training's GPU memory
    if not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    device = torch.device("cuda")
    try_out(device)
    torch.backends.cudnn.benchmark = True  # batch shapes are constant: search the fastest algorithm once
    return device


def pick_devices() -> list[torch.device]:
    """Every GPU, or the CPU. InputError as in pick_device."""
    if (device := pick_device()).type == "cpu":
        return [device]
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        try_out(device)
    return devices


def try_out(device: torch.device) -> None:
    """Run one real convolution. InputError if the GPU's memory is full, or this build of torch has no code for it."""
    try:
        torch.nn.Conv2d(1, 1, 3, device=device)(torch.zeros(1, 1, 8, 8, device=device)).sum().item()
    except RuntimeError as e:
        name = torch.cuda.get_device_name(device)
        if is_full(e):
            raise InputError(
                f"the memory of the {name} is full; nvidia-smi shows what uses it: stop that, or set "
                "CUDA_VISIBLE_DEVICES to another GPU"
            ) from e
        raise InputError(
            f"this build of torch has no code for the {name}; on Kaggle choose the accelerator GPU T4 x2; "
            "elsewhere set CUDA_VISIBLE_DEVICES to the GPUs that work, or to nothing to use the CPU"
        ) from e


def is_full(e: BaseException | None) -> bool:
    """Whether this error means that GPU memory ran out: torch's own, cuBLAS's, or CUDA's before torch holds any."""
    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(e, torch.cuda.OutOfMemoryError) or any(word in str(e) for word in words)


def is_out_of_memory(e: BaseException) -> bool:
    """Whether this error means that memory ran out, a GPU's or the machine's."""
    return is_full(e) or isinstance(e, MemoryError) or "DefaultCPUAllocator" in str(e)


@contextlib.contextmanager
def enough_memory(title: str, setting: str, batch: int) -> Iterator[None]:
    """Inside it running out of memory, a GPU's or the machine's, raises an InputError that says which batch to try.

    setting  name of the batch's setting, such as 'predict.batch';  batch  its value, in tiles
    """
    try:
        yield
    except OUT_OF_MEMORY as e:
        # cuDNN skips algorithms that have too little memory to work in, and may then find none at all. In `try_out` the
        # same words mean a GPU that torch has no code for. https://github.com/pytorch/pytorch/issues/108645
        on_gpu = is_full(e) or any(word in str(e) for word in CUDNN_IS_FULL)
        if not (on_gpu or is_out_of_memory(e)):
            raise
        smaller = f"try --set {setting}={batch // 2}" if batch >= 4 else "use a smaller model or size"
        raise InputError(
            f"{title}: {'the GPU has' if on_gpu else 'there is'} too little memory for batches of {batch} tiles; "
            f"{smaller}, or stop what else is using it; what was finished or saved is kept"
        ) from e


def keep_freed_memory() -> None:
    """Make the C library reuse freed memory for new allocations, as torch itself does on a GPU.

    Otherwise large tensors are returned to the system after every step and fetched again in the next, page by page,
    each page zeroed first: a third or more of the time of a UnetResNext50 step. Measured in bench/speed/switches.py.
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def resolve_precision(precision: str, device: torch.device) -> str:
    """'auto' -> the fastest format in hardware: bf16 if the processor has it, else fp16 on a GPU, fp32 on a CPU."""
    if precision != "auto":
        if precision == "fp16" and device.type == "cpu":
            raise InputError("train.precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
        return precision
    if device.type == "cuda":  # a T4 emulates bf16, slowly
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Context in which convolutions run in `precision` ('fp32' | 'bf16' | 'fp16')."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}, {torch.backends.cpu.get_cpu_capability()}"


def forget_peak(device: torch.device) -> None:
    """Reset peak_memory on a GPU; on a CPU it cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory in GiB: torch's on the GPU since forget_peak, or this process's in RAM since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def move_(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model to the device, in channels_last, the layout in which convolutions are fastest."""
    return model.to(device).to(memory_format=torch.channels_last)
