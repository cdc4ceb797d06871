"""The score of 400 tiles and the codes of 18,000 masks: in one batch against one tile at a time.

    python -m bench.metric_rle
"""
import torch

from bench.baselines import metric as plain_metric
from bench.baselines import rle as plain_rle
from bench.harness import Result, blobs, compare
from pipeline.salt import metrics, rle
from pipeline.salt.device import pick_device

CPU = torch.device("cpu")


def run(device: torch.device) -> list[Result]:
    truth = blobs(400, 101, device)
    pred = truth.roll(5, dims=-1)
    ours = lambda: metrics.meanap(pred, truth).item()       # noqa: E731
    masks = blobs(18_000, 101).numpy()
    return [
        compare("score of 400 tiles; theirs: histogram a tile",
                ours, lambda: plain_metric.meanap_by_histogram(pred, truth), 7, device),
        compare("score of 400 tiles; theirs: numpy a tile",
                ours, lambda: plain_metric.meanap(pred, truth), 15, device),
        compare("codes of 18,000 masks; theirs: loop over pixels",
                lambda: rle.encode(masks), lambda: list(map(plain_rle.encode_by_pixel, masks)), 3, CPU),
        compare("codes of 18,000 masks; theirs: numpy a tile",
                lambda: rle.encode(masks), lambda: list(map(plain_rle.encode, masks)), 5, CPU),
    ]


if __name__ == "__main__":
    run(pick_device())
