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
OUT_OF_MEMORY = (RuntimeError, MemoryError)  # torch's for a GPU is a RuntimeError, and so is its for the CPU


def pick_device() -> torch.device:
    """The GPU if there is one that works, the first of several, else the CPU.

    A GPU too old for this build of torch (Kaggle's P100) answers is_available() with True and dies at the first
    operation, so one real convolution is run; InputError says what to choose instead.
    """
    gc.collect()  # a Learner and its callbacks hold each other, and with them the last training's memory on the GPU
    if not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    device = torch.device("cuda")
    try_out(device)
    torch.backends.cudnn.benchmark = True  # batches keep their shapes: the fastest algorithm is looked for once
    return device


def pick_devices() -> list[torch.device]:
    """Every GPU, or the CPU; InputError as pick_device has it."""
    if (device := pick_device()).type == "cpu":
        return [device]
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        try_out(device)
    return devices


def try_out(device: torch.device) -> None:
    """One real convolution. InputError where the GPU's memory is full, or this build of torch has no code for it."""
    try:
        torch.nn.Conv2d(1, 1, 3, device=device)(torch.zeros(1, 1, 8, 8, device=device)).sum().item()
    except RuntimeError as e:
        name = torch.cuda.get_device_name(device)
        if is_full(e):
            raise InputError(
                f"the memory of the {name} is full; nvidia-smi shows what has it: end that, or set "
                "CUDA_VISIBLE_DEVICES to another GPU"
            ) from e
        raise InputError(
            f"this build of torch has no code for the {name}; on Kaggle choose the accelerator GPU T4 x2, "
            "elsewhere set CUDA_VISIBLE_DEVICES= to use the CPU, or name the GPUs that work there"
        ) from e


def is_full(e: BaseException | None) -> bool:
    """Whether this error says that a GPU's memory ran out: torch's own, CUDA's before torch has any, or cuBLAS's."""
    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(e, torch.cuda.OutOfMemoryError) or any(word in str(e) for word in words)


def is_out_of_memory(e: BaseException) -> bool:
    """Whether this error says that memory ran out, a GPU's or the machine's."""
    return is_full(e) or isinstance(e, MemoryError) or "DefaultCPUAllocator" in str(e)


@contextlib.contextmanager
def enough_memory(title: str, setting: str, batch: int) -> Iterator[None]:
    """Inside it memory that runs out, a GPU's or the machine's, is an InputError that says which batch to try.

    setting  of the batch: 'predict.batch';  batch  tiles, what it is
    """
    try:
        yield
    except OUT_OF_MEMORY as e:
        # cuDNN leaves out what has too little room to work in, and may find no way at all then. To `try_out` the same
        # words mean a GPU that torch has no code for. https://github.com/pytorch/pytorch/issues/108645
        on_gpu = is_full(e) or any(word in str(e) for word in CUDNN_IS_FULL)
        if not (on_gpu or is_out_of_memory(e)):
            raise
        smaller = f"try --set {setting}={batch // 2}" if batch >= 4 else "use a smaller model or size"
        raise InputError(
            f"{title}: {'the GPU has' if on_gpu else 'there is'} too little memory for batches of {batch} tiles; "
            f"{smaller}, or end what else is using it; what was finished or saved is kept"
        ) from e


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees for what it allocates next, as torch itself does on a GPU.

    Otherwise large tensors go back to the system at the end of every step, and come again in the next one page by page,
    each filled with zeros first: a third or more of the time of a step of UnetResNext50. Measured:
    bench/speed/switches.py.
    https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def resolve_precision(precision: str, device: torch.device) -> str:
    """'auto' -> the fastest format the processor has in hardware: bf16, else fp16 on a GPU, else fp32."""
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
    """Reset peak_memory, on a GPU; on a CPU it cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """GiB: most that torch has held on the GPU since forget_peak, or that this process has had in RAM so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def move_(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device, in the layout that convolutions are fastest in."""
    return model.to(device).to(memory_format=torch.channels_last)
