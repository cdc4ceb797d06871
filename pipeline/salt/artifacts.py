"""Artifacts: files that are published whole and know what they were made from.

Beside each artifact `x.npy` lies its sidecar `x.npy.json`, written last: the settings and inputs it was made from, the
hash of its bytes, versions, host, seconds. An artifact is fresh while its settings and the hashes of its inputs are the
same. Code is not among them (a comment must not cost a night of training); a change of it is printed. No other file
renames a result into place.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline.salt.errors import InputError

CODE = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "fastai", "timm", "pretrainedmodels", "numpy")


@dataclass(frozen=True)
class Origin:
    """What an artifact is made from: settings (JSON values) and the content hash of each input, by name."""

    settings: dict
    inputs: dict[str, str]

    def key(self) -> str:
        return hash_of([self.settings, self.inputs])


def origin(settings: dict, inputs: Mapping[str, Path]) -> Origin:
    """The Origin of an artifact made with these settings from these finished artifacts, by name."""
    hashes = {name: sidecar["sha256"] for name, path in inputs.items() if (sidecar := read_sidecar(path))}
    return Origin(json.loads(json.dumps(settings)), hashes)


def is_fresh(path: Path, origin: Origin) -> bool:
    """Whether the artifact exists and was made from this origin."""
    sidecar = read_sidecar(path)
    return sidecar is not None and sidecar["key"] == origin.key()


def damage_of(path: Path) -> str:
    """What is wrong with a finished artifact, as a sentence without its end; '' where nothing is."""
    sidecar = read_sidecar(path)
    if sidecar is None or _hash_file(path) == sidecar["sha256"]:
        return ""
    return f"{display_path(path)} is damaged: its bytes are not those that were written"


def print_fresh(path: Path) -> None:
    """Print that an artifact is up to date, and whether the code has changed since it was made."""
    same = (read_sidecar(path) or {}).get("code") == code_version()
    hint = "" if same else "  (made by an earlier version of the code; --force redoes it)"
    print(f"fresh    {display_path(path)}{hint}")


def differences(path: Path, origin: Origin) -> list[str]:
    """How an existing artifact's origin differs from this one: 'train.epochs 60 -> 5', 'images.npy changed'."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return []
    old, new = _flat(sidecar["settings"]), _flat(origin.settings)
    changes = [
        f"{k} {old.get(k, 'unset')} -> {new.get(k, 'unset')}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
    ]
    was, now = sidecar["inputs"], origin.inputs
    return changes + [f"{k} changed" for k in sorted({*was, *now}) if was.get(k) != now.get(k)]


@contextlib.contextmanager
def publish(path: Path, origin: Origin, **extra) -> Iterator[Path]:
    """Inside it, write the file that it yields; after it the artifact and its sidecar are in place.

    extra  JSON values worth keeping beside it (score; seconds, if not those between entering and leaving)
    A killed stage leaves no half artifact. InputError when the disk is full or the folder cannot be written to.
    """
    start = time.perf_counter()
    with replacing(path) as tmp:
        yield tmp
        sha256 = _hash_file(tmp)
        _force_to_disk(tmp)  # a full disk shows now, while the old artifact still has its sidecar
        sidecar_of(path).unlink(missing_ok=True)  # which must not vouch for new bytes
    sidecar = {
        "key": origin.key(),
        "sha256": sha256,
        "settings": origin.settings,
        "inputs": origin.inputs,
        "seconds": round(time.perf_counter() - start, 1),
        **extra,
        "code": code_version(),
        "commit": commit(),
        "versions": versions(),
        "host": platform.node(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with replacing(sidecar_of(path)) as tmp:
        tmp.write_text(json.dumps(sidecar, indent=1) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside it, write the file that it yields; it is then forced to disk and renamed over `path`.

    So `path` is the old file or the new one, never half of it. Errors as `writing` has them.
    """
    # A prefix, not a suffix: np.save and gzip look at the ending.
    tmp = path.with_name(f".tmp-{platform.node()}-{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        try:
            yield tmp
            _force_to_disk(tmp)
            os.replace(tmp, path)
        finally:
            tmp.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Delete an outdated artifact, its sidecar, and the temporary files of a killed writer."""
    for file in (sidecar_of(path), path):
        file.unlink(missing_ok=True)
    _remove_leftovers(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside it, a full disk and a folder that cannot be written to are an InputError that names `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        # torch and safetensors raise their own: the system's is behind, or in its text.
        causes: list[BaseException] = [e]
        while deeper := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(deeper)
        numbers = {getattr(cause, "errno", None) for cause in causes}
        if numbers & {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(e):
            raise InputError(
                f"no space left to write {display_path(path)}; free some, or choose a disk with --out"
            ) from e
        if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            raise InputError(f"{display_path(path)} cannot be written; choose a folder of yours with --out") from e
        raise


def reserve(file: int) -> None:
    """Claim the space of an open file that is to be memory-mapped: a full disk is an error here, not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, os.fstat(file).st_size)


def sidecar_of(path: Path) -> Path:
    """The file of an artifact's sidecar."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict | None:
    """The sidecar of a finished artifact, None if it is not there or not finished."""
    try:
        return json.loads(sidecar_of(path).read_text()) if path.exists() else None
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{display_path(sidecar_of(path))} is damaged; delete it and rerun the stage") from e


def display_path(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


@cache
def code_version() -> str:
    """Short hash of the pipeline's code."""
    return _hash(b"".join(f.read_bytes() for f in sorted(CODE.rglob("*.py"))))


@cache
def commit() -> str | None:
    """Short hash of the code's git commit, with a + if a file has changed since; None outside a clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", CODE, *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "report.py")  # not the clone of something else that holds an installed copy
        return git("describe", "--always", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def hash_of(value: object) -> str:
    """Short hash of JSON values."""
    return _hash(json.dumps(value, sort_keys=True).encode())


def _force_to_disk(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def _remove_leftovers(path: Path) -> None:
    """Delete the temporary files that killed processes of this machine have left beside `path`."""
    for file in path.parent.glob(f".tmp-{platform.node()}-*-{path.name}"):
        pid = file.name.removeprefix(f".tmp-{platform.node()}-").removesuffix(f"-{path.name}")
        if pid.isdecimal() and not _is_alive(int(pid)):  # not decimal: of another machine, 'node-1' beside 'node'
            file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _flat(tree: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _hash_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]
