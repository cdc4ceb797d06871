"""Results on disk that know what they were made from. No other file says where one lies, or publishes one.

Beside each artifact `x.npy` lies `x.npy.json`, written last: the settings and inputs it was made from, the hash of its
bytes, versions, host, seconds. An artifact is fresh while its settings and the hashes of its inputs are the same. Code
is not among them (a comment must not cost a night of training); a change of it is said aloud.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline.salt.errors import InputError

CODE = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "fastai", "timm", "pretrainedmodels", "numpy")


@dataclass(frozen=True)
class Files:
    """Where everything of one run lies, below `out`.

    out      the repository, or what --out names
    source   name of the data: 'sample', or the data folder's name
    profile  name of the profile
    """

    out: Path
    source: str
    profile: str

    @property
    def raw(self) -> Path:
        return self.out / "data"

    @property
    def sample(self) -> Path:
        return self.raw / "sample"

    def cache(self, name: str) -> Path:
        """name: images.npy | masks.npy | test.npy | tiles.csv | truth.npy (where the test tiles' masks are known)"""
        return self.raw / "cache" / self.source / name

    @property
    def folds(self) -> Path:
        return self.out / "folds" / self.profile / "folds.csv"

    def checkpoint(self, fold: int, size: int | str, which: str = "best") -> Path:
        return self._fold(fold) / (f"{size}.safetensors" if which == "best" else f"{size}.{which}.safetensors")

    def history(self, fold: int, size: int | str) -> Path:
        return self._fold(fold) / f"{size}.csv"

    def resume(self, fold: int, size: int | str) -> Path:
        """State of a training that is under way; gone when it has ended."""
        return self._fold(fold) / f"{size}.resume.pt"

    def pseudo(self, fold: int, name: str) -> Path:
        """name: tiles.csv | masks.npy"""
        return self._fold(fold) / f"pseudo_{name}"

    def lr_find(self, fold: int, size: int | str) -> Path:
        return self._fold(fold) / f"{size}.lr_find.png"

    def oof(self) -> Path:
        return self.out / "folds" / self.profile / "oof.npy"

    def result(self, name: str) -> Path:
        """name: test.npy | submission.csv.gz | report.html | scores.json"""
        return self.out / "submissions" / self.profile / name

    def _fold(self, fold: int) -> Path:
        return self.out / "folds" / self.profile / f"fold_{fold}"


@dataclass(frozen=True)
class Origin:
    """What an artifact is made from: settings (JSON values) and the content hash of each input, by name."""

    settings: dict
    inputs: dict[str, str]

    def key(self) -> str:
        return _hash(json.dumps([self.settings, self.inputs], sort_keys=True).encode())


def origin(settings: dict, inputs: Iterable[Path] = (), **hashes: str) -> Origin:
    """The Origin of something made from these artifacts. InputError if one of them has not been made."""
    found = {}
    for path in inputs:
        sidecar = read_sidecar(path)
        if sidecar is None:
            raise InputError(f"{shown(path)} has not been made yet; run python -m pipeline.{_maker(path)} first")
        # A data folder may be called otherwise on another machine: what it holds counts.
        folder = "cache" if path.parent.parent.name == "cache" else path.parent.name
        found[f"{folder}/{path.name}"] = sidecar["sha256"]
    return Origin(json.loads(json.dumps(settings)), {**found, **hashes})


def is_fresh(path: Path, origin: Origin) -> bool:
    sidecar = read_sidecar(path)
    return sidecar is not None and sidecar["key"] == origin.key()


def say_fresh(path: Path) -> None:
    """One line for a stage that has nothing to do, with a word if the code has moved on since."""
    same = read_sidecar(path)["code"] == code_version()
    print(f"fresh    {shown(path)}{'' if same else '  (made by an earlier version of the code; --force redoes it)'}")


def differences(path: Path, origin: Origin) -> list[str]:
    """What of an existing artifact's origin is not as it should be: 'train.epochs 60 -> 5', 'images.npy changed'."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return []
    old, new = _flat(sidecar["settings"]), _flat(origin.settings)
    said = [
        f"{k} {old.get(k, 'unset')} -> {new.get(k, 'unset')}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
    ]
    was, now = sidecar["inputs"], origin.inputs
    return said + [f"{k} changed" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]


def publish(path: Path, origin: Origin, write: Callable[[Path], object], **facts) -> None:
    """Have `write(tmp)` make the file, then put it and its sidecar in place: a killed stage leaves no half artifact.

    facts  JSON values worth keeping beside it (score, seconds).
    Raises InputError when the disk is full or the folder cannot be written to.
    """
    # The old notes must not vouch for new bytes.
    replace_file(path, write, before=lambda: sidecar_of(path).unlink(missing_ok=True))
    notes = {
        "key": origin.key(),
        "sha256": _hash_file(path),
        "settings": origin.settings,
        "inputs": origin.inputs,
        **facts,
        "code": code_version(),
        "versions": versions(),
        "host": platform.node(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    replace_file(sidecar_of(path), lambda tmp: tmp.write_text(json.dumps(notes, indent=1) + "\n"))


def replace_file(path: Path, write: Callable[[Path], object], before: Callable[[], object] = lambda: None) -> None:
    """Write beside `path`, force to disk, then rename over it: the file is the old one or the new one, never half."""
    tmp = path.with_name(f".tmp-{os.getpid()}-{path.name}")  # prefix, not suffix: np.save and gzip look at the ending
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(tmp)
            with open(tmp, "rb") as f:
                os.fsync(f.fileno())
            before()
            os.replace(tmp, path)
        finally:
            tmp.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Take away an artifact that does not belong to its neighbours any more."""
    for file in (sidecar_of(path), path):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside it, a full disk and a folder that cannot be written to are an InputError that names `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        causes = [e]  # torch and safetensors raise errors of their own: the system's is behind it, or in its text
        while deeper := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(deeper)
        numbers = {getattr(cause, "errno", None) for cause in causes}
        if numbers & {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(e):
            raise InputError(f"no space left to write {shown(path)}; free some, or choose a disk with --out") from e
        if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            raise InputError(f"{shown(path)} cannot be written; choose a folder of yours with --out") from e
        raise


def reserve(file: int) -> None:
    """Claim the space of an open file that is to be memory-mapped: a full disk is an error here, not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, os.fstat(file).st_size)


def sidecar_of(path: Path) -> Path:
    """The file of an artifact's notes."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict | None:
    """The notes beside a finished artifact, None if it is not there or not finished."""
    try:
        return json.loads(sidecar_of(path).read_text()) if path.exists() else None
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{shown(sidecar_of(path))} is damaged; delete it and rerun the stage") from e


def shown(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def code_version() -> str:
    return _hash(b"".join(f.read_bytes() for f in sorted(CODE.rglob("*.py"))))


def hash_of(value: object) -> str:
    """Short hash of JSON values."""
    return _hash(json.dumps(value, sort_keys=True).encode())


def _maker(path: Path) -> str:
    if path.name == "test.npy":
        return "predict" if path.parent.parent.name == "submissions" else "prepare"
    if path.name.startswith("pseudo_"):
        return "pseudo_label"
    made = {"folds.csv": "make_folds", "oof.npy": "predict", "submission.csv.gz": "submit"}
    return made.get(path.name) or ("train" if path.parent.name.startswith("fold_") else "prepare")


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _hash_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]
