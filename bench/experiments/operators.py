"""Time of a training step by operator: UnetResNext50, the lean U-Net, and the encoder alone.

    python -m bench.experiments.operators

At 128 px, in bf16 where the hardware has it: 16 tiles, a small encoder and one thread on a CPU; 32 tiles and the
article's encoder on a GPU.

writes  bench/results/<machine>.operators.md
"""

import time

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from bench.baselines.bare_loop import synchronize
from bench.experiments.decoders import MODELS, PX, TILES, training_step
from bench.harness.records import RESULTS, machine_name, provenance
from bench.speed.train_step import batch
from pipeline.salt.device import pick_device
from pipeline.salt.models.encoders.build import build_encoder

ENCODERS = {"cpu": "tf_efficientnet_lite0", "cuda": "se_resnext50_32x4d"}
BATCHES = {"cpu": TILES, "cuda": 32}
WARM_UP, STEPS, ROWS = 16, 4, 14


class EncoderAlone(nn.Module):
    """The encoder and a 1x1 convolution, the cheapest decoder there can be."""

    def __init__(self, encoder: str):
        super().__init__()
        self.encoder = build_encoder(encoder)
        self.logit = nn.Conv2d(self.encoder.channels[-1], 1, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.logit(self.encoder(x)[-1]), size=x.shape[-2:])


PROFILED = {
    "unet_resnext50, width 16, stem_skip": MODELS["unet_resnext50, width 16, stem_skip"],
    "unet_lean, width 16": MODELS["unet_lean, width 16"],
    "the encoder alone, with a 1x1 head": EncoderAlone,
}


def main() -> None:
    torch.set_num_threads(1)
    device = pick_device()
    parts = [f"# A training step by operator: {machine_name(device)}", "", f"{provenance()}", ""]
    for name, build in PROFILED.items():
        part = table(name, device, *profile_step(build(ENCODERS[device.type]), device))
        print(part, flush=True)
        parts += [part, ""]
    (RESULTS / f"{machine_name(device)}.operators.md").write_text("\n".join(parts))


def profile_step(model: nn.Module, device: torch.device, px: int = PX) -> tuple[float, list[tuple[str, float, int]]]:
    """ms per step by the clock; (operator, its own ms per step, calls per step), most expensive first.

    On a GPU an operator's ms are those of the kernels that it launches; for the rest of the time the GPU is idle.
    """
    on_gpu = device.type == "cuda"
    step = training_step(model, *batch(px, BATCHES[device.type], device))

    def steps(count: int) -> None:
        for _ in range(count):
            step()
        synchronize(device)

    steps(WARM_UP)  # until all memory is allocated
    start = time.perf_counter()
    steps(STEPS)
    clock = (time.perf_counter() - start) / STEPS * 1e3
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
        steps(STEPS)
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]  # kernels count there
    rows = [(event.key, getattr(event, own) / STEPS / 1e3, event.count // STEPS) for event in events]
    return clock, sorted(rows, key=lambda row: -row[1])


def table(name: str, device: torch.device, clock: float, rows: list[tuple[str, float, int]]) -> str:
    """The most expensive operators of a step as Markdown."""
    total = sum(ms for _, ms, _ in rows)
    lines = [
        f"### {name}",
        "",
        f"{clock:.0f} ms a step of {BATCHES[device.type]} tiles by the clock; {total:.0f} ms of operators:",
        "",
        "| operator | ms | share | calls |",
        "|---|--:|--:|--:|",
    ]
    lines += [f"| {operator} | {ms:.1f} | {ms / (total or 1):.0%} | {calls} |" for operator, ms, calls in rows[:ROWS]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
