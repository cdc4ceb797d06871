"""Kaggle's notebooks: where input is mounted, where output goes, and what earlier sessions' outputs hold of a run.

Input is read-only, and mounted as input/<slug>, input/competitions/<slug>, input/datasets/<owner>/<slug> or
input/notebooks/<owner>/<slug>; therefore everything is searched for. https://www.kaggle.com/docs/notebooks
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.salt import artifacts, disk
from pipeline.salt.errors import InputError
from pipeline.salt.run import Files

ROOT = Path(os.environ.get("SALT_KAGGLE", "/kaggle"))  # the tests set their own
INPUT, WORKING = ROOT / "input", ROOT / "working"


def on_kaggle() -> bool:
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def competition_mounts() -> list[Path]:
    """The mounted folders that may hold the competition's tiles."""
    return sorted(path.parent for path in INPUT.glob("**/sample_submission.csv*"))


def earlier_outputs(run: str) -> list[Path]:
    """The mounted outputs of sessions that worked on this run, and data sets made from such outputs; newest first."""
    folders = INPUT.glob(f"**/folds/{run}/folds.csv")
    return sorted({path.parents[2] for path in folders}, key=lambda out: _newest(out / "folds" / run), reverse=True)


def adopt(files: Files) -> dict[Path, int]:
    """Link the files that earlier sessions made of this run to where they belong here; {output: number of its files}.

    Nothing is copied, and nothing is written through a link: a new file replaces the link. Finished artifacts then
    count as fresh or not like any others, and unfinished trainings resume from their states. Files already here stay;
    of several outputs, the newest one wins. Links to outputs that are no longer attached are removed.
    """
    for link in _links(files):
        if not link.exists():
            link.unlink()
    adopted = {}
    for out in earlier_outputs(files.run):
        theirs = replace(files, out=out)
        pairs = [
            (here / source.relative_to(there), source)
            for here, there in zip(files.folders, theirs.folders, strict=True)
            for source in _worth_keeping(there)
        ]
        new = [(target, source) for target, source in pairs if not target.exists()]
        for target, source in new:
            _link(target, source)
            if artifacts.sidecar_of(source).exists():
                _link(artifacts.sidecar_of(target), artifacts.sidecar_of(source))
        if new:
            adopted[out] = len(new)
    return adopted


def keep(files: Files) -> int:
    """Replace each link by its file, so that this session's output has the whole run by itself. Returns how many.

    InputError if the disk is too small for that; the remaining links stay.
    """
    links = [*_links(files)]
    for link in links:
        with disk.replacing(link) as tmp:
            shutil.copyfile(link, tmp)
    return len(links)


def _worth_keeping(folder: Path) -> Iterator[Path]:
    """Paths of finished artifacts, and of the states of unfinished trainings and predictions."""
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".") and (path.name.endswith(".resume.pt") or _is_finished(path)):
            yield path


def _is_finished(path: Path) -> bool:
    try:
        return artifacts.read_sidecar(path) is not None
    except InputError:  # a damaged sidecar: its artifact is made again
        return False


def _links(files: Files) -> Iterator[Path]:
    return (path for folder in files.folders for path in sorted(folder.rglob("*")) if path.is_symlink())


def _link(target: Path, source: Path) -> None:
    with disk.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a sidecar without its artifact
        target.symlink_to(source)


def _newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in folder.rglob("*") if path.is_file())
