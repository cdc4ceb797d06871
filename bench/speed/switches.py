"""Training steps of UnetResNext50 with one optimisation switched off or on: what each one gains.

    python -m bench.speed.switches

Ours is the product's step, theirs the same with one thing changed: above 1x the product's choice pays, below 1x the
other would. Both are bare loops of torch; in the rows of train.compile both are the product's Learner, and one row
compares that with the loop. Each runs in a process of its own, so that settings and tuning of one do not affect the
other.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from bench.baselines import bare_loop
from bench.baselines.bare_loop import StepOptions, Steps
from bench.harness.compare import Result, compare, in_own_process
from bench.speed.train_step import SIZES, Size, batch, build_model, describe, our_steps
from pipeline.salt.device import pick_device, resolve_precision

Switch = StepOptions | dict[str, str]  # of the bare loop, or of the profile's section train
SWITCHES: dict[str, Switch] = {
    "a bare loop of torch": StepOptions(),
    "train.compile=default": {"compile": "default"},
    "train.compile=reduce-overhead": {"compile": "reduce-overhead"},
    "CUDA graph": StepOptions(cuda_graph=True),
    "fp32": StepOptions(precision="fp32"),
    "fp32 without TF32": StepOptions(precision="fp32", tf32=False),
    "channels first": StepOptions(channels_last=False),
    "optimizer not fused": StepOptions(fused=False),
    "cuDNN not tuned": StepOptions(cudnn_benchmark=False),
    "freed memory goes back to the system": StepOptions(keep_freed_memory=False),
}
ONLY = {
    "cpu": {
        "a bare loop of torch",
        "fp32",
        "channels first",
        "optimizer not fused",
        "freed memory goes back to the system",
    },
    "cuda": SWITCHES.keys() - {"freed memory goes back to the system"},
}


def run(device: torch.device, size: Size | None = None) -> Iterator[Result]:
    size = size or SIZES[device.type]
    px, tiles = size.shapes[0]

    def steps(switch: Switch):
        build = bare_steps if isinstance(switch, StepOptions) else our_steps
        return in_own_process(build, size, px, tiles, device, switch)

    with steps(StepOptions()) as loop, steps({}) as learner:
        for title, switch in SWITCHES.items():
            if title not in ONLY[device.type] or changes_nothing(switch, device):
                continue
            ours = learner if switch == StepOptions() or isinstance(switch, dict) else loop
            with skip_on_error(title), steps(switch) as theirs:
                start = time.perf_counter()
                theirs()
                first = time.perf_counter() - start
                name = f"switch: {describe(size, px, tiles)}; theirs: {title}"
                result = compare(name, ours, theirs, size.repeats, device)
                rate = size.steps / result["theirs"]
                print(f"    {rate:.2f} steps/s; the first {size.steps} took {first:.1f} s")
                yield result | {"first_seconds": first, "steps_per_second": rate}


def bare_steps(size: Size, px: int, tiles: int, device: torch.device, options: StepOptions = StepOptions()) -> Steps:
    return bare_loop.build_steps(build_model(size), options, *batch(px, tiles, device), size.steps)


def changes_nothing(switch: Switch, device: torch.device) -> bool:
    """Whether a loop differs from the product's only in another name for the same number format."""
    if isinstance(switch, dict) or switch == StepOptions():
        return False
    one, two = (vars(s) | {"precision": resolve_precision(s.precision, device)} for s in (switch, StepOptions()))
    return one == two


@contextlib.contextmanager
def skip_on_error(title: str) -> Iterator[None]:
    """Print an error and leave out the comparison: what a machine cannot do must not stop the rest."""
    try:
        yield
    except Exception as e:
        print(f"{title}: left out, {type(e).__name__}: {str(e).partition(chr(10))[0]}")


if __name__ == "__main__":
    list(run(pick_device()))
