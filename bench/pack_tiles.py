"""Repack Kaggle's tiles losslessly as 8-bit grey PNGs, 60% of their size, for a machine with a slow connection.

    python -m bench.pack_tiles DIR .tiles [number of test tiles]

reads   DIR/train.zip, test.zip, train.csv, depths.csv, sample_submission.csv
writes  the same files into .tiles, which give the same cache
"""

import csv
import io
import shutil
import sys
import zipfile
from pathlib import Path

from PIL import Image


def main(source: str, target: str, test_tiles: str = "0") -> None:
    old, new = Path(source), Path(target)
    new.mkdir(parents=True, exist_ok=True)
    repack(old / "train.zip", new / "train.zip", None)
    kept = repack(old / "test.zip", new / "test.zip", int(test_tiles))
    for name in ("train.csv", "depths.csv"):
        shutil.copy(old / name, new)
    header, *rows = csv.reader((old / "sample_submission.csv").read_text().splitlines())
    with open(new / "sample_submission.csv", "w", newline="") as f:
        csv.writer(f).writerows([header, *(row for row in rows if row[0] in kept)])
    print(f"{sum(f.stat().st_size for f in new.iterdir()) / 2**20:.1f} MiB in {new}")


def repack(source: Path, target: Path, limit: int | None) -> set[str]:
    """Write at most `limit` images of a zip as grey PNGs, the masks as they are; return the ids of the images."""
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
