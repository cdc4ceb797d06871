"""One's own data at real sizes, from files to mask PNGs, scored against truth that the run never saw.

docs/how-to/own-data.md has the numbers that this prints: ./run_tests.sh --soak -s tests/soak/test_own_data.py
"""

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

pytestmark = pytest.mark.soak
ROOT = Path(__file__).parents[2]
FEW = ("--set=train.64.epochs=20", "--set=train.batch=4")  # 24 images in batches of 16 are one step an epoch
FLAGS = ("--profile=demo", "--set=folds.k=2", "--set=run_folds=2", "--set=workers=1", "--set=train.96.epochs=2")


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Bent layers in noise, with two ellipses of pure noise: (H, W) float, and where the ellipses are."""
    y, x = np.mgrid[:height, :width]
    depth = y + 0.04 * height * np.sin(2 * np.pi * (x / width * rng.uniform(1, 2) + rng.random()))
    image = np.sin(2 * np.pi * depth / 14) + rng.normal(0, 0.4, (height, width))
    salt = np.zeros((height, width), bool)
    for part in (0.25, 0.75):  # one in the left half, one in the right
        centre = rng.uniform(0.4, 0.6) * height, (part + rng.uniform(-0.05, 0.05)) * width
        radii = rng.uniform(0.2, 0.35) * height, rng.uniform(0.12, 0.18) * width
        salt |= ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1
    image[salt] = rng.normal(0, 0.8, salt.sum())  # the same mean and spread
    return image, salt


def run(data: Path, out: Path, *flags: str) -> dict[str, np.ndarray]:
    """Run all stages as typed in a shell; return the masks (H, W) bool of masks.zip by image name."""
    command = [sys.executable, "-m", "pipeline", "run", f"--data={data}", f"--out={out}", "--run=own", *FLAGS, *flags]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    with zipfile.ZipFile(out / "submissions/own/masks.zip") as archive:
        return {
            Path(name).stem: np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0 for name in archive.namelist()
        }


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def folders(data: Path, *names: str) -> list[Path]:
    for name in names:
        (data / name).mkdir(parents=True)
    return [data / name for name in names]


def test_a_section_of_2000_by_3000_px_that_is_labelled_in_half(tmp_path):
    data, start = tmp_path / "section", time.time()
    images, masks = folders(data, "images", "masks")
    amplitude, truth = scene(np.random.default_rng(0), 2000, 3000)
    labels = truth.astype(np.uint8)
    labels[:, 1500:] = 255  # not labelled
    tifffile.imwrite(images / "line.tif", amplitude.astype(np.float32))
    tifffile.imwrite(masks / "line.tif", labels)
    tiling = ("--set=tiles.side=128", "--set=tiles.stride=64")
    found = run(data, tmp_path / "out", *tiling, "--set=train.64.epochs=6")
    assert [*found] == ["line"] and found["line"].shape == (2000, 3000)
    halves = [iou(found["line"][:, part], truth[:, part]) for part in (slice(1500), slice(1500, 3000))]
    print(
        f"section: IoU {halves[0]:.3f} labelled, out of fold; {halves[1]:.3f} not labelled; {time.time() - start:.0f} s"
    )
    assert min(halves) > 0.85


def test_colour_jpg_of_256_px(tmp_path):
    """Salt differs in colour but not in brightness, so grey would not do."""
    data, rng, truths, start = tmp_path / "rgb", np.random.default_rng(1), {}, time.time()
    images, masks, test = folders(data, "images", "masks", "test")
    for i in range(60):
        grey, truth = scene(rng, 256, 256)
        shift = np.where(truth[..., None], [30, 0, -79], 0)  # 0.299 * 30 = 0.114 * 79
        pixels = (128 + 40 * grey[..., None] + shift).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save((images if i < 48 else test) / f"p{i}.jpg", quality=90)
        if i < 48:
            Image.fromarray(truth * np.uint8(255)).save(masks / f"p{i}.png")
        else:
            truths[f"p{i}"] = truth
    found = run(data, tmp_path / "out", *FEW)
    scores = [iou(found[name], truth) for name, truth in truths.items()]
    assert found.keys() == truths.keys()
    print(
        f"rgb: IoU {np.mean(scores):.3f}, least {min(scores):.3f}, of {len(scores)} images; {time.time() - start:.0f} s"
    )
    assert np.mean(scores) > 0.8


def test_npy_of_200_by_300_px(tmp_path):
    """Floats of any range, not square, in Kaggle's layout."""
    data, rng, truths, start = tmp_path / "npy", np.random.default_rng(2), {}, time.time()
    images, masks, test = folders(data, "train/images", "train/masks", "test/images")
    for i in range(60):
        amplitude, truth = scene(rng, 200, 300)
        np.save((images if i < 48 else test) / f"{i:03}.npy", 1e-3 * amplitude - 7)
        if i < 48:
            np.save(masks / f"{i:03}.npy", truth)
        else:
            truths[f"{i:03}"] = truth
    found = run(data, tmp_path / "out", *FEW)
    scores = [iou(found[name], truth) for name, truth in truths.items()]
    assert found.keys() == truths.keys() and all(found[name].shape == (200, 300) for name in found)
    print(
        f"npy: IoU {np.mean(scores):.3f}, least {min(scores):.3f}, of {len(scores)} images; {time.time() - start:.0f} s"
    )
    assert np.mean(scores) > 0.8
