"""Training steps of UnetResNext50 with one switch turned: what each of the tricks gives.

    python -m bench.speed.switches

Ours is the product's way, theirs the same with one thing changed: above 1x the product's way pays, below 1x the other
would. Both are bare loops of torch; in the rows of train.compile both are the product's Learner, and one row holds that
against the loop. Each has a process of its own: what one sets up or tunes stays with it.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from bench.baselines import bare_loop
from bench.baselines.bare_loop import Steps, Way
from bench.harness.compare import Result, compare, elsewhere
from bench.speed.train_step import SIZES, Size, batch, network, our_steps, said
from pipeline.salt.device import pick_device, resolve_precision

SWITCHES: dict[str, Way | dict[str, str]] = {  # in the bare loop, or in the profile's section train
    "a bare loop of torch": Way(),
    "train.compile=default": {"compile": "default"},
    "train.compile=reduce-overhead": {"compile": "reduce-overhead"},
    "CUDA graph": Way(graph=True),
    "fp32": Way(precision="fp32"),
    "fp32 without TF32": Way(precision="fp32", tf32=False),
    "channels first": Way(channels_last=False),
    "optimizer not fused": Way(fused=False),
    "cuDNN not tuned": Way(tuned=False),
    "freed memory goes back to the system": Way(kept=False),
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


class Switched(Result):
    first: float  # s, until the first measurement was done: compiling and recording are in it
    per_second: float  # steps, with the change


def run(device: torch.device, size: Size | None = None) -> Iterator[Switched]:
    size = size or SIZES[device.type]
    px, tiles = size.shapes[0]

    def steps(way: Way | dict[str, str]):
        return elsewhere(bare_steps if isinstance(way, Way) else our_steps, size, px, tiles, device, way)

    with steps(Way()) as loop, steps({}) as learner:
        for title, way in SWITCHES.items():
            if title not in ONLY[device.type] or same_here(way, device):
                continue
            usual = learner if way == Way() or isinstance(way, dict) else loop
            with left_out_if_it_fails(title), steps(way) as other:
                start = time.perf_counter()
                other()
                first = time.perf_counter() - start
                result = compare(
                    f"switch: {said(size, px, tiles)}; theirs: {title}", usual, other, size.repeats, device
                )
                per_second = size.steps / result["theirs"]
                print(f"    {per_second:.2f} steps/s; the first {size.steps} took {first:.1f} s")
                yield Switched(**result, first=first, per_second=per_second)


def bare_steps(size: Size, px: int, tiles: int, device: torch.device, way: Way = Way()) -> Steps:
    return bare_loop.steps(network(size), way, *batch(px, tiles, device), size.steps)


def same_here(way: Way | dict[str, str], device: torch.device) -> bool:
    """Whether a changed loop differs from the product's in nothing but a name for the same number format."""
    if isinstance(way, dict) or way == Way():
        return False
    one, two = (vars(w) | {"precision": resolve_precision(w.precision, device)} for w in (way, Way()))
    return one == two


@contextlib.contextmanager
def left_out_if_it_fails(title: str) -> Iterator[None]:
    """What a machine cannot do must not cost it the other numbers."""
    try:
        yield
    except Exception as e:
        print(f"{title}: left out, {type(e).__name__}: {str(e).partition(chr(10))[0]}")


if __name__ == "__main__":
    list(run(pick_device()))
