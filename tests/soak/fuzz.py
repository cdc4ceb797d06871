"""Coverage-guided fuzzing of the file readers, with atheris:

    python -m tests.soak.fuzz png CORPUS -max_total_time=60

Whatever the bytes, reading must end in arrays of the documented shape and type, or in an InputError. Arguments after
CORPUS, a folder that grows, go to libFuzzer. Inputs that break this are saved as crash-*; they belong in tests/bad/.
"""

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris
from tqdm import tqdm

DECODERS = ["PIL", "pipeline", "tifffile" if "tif" in sys.argv else "zipfile"]  # tifffile's 25,000 lines take minutes
with atheris.instrument_imports(include=DECODERS):
    import zipfile  # noqa: F401

    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin  # noqa: F401
    import tifffile  # noqa: F401

    from pipeline.salt.config import Tiling
    from pipeline.salt.errors import InputError
    from pipeline.salt.tiles import Tiles, competition, files, folder
    from tests.bad import builders, kaggle, own


warnings.simplefilter("ignore")  # of Pillow, for pictures of 90 Mpx
SCRATCH = Path(tempfile.mkdtemp(prefix="fuzz-"))


def png(data: bytes) -> None:
    """A tile, without the folder around it."""
    for decode in (competition._grey, competition._mask):
        faults, bar = files.Faults(), tqdm(disable=True)
        tiles = dict(competition._decoded("train/images", {"a": ("a.png", lambda: data)}, decode, bar, faults))
        assert len(tiles) + faults.total() == 1
        assert all(pixels.shape == (101, 101) and pixels.dtype in ("uint8", "bool") for pixels in tiles.values())


def in_folder(name: str, whole: Callable[[Path], Path], read: Callable[[Path], Tiles]) -> Callable[[bytes], None]:
    """The bytes as one file of a complete data set."""
    place = whole(SCRATCH / name.replace("/", "-"))
    for other in place.glob(f"{name.rpartition('.')[0]}.*"):
        other.unlink()

    def target(data: bytes) -> None:
        (place / name).write_bytes(data)
        with contextlib.suppress(InputError):
            tiles = read(place)
            n, height, width = tiles.train_images.shape[:3]
            assert tiles.train_masks.shape == (n, height, width) and tiles.train_images.dtype == "uint8"
            assert tiles.train_masks.dtype == bool and len(tiles.table) == n + len(tiles.test_images)

    return target


def kaggles(place: Path) -> Tiles:
    return competition.read(place)[0]


def ones_own(place: Path) -> Tiles:
    return folder.read(place, Tiling())[0]


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "png": lambda: png,
    "zip": lambda: in_folder("train.zip", builders.competition, kaggles),
    "csv": lambda: in_folder("train.csv", builders.competition, kaggles),
    "npy": lambda: in_folder("images/b.npy", own.whole, ones_own),
    "tif": lambda: in_folder("images/b.tif", own.whole, ones_own),
    "jpg": lambda: in_folder("images/b.jpg", own.whole, ones_own),
    "mask": lambda: in_folder("masks/b.png", own.whole, ones_own),
}
ENDINGS = {"mask": "png"}


def seeds(ending: str) -> Iterator[bytes]:
    """Files of this kind from the tables of bad inputs."""
    rows = [(builders.competition, row[0]) for row in (*kaggle.REFUSED.values(), *kaggle.TAKEN.values())]
    rows += [(own.whole, row[0]) for row in (*own.REFUSED.values(), *own.TAKEN.values())]
    for i, (whole, spoil) in enumerate(rows):
        place = whole(SCRATCH / f"seed-{i}")
        spoil(place)
        for path in place.rglob(f"*.{ending}"):
            if path.is_file() and path.stat().st_size < 2**16:
                yield path.read_bytes()


if __name__ == "__main__":
    name, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for content in {*seeds(ENDINGS.get(name, name))}:
            (corpus / f"seed-{hash(content):x}").write_bytes(content)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], TARGETS[name]())
    atheris.Fuzz()
