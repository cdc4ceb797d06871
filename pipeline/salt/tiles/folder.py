"""Read your own data set from a folder of images and masks, and check every file.

    images/  masks/  test/        or, as Kaggle has them,        train/images/  train/masks/  test/images/

An image and its mask share a name, except for the extension: PNG, JPG, TIFF, or .npy with one array. The images in
test/ are to be predicted. Both test/ and depths.csv (id, z) are optional. 8-bit images are taken as they are, others
are scaled to grey by percentiles, as in sections.reading. A mask has 0 and one value for salt. Where an image is not
labelled, its mask has NaN, or 255 beside 0 and 1: tiles with such pixels are predicted, not trained on. Nothing is
written.
"""

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.salt import disk
from pipeline.salt.config import Tiling
from pipeline.salt.errors import InputError
from pipeline.salt.parts import slices
from pipeline.salt.tiles import Tiles, competition, cutting, files
from pipeline.salt.tiles.files import Faults

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
OTHER_ENDINGS = files.PICTURES | {".npz", ".sgy", ".segy", ".mat", ".h5", ".jp2"}  # likely images, but not readable
OTHER_NAMES = {
    "images": {"image", "imgs", "img", "pictures", "sections", "x"},
    "masks": {"mask", "labels", "label", "targets", "truth", "annotations", "y"},
}
LARGE = 512  # px; an image with a longer side is better cut into tiles than resized as a whole
UNLABELLED = 2  # value in a decoded mask, beside 0 and 1
STRAY = 100  # with more 255s than this for each 1, the 1s of a mask are taken for stray pixels

T = TypeVar("T")
Mask = tuple[np.ndarray, frozenset[float]]  # (H, W) uint8 of 0, 1 and UNLABELLED; the nonzero values in its file


def find(folder: Path) -> bool:
    """Whether the folder holds your own data set: images or masks, and none of Kaggle's zips or lists of tiles."""
    if any((folder / f"{split}.zip").exists() for split in ("train", "test")):
        return False
    places = _places(folder)
    if places["images"].parent != folder and any(files.table(folder, name) for name in competition.LISTS):
        return False
    return places["images"].is_dir() or places["masks"].is_dir()


def hint(folder: Path) -> str:
    """What to do if `find` found nothing because folders have another name or lie a level too deep, else ''."""
    if not folder.is_dir():
        return ""
    below = _listed(folder)
    if inner := next((path for path in below if path.is_dir() and find(path)), None):
        return f"{inner} has images and masks: name that folder instead"
    return _renaming(folder)


def _renaming(folder: Path) -> str:
    """What to do with images or masks that lie in this folder under another name, or in a zip, else ''."""
    below, said = _listed(folder), []
    for kind, names in OTHER_NAMES.items():
        named = [path for path in below if path.is_dir() and path.name != kind and path.name.lower() in {kind, *names}]
        said += [f"rename {path.name} to {kind}" for path in named]
        said += [f"unpack {path.name}" for path in below if path.name.lower() == f"{kind}.zip"]
    return "; ".join(said)


def inputs(folder: Path) -> list[tuple[str, int, int]]:
    """(name, size in bytes, time of change in ns) of every file that is read: changes with their content."""
    paths = [path for place in _places(folder).values() if place.is_dir() for path in sorted(place.iterdir())]
    if depths := files.table(folder, "depths.csv"):
        paths.append(depths)
    return [
        (path.relative_to(folder).as_posix(), *files.size_and_time(path))
        for path in paths
        if path.suffix.lower() in (*ENDINGS, ".csv", ".zip")
    ]


def read(folder: Path, tiling: Tiling) -> tuple[Tiles, list[str]]:
    """The tiles in the folder, and remarks on oddities that are not faults. InputError lists every fault."""
    faults, places = Faults(), _places(folder)
    found = {kind: _files(folder, place, kind, faults) for kind, place in places.items()}
    for kind, other in (("images", "masks"), ("masks", "images")):
        for name in sorted(found[kind].keys() - found[other].keys() if found[other] else ()):
            what = "mask" if other == "masks" else "image"
            more = "; move images without a mask to test/" * (other == "masks")
            faults.add(
                _name(folder, places[kind]),
                f"has no {what} of that name in {_name(folder, places[other])}/{more}",
                name,
            )
    for name in sorted(found["test"].keys() & found["images"].keys()):
        faults.add(
            _name(folder, places["test"]), "is also among the labelled images; names must differ: rename it", name
        )
    z = _depths(folder, sorted({*found["images"], *found["test"]}), faults)

    with tqdm(total=sum(map(len, found.values())), desc="decoding images", unit="", disable=None) as bar:
        images = dict(_decoded(folder, found["images"], _image_in, bar, faults))
        masks = dict(_decoded(folder, found["masks"], _mask_in, bar, faults))
        test = dict(_decoded(folder, found["test"], _image_in, bar, faults))
    _settle_values_(_name(folder, places["masks"]), masks, found["masks"], faults)
    for name in sorted(images.keys() & masks.keys()):
        if (size := images[name].shape[:2]) != masks[name][0].shape:
            fault = f"is {_px(masks[name][0].shape)}, but its image is {_px(size)}; they must have the same size"
            faults.add(_name(folder, places["masks"]), fault, found["masks"][name].name)
    for place, some, of in ((places["images"], images, found["images"]), (places["test"], test, found["test"])):
        _check_sizes(_name(folder, place), some, of, tiling, faults)
    if tiling.side == "whole":
        _check_one_size({**images, **test}, faults)
    faults.raise_if_any(folder)
    turned_grey = sum(image.ndim == 3 for image in test.values()) if all(i.ndim == 2 for i in images.values()) else 0
    pixels = {**images, **test}
    del images, test  # so that `_tiles_` can free each image once it is copied
    tiles = _tiles_(pixels, {name: labels for name, (labels, _) in masks.items()}, z, tiling)
    if not len(tiles.train_images):
        raise InputError(f"{folder}: no tile is wholly labelled; label more pixels, or set a smaller tiles.side")
    remarks = _remarks(folder, tiles, masks, tiling)
    if turned_grey:
        remarks.append(f"{turned_grey} images in test/ are in colour and become grey, as the labelled ones are")
    return tiles, remarks


def read_image(path: Path) -> np.ndarray:
    """The image in a file, as `image_of` returns it. InputError if the file is not an image."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    try:
        if path.suffix.lower() not in ENDINGS:
            raise InputError(f"is not one of {', '.join(ENDINGS)}")
        return _image_in(path)
    except InputError as error:
        raise InputError(f"{path} {error}") from error


def _image_in(path: Path) -> np.ndarray:
    return image_of(_pixels(path))


def _mask_in(path: Path) -> Mask:
    return _mask_of(_pixels(path, labels=True))


def image_of(pixels: np.ndarray) -> np.ndarray:
    """An array -> (H, W) uint8 grey, or (H, W, 3) RGB if its channels differ. InputError if it is not an image."""
    from pipeline.salt.sections.reading import from_array  # here, because importing tifffile would slow down --help

    if pixels.dtype.kind not in "biuf":
        raise InputError(f"holds {pixels.dtype}; an image must hold whole numbers or floats")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4) or not pixels.size:
        raise InputError(
            f"has the shape {pixels.shape}; an image must be (rows, columns), or (rows, columns, 3) in colour"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).any():
        raise InputError("has no finite value")
    picture = from_array("", pixels)  # scaled as in tools.segment, where the model may meet such images later
    image = np.empty(picture.shape, np.uint8)
    for rows in slices(len(image), image.shape[1:]):  # scaling makes floats, and the file may fill half the memory
        image[rows] = picture.rows(rows.start, rows.stop)
    grey = image.ndim == 3 and (image == image[..., :1]).all()
    return image[..., 0].copy() if grey else image


def _mask_of(pixels: np.ndarray) -> Mask:
    """The pixels as (H, W) uint8 of 0, 1 (salt) and UNLABELLED, and the nonzero values that they had."""
    if pixels.ndim == 3:
        colours = pixels[..., : 1 if pixels.shape[2] in (1, 2) else 3]
        if (colours == colours[:1, :1]).all() and (pixels != pixels[:1, :1]).any():
            raise InputError(
                "has one colour, and may show salt by transparency; save it as 0 and one value, without transparency"
            )
        if pixels.shape[2] > 4 or (colours != colours[..., :1]).any():
            raise InputError("has colours; a mask may have only 0 and one value for salt")
        pixels = colours[..., 0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "biuf":
        raise InputError(f"has the shape {pixels.shape} of {pixels.dtype}; a mask must be (rows, columns) of numbers")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8), frozenset()  # True is salt, whatever value the other masks use for it
    unknown = np.isnan(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    if pixels.dtype == np.uint8:
        values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    else:
        values = np.unique(pixels[~unknown])
    salt = frozenset(float(value) for value in values[:300] if value)
    if len(salt) > 1 and salt != {1, 255}:
        raise InputError(
            f"has {len(values)} values; a mask may have only 0 and one value for salt (255 beside 0 and 1: not "
            "labelled); JPG and smooth resizing change values"
        )
    labels = (pixels != 0).astype(np.uint8)
    if len(salt) == 2:
        labels[pixels == 255] = UNLABELLED
    labels[unknown] = UNLABELLED
    return labels, salt


def _settle_values_(place: str, masks: dict[str, Mask], paths: dict[str, Path], faults: Faults) -> None:
    """Settle what 255 means, and check that salt has the same value in all masks.

    If any mask has both 1 and 255, 255 means 'not labelled' in all of them. But if most masks have only 0 and 255 and
    none has only 0 and 1, a few stray 1s are a fault.
    """
    both = {name: labels for name, (labels, salt) in masks.items() if salt == {1, 255}}
    alone = Counter(value for _, salt in masks.values() if len(salt) == 1 for value in salt)
    if alone[255] > len(both) and not alone[1]:
        for name, labels in both.items():
            if 0 < STRAY * (labels == 1).sum() < (labels == UNLABELLED).sum():
                fault = "has a few 1s, but other masks have only 0 and 255; change the 1s to 0 or 255"
                faults.add(place, fault, paths[name].name)
    if both:
        for name, (labels, salt) in masks.items():
            masks[name] = labels * np.uint8(UNLABELLED) if salt == {255} else labels, salt - {255}
    counts = Counter(value for _, salt in masks.values() for value in salt)
    common = max(counts, key=lambda value: (counts[value], -value), default=0.0)
    more = " (255 beside 1 means not labelled)" if {1, 255} <= counts.keys() else ", or remove what is not salt"
    for name, (_, salt) in masks.items():
        for other in salt - {common}:
            fault = f"has {other:g} for salt, others have {common:g}; use the same value in all masks{more}"
            faults.add(place, fault, paths[name].name)


def _places(folder: Path) -> dict[str, Path]:
    base = folder / "train" if (folder / "train" / "images").is_dir() else folder
    test = folder / "test"
    return {
        "images": base / "images",
        "masks": base / "masks",
        "test": test / "images" if (test / "images").is_dir() else test,
    }


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _holds_images(folder: Path) -> bool:
    """Whether the folder holds files that may be images; False also if it cannot be opened."""
    with contextlib.suppress(OSError):
        return folder.is_dir() and any(path.suffix.lower() in ENDINGS for path in _listed(folder))
    return False


def _name(folder: Path, place: Path) -> str:
    return place.relative_to(folder).as_posix()


def _files(folder: Path, place: Path, kind: str, faults: Faults) -> dict[str, Path]:
    """id -> image file in a folder; a file that looks like an image in another format is a fault."""
    name, found = _name(folder, place), dict[str, Path]()
    if not place.is_dir():
        if kind != "test":
            more = _renaming(place.parent)
            faults.add(name, f"missing; there is no such folder{f': {more}' * bool(more)}")
        for path in _listed(folder) if kind == "test" else ():
            if path.is_dir() and path.name.lower() == kind:
                faults.add(name, f"missing; rename {path.name} to {name}")
        return {}
    before = faults.total()
    for path in _listed(place):
        ending = path.suffix.lower()
        if (kind, path.name) != ("test", "masks") and _holds_images(path):
            faults.add(name, f"is a folder of images; move the files in {name}/{path.name} up into {name}", path.name)
        if ending in ENDINGS and not path.name.isprintable():
            faults.add(name, "has a name with characters that cannot be printed; rename it", path.name)
        elif ending in ENDINGS:
            stem = unicodedata.normalize("NFC", path.stem)  # a Mac writes é as two characters
            if stem in found:
                faults.add(name, f"is there twice, {found[stem].suffix} and {path.suffix}; remove one of them", stem)
            found.setdefault(stem, path)
        elif ending in OTHER_ENDINGS:
            faults.add(name, f"ends in {path.suffix}; save it as one of {', '.join(ENDINGS)}", path.name)
    if not found and kind != "test" and faults.total() == before:
        faults.add(name, f"has no files; put {', '.join(ENDINGS)} files there")
    faults.files[name] = {path.name for path in found.values()}
    return found


def _decoded(
    folder: Path, paths: dict[str, Path], read: Callable[[Path], T], bar: tqdm, faults: Faults
) -> Iterator[tuple[str, T]]:
    for name, path in paths.items():
        bar.update()
        try:
            yield name, read(path)
        except InputError as error:
            faults.add(_name(folder, path.parent), str(error), path.name)


def _pixels(path: Path, labels: bool = False) -> np.ndarray:
    """The array that sections.reading.pixels reads. The text of an InputError is the end of a sentence on the file."""
    from pipeline.salt.sections.reading import pixels  # here for the same reason as in `image_of`

    if fault := files.not_a_file(path):
        raise InputError(fault)
    return np.asarray(pixels(path, labels))


def _depths(folder: Path, names: list[str], faults: Faults) -> dict[str, float]:
    if files.table(folder, "depths.csv") is None:
        return dict.fromkeys(names, float("nan"))
    before = faults.total()
    values = competition.depths_of(files.rows(folder, "depths.csv", faults), names, faults)
    return dict(zip(names, values, strict=True)) if faults.total() == before else {}


def _check_sizes(
    place: str, images: dict[str, np.ndarray], paths: dict[str, Path], tiling: Tiling, faults: Faults
) -> None:
    if isinstance(tiling.side, str):
        return
    for name, image in images.items():
        if min(image.shape[:2]) < tiling.side:
            fault = (
                f"is {_px(image.shape)}, smaller than tiles.side={tiling.side}; lower tiles.side, or remove the image"
            )
            faults.add(place, fault, paths[name].name)


def _check_one_size(images: dict[str, np.ndarray], faults: Faults) -> None:
    sizes = Counter(image.shape[:2] for image in images.values())
    if len(sizes) < 2:
        return
    listed = ", ".join(f"{count} of {_px(size)}" for size, count in sizes.most_common(4)) + ", ..." * (len(sizes) > 4)
    smallest = min(min(size) for size in sizes)
    advice = (
        f"--set tiles.side={min(256, smallest // 32 * 32)} cuts them into tiles" if smallest >= 32 else "resize them"
    )
    faults.add("images", f"differ in size, {listed}; {advice}")


def _px(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"  # width first, as in the messages on Kaggle's tiles


def _tiles_(images: dict[str, np.ndarray], masks: dict[str, np.ndarray], z: dict[str, float], tiling: Tiling) -> Tiles:
    """The data set of whole images or their tiles: the wholly labelled ones for training, the others to predict.

    Whole images are removed from the dict as they are copied: together they may fill half of the memory.
    """
    rows = []  # (id, image, top, left, is labelled)
    for name, image in images.items():
        for top, left, part in _parts(image.shape, tiling):
            labelled = name in masks and not (masks[name][part] == UNLABELLED).any()
            rows.append((name if tiling.side == "whole" else f"{name}_{top:05}_{left:05}", name, top, left, labelled))
    table = pd.DataFrame(rows, columns=["id", "image", "top", "left", "labelled"])
    table = table.sort_values(["labelled", "id"], ascending=[False, True], ignore_index=True)
    colour = any(images[name].ndim == 3 for name in masks)  # of what is trained on
    height, width = next(iter(images.values())).shape[:2] if isinstance(tiling.side, str) else (tiling.side,) * 2
    n = int(table["labelled"].sum())
    stack = disk.zeros((len(table), height, width, *[3] * colour), np.uint8)
    salt = disk.zeros((n, height, width), bool)
    for i, (name, top, left) in enumerate(zip(table["image"], table["top"], table["left"], strict=True)):
        part = slice(top, top + height), slice(left, left + width)
        tile = images.pop(name) if tiling.side == "whole" else images[name][part]
        stack[i] = with_channels(tile, colour)
        if i < n:
            salt[i] = masks[name][part] == 1
    columns = {
        "id": table["id"],
        "split": np.where(table["labelled"], "train", "test"),
        "z": table["image"].map(z).astype(float),
        "coverage": [*salt.mean(axis=(1, 2)), *np.full(len(table) - n, np.nan)],
        "black": ~np.any(stack, axis=tuple(range(1, stack.ndim))),
    }
    if tiling.side != "whole":
        columns |= {name: table[name] for name in ("image", "top", "left")}
    return Tiles(stack[:n], salt, stack[n:], pd.DataFrame(columns))


def with_channels(image: np.ndarray, colour: bool) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB, uint8 -> RGB where `colour`, else grey."""
    if image.ndim == 3:
        if colour:
            return image
        from PIL import Image  # not needed by --help

        return np.asarray(Image.fromarray(image).convert("L"))
    return np.repeat(image[..., None], 3, axis=-1) if colour else image


def _parts(shape: tuple[int, ...], tiling: Tiling) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    if isinstance(tiling.side, str):
        yield 0, 0, (slice(None), slice(None))
        return
    side = tiling.side
    for top, left in cutting.corners(
        shape[0], shape[1], side, side if isinstance(tiling.stride, str) else tiling.stride
    ):
        yield top, left, (slice(top, top + side), slice(left, left + side))


def _remarks(folder: Path, tiles: Tiles, masks: dict[str, Mask], tiling: Tiling) -> list[str]:
    height, width = tiles.train_masks.shape[1:]
    remarks = competition.remarks_of(folder, tiles)
    if unlabelled := sum((labels == UNLABELLED).any() for labels, _ in masks.values()):
        remarks.append(f"{unlabelled} images are labelled in part: tiles with unlabelled pixels are only predicted")
    if tiling.side == "whole" and max(height, width) > LARGE:
        remarks.append(
            f"the images are {width} x {height} px, and each is resized as a whole to the model's input; "
            "--set tiles.side=128 cuts them into tiles instead"
        )
    if tiling.side == "whole" and (height, width) == (competition.SIDE, competition.SIDE):
        lists = " and ".join(competition.LISTS)
        remarks.append(f"the images have the size of Kaggle's tiles; add {lists} if they are the competition's")
    if (folder / "test" / "masks").is_dir():
        remarks.append("test/masks is not read: only the labelled images are scored, out of fold")
    if not tiles.train_masks.any():
        remarks.append("all masks are empty: there is no salt to learn")
    return remarks
