"""Kaggle's tiles repacked without loss as 8-bit grey, 60% of their size, for a machine that little can be carried to.

    python -m bench.pack_tiles DIR .tiles [number of test tiles]

reads   DIR/train.zip, test.zip, train.csv, depths.csv, sample_submission.csv
writes  the same into .tiles; it prepares to the same cache
"""

import csv
import io
import shutil
import sys
import zipfile
from pathlib import Path

from PIL import Image


def main(source: str, target: str, test_tiles: str = "0") -> None:
    here, there = Path(source), Path(target)
    there.mkdir(parents=True, exist_ok=True)
    repack(here / "train.zip", there / "train.zip", None)
    kept = repack(here / "test.zip", there / "test.zip", int(test_tiles))
    for name in ("train.csv", "depths.csv"):
        shutil.copy(here / name, there)
    header, *rows = csv.reader((here / "sample_submission.csv").read_text().splitlines())
    with open(there / "sample_submission.csv", "w", newline="") as f:
        csv.writer(f).writerows([header, *(row for row in rows if row[0] in kept)])
    print(f"{sum(f.stat().st_size for f in there.iterdir()) / 2**20:.1f} MiB in {there}")


def repack(source: Path, target: Path, limit: int | None) -> set[str]:
    """The ids of the images that were kept; masks keep their bytes, 16-bit ones too."""
    kept: set[str] = set()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in sorted(name for name in old.namelist() if name.endswith(".png")):
            data, path = old.read(member), Path(member)
            if path.parent.name == "images":
                if len(kept) == limit:
                    break
                kept.add(path.stem)
                with io.BytesIO() as grey:
                    Image.open(io.BytesIO(data)).convert("L").save(grey, "PNG", optimize=True)
                    data = grey.getvalue()
            new.writestr(member, data)
    return kept


if __name__ == "__main__":
    main(*sys.argv[1:])
