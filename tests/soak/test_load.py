"""50,000 labelled and 100,000 other tiles through every stage: bounded memory, linear time. Prints a table.

SALT_LOAD=0.1 takes a tenth of them.
"""

import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.salt import rle
from pipeline.salt.tiles import competition

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc"),
]
SHARE = float(os.environ.get("SALT_LOAD", "1"))
TRAIN, TEST = round(50_000 * SHARE), round(100_000 * SHARE)
FLAGS = (
    "--profile=demo",
    "--set=run_folds=1",
    "--set=folds.k=5",
    "--set=workers=1",
    "--set=train.64.size=32",
    "--set=train.96.size=48",
    "--set=train.epochs=1",
    "--set=model.options.width=8",
)
STAGES = ("prepare", "make_folds", "train", "predict", "submit", "report")
# Arrays of tiles lie in files, what grows is a row of a table; prepare has the names in the zips as well, and training
# the labelled tiles themselves, on its device, as they were and resized.
KIB_A_TILE = {"prepare": 4, "train": 12}
MARGIN = 1.5  # times as long, a tile, as with a quarter of the tiles: another machine's work comes between


def test_every_stage_in_bounded_memory_and_linear_time(tmp_path, sample_of):
    small, large = (run_all(tmp_path / str(part), *sample_of(part)) for part in (4, 1))
    rows = [f"{'stage':<12}{'seconds':>10}{'a quarter':>11}{'MiB':>8}{'a quarter':>11}"]
    for stage in STAGES:
        (a_time, a_memory), (b_time, b_memory) = large[stage], small[stage]
        rows.append(f"{stage:<12}{a_time:>10.0f}{b_time:>11.0f}{a_memory:>8.0f}{b_memory:>11.0f}")
    print(f"\n{TRAIN} + {TEST} tiles, and a quarter of them\n" + "\n".join(rows))
    started = min(seconds for seconds, _ in small.values())  # importing and nothing else
    for stage in STAGES:
        assert large[stage][0] - started < 4 * MARGIN * max(small[stage][0] - started, 5), stage
        grown = (large[stage][1] - small[stage][1] - 100) * 1024 / (TRAIN + TEST) / 0.75
        assert grown < KIB_A_TILE.get(stage, 1), stage


def run_all(out: Path, data: Path, train: int, test: int) -> dict[str, tuple[float, float]]:
    """For each stage its seconds, and its peak memory in MiB, without what is mapped from files."""
    measured = {}
    for stage in STAGES:
        command = [sys.executable, "-m", f"pipeline.{stage}", f"--data={data}", f"--out={out}", *FLAGS]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            peak = [0.0]
            watch = threading.Thread(target=watch_memory, args=(process, peak))
            watch.start()
            printed, _ = process.communicate()
            watch.join()
        assert process.returncode == 0, f"{stage}: {printed[-2000:]}"
        measured[stage] = time.perf_counter() - start, peak[0]
        print(f"{stage:<12} {train} + {test} tiles: {measured[stage][0]:.0f} s, {peak[0]:.0f} MiB", flush=True)
    submission = pd.read_csv(out / "submissions" / "demo" / "submission.csv.gz")
    assert len(submission) == test and submission["id"].is_unique
    return measured


def watch_memory(process: subprocess.Popen, peak_: list[float]) -> None:
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        if "RssAnon:" in status:  # not while it ends
            peak_[0] = max(peak_[0], int(status.split("RssAnon:")[1].split()[0]) / 1024)
        time.sleep(0.1)


@pytest.fixture
def sample_of(made_once, tmp_path):
    """sample_of(part) -> folder in Kaggle's layout with 1/part of the tiles, number of labelled and of other ones."""
    known, _ = competition.read(made_once)
    side = known.train_images.shape[1]

    def png(array: np.ndarray) -> bytes:
        data = io.BytesIO()
        Image.fromarray(array).save(data, "png", compress_level=1)
        return data.getvalue()

    def sample(part: int) -> tuple[Path, int, int]:
        rng, folder = np.random.default_rng(part), tmp_path / f"tiles{part}"
        train, test = TRAIN // part, TEST // part
        ids = [f"{number:06x}" for number in range(train + test)]
        codes = ["1 1"] * len(ids)
        folder.mkdir()
        with (
            zipfile.ZipFile(folder / "train.zip", "w") as train_zip,
            zipfile.ZipFile(folder / "test.zip", "w") as test_zip,
        ):
            for number, tile in enumerate(ids):
                chosen, shift = rng.integers(len(known.train_images)), rng.integers(side, size=2)
                image = np.roll(known.train_images[chosen], shift, (0, 1))
                image = image + rng.integers(0, 3, image.shape, np.uint8)  # no two alike
                (train_zip if number < train else test_zip).writestr(f"images/{tile}.png", png(image))
                if number < train:
                    mask = np.roll(known.train_masks[chosen], shift, (0, 1))
                    train_zip.writestr(f"masks/{tile}.png", png(np.uint8(255) * mask))
                    [codes[number]] = rle.encode(mask[None])
        table = pd.DataFrame({"id": ids, "rle_mask": codes, "z": rng.integers(50, 960, len(ids))})
        table[["id", "rle_mask"]][:train].to_csv(folder / "train.csv", index=False)
        table[["id", "rle_mask"]][train:].to_csv(folder / "sample_submission.csv", index=False)
        table[["id", "z"]].to_csv(folder / "depths.csv", index=False)
        return folder, train, test

    return sample
