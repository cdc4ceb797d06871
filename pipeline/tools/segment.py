"""Segment pictures of any size with a trained run: overlapping blended windows, all folds, flip TTA.

    python -m pipeline.tools.segment section.png
    python -m pipeline.tools.segment section.tif map.npy --run demo --fold 0 --to results/
    python -m pipeline.tools.segment volume.sgy --inline 120             or --crossline; needs segyio

reads   PNG, JPG, TIFF, .npy, SEG-Y; the weights in folds/<run>/ (of all folds there, or those that --fold names)
writes  submissions/<run>/segment/<name>/, or a folder <name>/ in the one named by --to:
          mask.png         255 where the probability is above the threshold of the run's submission (0.5 if the run
                           has no submission), else 0
          overlay.png      the picture with salt tinted and outlined, 4,096 px at most
          probability.tif  float32 in [0, 1], tiled

A window has as many px of the picture as the tiles that the run was trained on; --side sets another size, for a picture
of another scale. Memory grows with a picture's width, not with its height.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.salt import artifacts, cli
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.progress import progress_bar
from pipeline.salt.sections import reading, windows, writing
from pipeline.salt.sections.reading import Picture
from pipeline.salt.tiles import files

if TYPE_CHECKING:
    from pipeline.salt.trained import TrainedRun


def main(argv: list[str] | None = None) -> None:
    def add(parser):
        parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures, or SEG-Y volumes")
        line = parser.add_mutually_exclusive_group()
        line.add_argument("--inline", type=int, metavar="N", help="inline number, for a SEG-Y volume")
        line.add_argument("--crossline", type=int, metavar="N", help="crossline number, for a SEG-Y volume")
        parser.add_argument(
            "--fold",
            metavar="K",
            type=int,
            action="append",
            dest="only",
            help="only this fold's model; may be repeated",
        )
        parser.add_argument(
            "--side", type=int, metavar="PX", help="side of a window (default: that of the run's tiles)"
        )
        parser.add_argument("--to", type=Path, metavar="DIR", help="where results go (default: below submissions/)")

    run, args = cli.parse(__doc__, argv, add, ("data", "out", "profile", "run", "force"))
    if args.side is not None and args.side < 2:
        raise InputError(f"--side {args.side}: a window needs 2 px or more")
    if len({path.stem for path in args.images}) < len(args.images):
        raise InputError(
            "two pictures have the same name, so their results would share a folder; give them one at a time, each "
            "with its own --to"
        )

    from pipeline.salt.trained import load_run

    trained = load_run(run.files.folder, args.only)
    tile = (args.side, args.side) if args.side else trained.tile
    to = args.to or run.files.result("segment")
    for path in args.images:
        with reading.open_picture(path, args.inline, args.crossline) as picture:
            source = {"source": str(path.resolve()), "version": [*files.size_and_time(path)], "run": run.files.run}
            segment(picture, trained, (tile[0], tile[1]), to / picture.name, source, run.force)


def segment(
    picture: Picture,
    trained: "TrainedRun",
    window: tuple[int, int],
    folder: Path,
    source: dict | None = None,
    force: bool = False,
) -> None:
    """Write mask, overlay and probabilities of one picture to a folder, predicted by windows of (h, w) px, once.

    source  the picture's file with its version, and the run's name: InputError if the folder has the results of another
            file with the same name, or of another run
    force   even if the folder has these results already
    """
    from pipeline.salt.logit_sums import probabilities

    height, width = picture.shape[:2]
    shape = height, width
    if picture.scale:
        print(f"scale    {picture.name}: {picture.scale}")
    source = source or {}
    settings = source | {
        "picture": picture.name,
        "shape": [*picture.shape],
        "scale": picture.scale,
        "window": [*window],
        "threshold": trained.threshold,
    }
    origin = artifacts.Origin(settings, trained.weights)
    outputs = [folder / name for name in ("mask.png", "overlay.png", "probability.tif")]
    refuse_others(outputs[0], source)
    if not force and all(not artifacts.damage_of(path) and artifacts.is_fresh(path, origin) for path in outputs):
        artifacts.print_fresh(outputs[0])
        return
    salt_pixels = 0

    def rows(top: int, bottom: int) -> np.ndarray:
        return trained.with_channels(picture.rows(top, bottom))

    def logits() -> Iterator[np.ndarray]:
        with progress_bar(height, picture.name) as bar:
            for band in windows.blend(rows, shape, window, trained.logits):
                yield band
                bar.update(len(band))

    def probability_bands() -> Iterator[np.ndarray]:
        """Bands of probabilities; each is written to mask and overlay before it is yielded."""
        nonlocal salt_pixels
        top = 0
        for band in windows.regroup(logits(), writing.TILE):
            probs = probabilities(band)
            salt = probs > trained.threshold
            mask.write(salt)
            overlay.write(picture.rows(top, top + len(band)), salt)
            top, salt_pixels = top + len(band), salt_pixels + int(salt.sum())
            yield probs

    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(artifacts.publish(path, origin)) for path in outputs]
        mask = stack.enter_context(writing.MaskPng(paths[0], shape))
        overlay = writing.Overlay(shape)
        writing.write_probability(paths[2], probability_bands(), shape)
        overlay.save(paths[1])
    print(
        f"segment  {display_path(folder)}: {height:,} x {width:,} px, folds {', '.join(map(str, trained.models))}, "
        f"{salt_pixels / (height * width):.1%} salt"
    )


def refuse_others(mask: Path, source: dict) -> None:
    """InputError if this mask was made from another file, or by another run, than `source` names."""
    try:
        before = (artifacts.read_sidecar(mask) or {}).get("settings", {})
    except InputError:  # damaged results are made again
        return
    for key, what in (("source", "{}"), ("run", "run {}")):
        if key in before and key in source and before[key] != source[key]:
            raise InputError(
                f"{display_path(mask.parent)} has the results of {what.format(before[key])}; name another folder with "
                "--to, or delete it"
            )


if __name__ == "__main__":
    cli.start(main)
