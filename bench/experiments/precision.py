"""Does the short number format cost score? Short trainings of profile cpu in bf16 and in fp32, from the same seeds.

    SALT_WEIGHTS=DIR python -m bench.experiments.precision TILES WORK

TILES is Kaggle's folder; WORK keeps the trainings, one that is there is not done again. Each is scored on the tiles
that its folds left out, after the last epoch, without flips.

writes  bench/results/<machine>.precision.json
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

from bench.__main__ import RESULTS
from bench.harness.compare import circumstances, machine
from pipeline.salt.artifacts import Files
from pipeline.salt.config import PROFILES
from pipeline.salt.device import pick_device
from pipeline.salt.launch.local import python_path

FORMATS = ("bf16", "fp32")
SEEDS = tuple(range(100, 900, 100))
SIZE, EPOCHS = 64, 4  # three minutes a training, where the whole profile takes an hour


def main(tiles: str, work: str) -> None:
    rows = []
    for seed in SEEDS:
        scores = {
            name: score(Path(tiles).resolve(), Path(work, f"{name}_{seed}").resolve(), name, seed) for name in FORMATS
        }
        rows.append({"seed": seed, **scores})
        print(f"seed {seed}: " + ", ".join(f"{name} {scores[name]:.4f}" for name in FORMATS), flush=True)
    record = {
        "machine": machine(pick_device()),
        **circumstances(),
        "size": SIZE,
        "epochs": EPOCHS,
        "rows": rows,
        **compared([row["bf16"] - row["fp32"] for row in rows]),
    }
    print(f"bf16 is {record['difference']:+.4f} from fp32, standard error {record['standard_error']:.4f}")
    path = RESULTS / f"{record['machine']}.precision.json"
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def score(tiles: Path, out: Path, precision: str, seed: int) -> float:
    """Mean over the folds of a training that is done now, or was before."""
    flags = [
        "--profile=cpu",
        f"--data={tiles}",
        f"--out={out}",
        f"--set=train.128.size={SIZE}",
        f"--set=train.{SIZE}.epochs={EPOCHS}",
        f"--set=train.seed={seed}",
        f"--set=train.precision={precision}",
    ]
    if weights := os.environ.get("SALT_WEIGHTS"):
        flags.append(f"--weights={weights}")
    for stage in ("prepare", "make_folds", "train"):
        subprocess.run(
            [sys.executable, "-P", "-m", f"pipeline.{stage}", *flags],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": python_path()},
        )
    files = Files(out, tiles.name, "cpu")
    folds = range(PROFILES["cpu"].run_folds)
    return statistics.mean(pd.read_csv(files.history(fold, SIZE))["meanap"].iloc[-1] for fold in folds)


def compared(differences: list[float]) -> dict[str, float]:
    """Mean of paired differences, and its standard error."""
    return {
        "difference": round(statistics.mean(differences), 5),
        "standard_error": round(statistics.stdev(differences) / len(differences) ** 0.5, 5),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
