"""Scores of trainings in bf16 and in fp32 from the same seeds: does the shorter format lower the score?

    SALT_WEIGHTS=DIR python -m bench.experiments.precision TILES WORK

TILES is Kaggle's folder; WORK keeps the trainings, one run each, and finished ones are not repeated. They are short
trainings of profile cpu, each scored after the last epoch on the tiles that its folds held out, without flips.

writes  bench/results/<machine>.precision.json
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

from bench.harness.records import RESULTS, machine_name, provenance, write_record
from pipeline.salt.config import PROFILES
from pipeline.salt.device import pick_device
from pipeline.salt.launch.local import python_path
from pipeline.salt.overrides import changed
from pipeline.salt.run import Files

FORMATS = ("bf16", "fp32")
SEEDS = tuple(range(100, 900, 100))
SIZE, EPOCHS = 64, 4  # three minutes per training; the whole profile takes 45


def main(tiles: str, work: str) -> None:
    rows = []
    for seed in SEEDS:
        scores = {
            precision: score(Path(tiles).resolve(), Path(work).resolve(), precision, seed) for precision in FORMATS
        }
        rows.append({"seed": seed, **scores})
        print(f"seed {seed}: " + ", ".join(f"{precision} {scores[precision]:.4f}" for precision in FORMATS), flush=True)
    record = {
        "machine": machine_name(pick_device()),
        **provenance(),
        "size": SIZE,
        "epochs": EPOCHS,
        "rows": rows,
        **paired_difference([row["bf16"] - row["fp32"] for row in rows]),
    }
    print(f"bf16 is {record['difference']:+.4f} from fp32, standard error {record['standard_error']:.4f}")
    write_record(RESULTS / f"{record['machine']}.precision.json", record)


def score(tiles: Path, out: Path, precision: str, seed: int) -> float:
    """Mean score over the folds of one training, which runs now unless it is finished."""
    run = f"{precision}_{seed}"
    settings = (f"train.size={SIZE}", f"train.epochs={EPOCHS}", f"train.seed={seed}", f"train.precision={precision}")
    flags = ["--profile=cpu", f"--data={tiles}", f"--out={out}", f"--run={run}", *(f"--set={s}" for s in settings)]
    if weights := os.environ.get("SALT_WEIGHTS"):
        flags.append(f"--weights={weights}")
    for stage in ("prepare", "make_folds", "train"):
        subprocess.run(
            [sys.executable, "-P", "-m", f"pipeline.{stage}", *flags],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": python_path()},
        )
    files, profile = Files(out, tiles.name, run), changed(PROFILES["cpu"], *settings)
    histories = [files.history(fold, profile.train.last) for fold in range(profile.run_folds)]
    return statistics.mean(pd.read_csv(path)["meanap"].iloc[-1] for path in histories)


def paired_difference(differences: list[float]) -> dict[str, float]:
    """Mean of the differences, and its standard error."""
    return {
        "difference": round(statistics.mean(differences), 5),
        "standard_error": round(statistics.stdev(differences) / len(differences) ** 0.5, 5),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
