"""Time of a training step by operator: UnetResNext50 on a small encoder, the lean U-Net, and the encoder alone.

    python -m bench.experiments.operators

One thread, batches of 16 tiles at 128 px, bf16 where the processor has it.

writes  bench/results/<machine>.operators.md
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from bench.experiments.decoders import MODELS, PX, TILES, training_step
from bench.harness.records import RESULTS, machine_name, provenance
from bench.speed.train_step import batch
from pipeline.salt.device import pick_device
from pipeline.salt.models.encoders.build import build_encoder

ENCODER, WARM_UP, STEPS, ROWS = "tf_efficientnet_lite0", 16, 4, 14


class EncoderAlone(nn.Module):
    """The encoder and a 1x1 convolution: no decoder takes less."""

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
        part = table(name, profile_step(build(ENCODER), device))
        print(part, flush=True)
        parts += [part, ""]
    (RESULTS / f"{machine_name(device)}.operators.md").write_text("\n".join(parts))


def profile_step(model: nn.Module, device: torch.device, px: int = PX) -> list[tuple[str, float, int]]:
    """(operator, ms of its own in a step, calls in a step), most expensive first."""
    step = training_step(model, *batch(px, TILES, device))
    for _ in range(WARM_UP):  # until the memory it needs is all there
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    events = profiler.key_averages()
    rows = [(event.key, event.self_cpu_time_total / STEPS / 1e3, event.count // STEPS) for event in events]
    return sorted(rows, key=lambda row: -row[1])


def table(name: str, rows: list[tuple[str, float, int]]) -> str:
    """A step in Markdown, its most expensive operators."""
    total = sum(ms for _, ms, _ in rows)
    lines = [
        f"### {name}",
        "",
        f"{total:.0f} ms a step of {TILES} tiles.",
        "",
        "| operator | ms | share | calls |",
        "|---|--:|--:|--:|",
    ]
    lines += [f"| {operator} | {ms:.1f} | {ms / total:.0%} | {calls} |" for operator, ms, calls in rows[:ROWS]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
