"""Speed and score of decoders on one encoder and one core: ours against smp's Unet, UnetPlusPlus, FPN and Linknet.

    python -m bench.experiments.decoders                        tiles per second, in training and in prediction
    python -m bench.experiments.decoders --seconds 200          also the score of fold 0 after that many CPU seconds
                                                                (SALT_TILES names the tiles, SALT_WEIGHTS the weights)

All train alike: symmetric Lovasz, AdamW, bf16 where the processor has it, channels last, and the quick depthwise
convolutions of pipeline.salt.training.depthwise; 16 tiles of 128 px on one thread. Seconds are CPU time.
smp  Iakubovskii 2019, https://github.com/qubvel-org/segmentation_models.pytorch

writes  bench/results/<machine>.decoders.json
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.baselines.bare_loop import StepOptions, build_steps
from bench.experiments.ablation import summarize
from bench.experiments.models import Budget, train_for
from bench.harness.records import RESULTS, machine_name, provenance, write_record
from bench.speed.train_step import batch
from pipeline.salt.device import autocast, pick_device, resolve_precision
from pipeline.salt.metrics import tile_scores
from pipeline.salt.models import build_model
from pipeline.salt.models.encoders.weights import find_weights, load_imagenet
from pipeline.salt.training.depthwise import speed_up_depthwise_

ENCODERS = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
PX, TILES, WARM_UP, REPEATS = 128, 16, 3, 7


class Smp(nn.Module):
    """A model of smp, called and trained like ours."""

    def __init__(self, name: str, encoder: str):
        super().__init__()
        import segmentation_models_pytorch as smp

        self.model = getattr(smp, name)(f"tu-{encoder}", encoder_weights=None)
        self.encoder = self.model.encoder
        self.encoder.name, self.encoder.mean, self.encoder.std = encoder, (0.5,) * 3, (0.5,) * 3

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


MODELS: dict[str, Callable[[str], nn.Module]] = {
    "unet_resnext50, width 16, stem_skip": lambda encoder: build_model(
        "unet_resnext50", encoder, {"width": 16, "stem_skip": True}
    ),
    "unet_lean, width 8": lambda encoder: build_model("unet_lean", encoder, {"width": 8}),
    "unet_lean, width 16": lambda encoder: build_model("unet_lean", encoder, {"width": 16}),
    "unet_lean, width 32": lambda encoder: build_model("unet_lean", encoder, {"width": 32}),
    "smp Unet": lambda encoder: Smp("Unet", encoder),
    "smp UnetPlusPlus": lambda encoder: Smp("UnetPlusPlus", encoder),
    "smp FPN": lambda encoder: Smp("FPN", encoder),
    "smp Linknet": lambda encoder: Smp("Linknet", encoder),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.0, help="CPU time to train each model (default: none)")
    parser.add_argument("--encoder", choices=ENCODERS, action="append", help="only this one")
    parser.add_argument("--model", choices=MODELS, action="append", metavar="NAME", help="only this one")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = pick_device()
    path = RESULTS / f"{machine_name(device)}.decoders.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for encoder in args.encoder or ENCODERS:
        for name in args.model or MODELS:
            try:
                row = measure(name, encoder, args.seconds, device)
            except ImportError:
                print(f"{name}: segmentation_models_pytorch is not installed")
                continue
            rows = [old for old in rows if (old["model"], old["encoder"]) != (name, encoder)] + [row]
            print({key: value for key, value in row.items() if key != "by_tile"}, flush=True)
            record = {"machine": machine_name(device), **provenance(), "px": PX, "tiles": TILES, "rows": rows}
            write_record(path, record)


def measure(name: str, encoder: str, budget: float, device: torch.device) -> dict:
    """Tiles per second of one model; with a budget in seconds also its score, trained as in experiments.models."""
    x, masks = batch(PX, TILES, device)
    model = build(name, encoder)
    row = {
        "model": name,
        "encoder": encoder,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train": round(TILES / seconds(training_step(model, x, masks)), 1),
        "predict": round(TILES / seconds(prediction_step(model, x)), 1),
    }
    if budget:
        masks, truth, schedule = train_for(build(name, encoder), Budget(seconds=budget), time.process_time)
        scores = summarize(tile_scores(masks, truth), masks, truth)
        row |= {"seconds": budget, "trained": schedule.tiles, **scores}
    return row


def build(name: str, encoder: str) -> nn.Module:
    """Build the model, its encoder with ImageNet weights if SALT_WEIGHTS has them."""
    torch.manual_seed(0)
    model, folder = MODELS[name](encoder), os.environ.get("SALT_WEIGHTS")
    if folder and isinstance(model, Smp):
        weights = load_file(find_weights(encoder, Path(folder)))
        model.encoder.model.load_state_dict({key: weights[key] for key in model.encoder.model.state_dict()})
    elif folder:
        load_imagenet(model.encoder, Path(folder))
    return model


def training_step(model: nn.Module, x: Tensor, masks: Tensor) -> Callable[[], object]:
    return build_steps(speed_up_depthwise_(model), StepOptions(), x, masks, count=1)


def prediction_step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    model, x = model.eval(), x.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def step() -> None:
        with autocast(resolve_precision("auto", x.device), x.device):
            model(x)

    return step


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call, the median of REPEATS."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times[WARM_UP:])


if __name__ == "__main__":
    main()
