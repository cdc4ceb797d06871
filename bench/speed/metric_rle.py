"""The score of 400 tiles and the run-length codes of 18,000 masks: in one batch against one tile at a time.

python -m bench.speed.metric_rle
"""

from collections.abc import Callable

import torch

from bench.baselines import metric as plain_metric
from bench.baselines import rle as plain_rle
from bench.harness.compare import Result, compare
from bench.harness.tiles import random_masks
from pipeline.salt import metrics, rle
from pipeline.salt.device import pick_device

CPU = torch.device("cpu")


def run(device: torch.device) -> list[Result]:
    truth = random_masks(400, 101, device)
    pred = truth.roll(5, dims=-1)
    masks = random_masks(18_000, 101).numpy()

    def score() -> float:
        if device.type == "cpu":
            return float(metrics.meanap(pred.numpy(), truth.numpy()))
        return metrics.meanap(pred, truth).item()

    def score_by(meanap: Callable) -> Callable[[], float]:
        return lambda: meanap(pred.cpu().numpy(), truth.cpu().numpy())

    return [
        compare(
            "score of 400 tiles; theirs: histogram a tile", score, score_by(plain_metric.meanap_by_histogram), 7, device
        ),
        compare("score of 400 tiles; theirs: numpy a tile", score, score_by(plain_metric.meanap), 15, device),
        compare(
            "codes of 18,000 masks; theirs: loop over pixels",
            lambda: rle.encode(masks),
            lambda: list(map(plain_rle.encode_by_pixel, masks)),
            3,
            CPU,
        ),
        compare(
            "codes of 18,000 masks; theirs: numpy a tile",
            lambda: rle.encode(masks),
            lambda: list(map(plain_rle.encode, masks)),
            5,
            CPU,
        ),
    ]


if __name__ == "__main__":
    run(pick_device())
