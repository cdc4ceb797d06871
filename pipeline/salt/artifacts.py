"""Artifacts: files that are published whole, record what they were made from, and are checked before they are used.

Beside each artifact `x.npy` lies its sidecar `x.npy.json`, written last: the settings and inputs it was made from, the
hash of its bytes, versions, host, seconds. An artifact is fresh as long as its settings and the hashes of its inputs
stay the same. Changed code does not make it stale (a comment must not cost a night of training), but is reported.

`check` guards every artifact: its sidecar must be whole, and its bytes those that were published. Bytes are hashed if
size or modification time differ from the sidecar's (a copy, a restored backup); if the hash is right, the file gets its
recorded time back, so that the next command need not hash it again.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from pipeline.salt import environment
from pipeline.salt.config import DEFAULTS
from pipeline.salt.disk import display_path, fsync, remove_leftovers, replacing
from pipeline.salt.errors import InputError

CODE = Path(__file__).resolve().parents[1]
SIDECAR = {  # what every sidecar has, and of what type
    "name": str,
    "key": str,
    "sha256": str,
    "size": int,
    "time": int,
    "settings": dict,
    "inputs": dict,
    "code": str,
    "versions": dict,
    "host": str,
    "checksum": str,
}

_looking: ContextVar[bool] = ContextVar("looking", default=False)


@dataclass(frozen=True)
class Origin:
    """What an artifact is made from: settings (JSON values) and the content hash of each input, by name."""

    settings: dict
    inputs: dict[str, str]

    def key(self) -> str:
        return hash_of([self.settings, self.inputs])


def origin(settings: dict, inputs: Mapping[str, Path]) -> Origin:
    """The Origin of an artifact made with these settings from these finished artifacts {name: path}."""
    hashes = {name: sidecar["sha256"] for name, path in inputs.items() if (sidecar := read_sidecar(path))}
    return Origin(json.loads(json.dumps(settings)), hashes)


def is_fresh(path: Path, origin: Origin) -> bool:
    """Whether the artifact exists and was made from this origin."""
    return read_sidecar(path) is not None and not differences(path, origin)


def holds(path: Path, content: bytes) -> bool:
    """Whether the artifact is there, undamaged, and has exactly this content."""
    return not damage_of(path) and (read_sidecar(path) or {}).get("sha256") == _hash(content)


def check(path: Path, maker: str, *, hashed: bool = False) -> None:
    """InputError unless the artifact is there, finished and undamaged.

    maker   the command that makes it
    hashed  hash its bytes (once per command) even if size and time are unchanged: a disk can lose a bit silently
    """
    sidecar = sidecar_of(path)
    flags = "with the same flags" + " (or name the folds to use with --fold)" * ("--fold" in maker)
    if not path.exists():
        raise InputError(f"{display_path(path)} has not been made yet; run python -m pipeline.{maker} first, {flags}")
    if not sidecar.exists():
        raise InputError(
            f"{display_path(path)} is not finished ({sidecar.name}, which is written last, is missing); run python -m "
            f"pipeline.{maker} first, {flags}"
        )
    if damage := damage_of(path, hashed=hashed):
        raise InputError(f"{damage}; run python -m pipeline.{maker} --force to make it again, {flags}")


def damage_of(path: Path, *, hashed: bool = False) -> str:
    """What is wrong with a finished artifact, without a full stop; '' if nothing is wrong, or it does not exist."""
    try:
        sidecar = read_sidecar(path)
    except InputError as e:
        return str(e)
    if sidecar is None:
        return ""
    try:
        size, time_ns, inode = _version(path)
        if size != sidecar["size"]:
            return f"{display_path(path)} is damaged: it has {size:,} bytes, but {sidecar['size']:,} were written"
        unchanged = time_ns == sidecar["time"]
        if unchanged and not hashed:
            return ""
        if _hash_version(path, (size, time_ns, inode)) != sidecar["sha256"]:
            return f"{display_path(path)} is damaged: its bytes are not those that were written"
    except OSError as e:
        return f"{display_path(path)} cannot be read ({e.strerror})"
    if not unchanged and not _looking.get():
        with contextlib.suppress(OSError):  # in a read-only folder it is hashed in every command
            os.utime(path, ns=(path.stat().st_atime_ns, sidecar["time"]))
    return ""


@contextlib.contextmanager
def only_looking() -> Iterator[None]:
    """Inside it no artifact is touched: even a copy with the right hash does not get its recorded time back."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def print_fresh(path: Path) -> None:
    """Print that an artifact is up to date, and whether the code has changed since it was made."""
    same = (read_sidecar(path) or {}).get("code") == code_version()
    hint = "" if same else "  (made by another version of the code)"
    print(f"fresh    {display_path(path)}{hint}")


def differences(path: Path, origin: Origin) -> list[str]:
    """How an existing artifact's origin differs from this one, in the words of `changes`; [] if there is none."""
    sidecar = read_sidecar(path)
    return changes(Origin(sidecar["settings"], sidecar["inputs"]), origin) if sidecar else []


def changes(was: Origin, now: Origin) -> list[str]:
    """What has changed between two origins: 'train.epochs 60 -> 5', 'images.npy changed'.

    A setting that did not exist yet counts as its default. A report records all settings, with the prefix `profile.`.
    """
    old, new = _flat(was.settings), _flat(now.settings)
    for name in new.keys() - old:
        if (setting := name.removeprefix("profile.")) in DEFAULTS:
            old[name] = DEFAULTS[setting]
    settings = [
        f"{k} {old.get(k, 'unset')} -> {new.get(k, 'unset')}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)
    ]
    names = sorted({*was.inputs, *now.inputs})
    return settings + [f"{k} changed" for k in names if was.inputs.get(k) != now.inputs.get(k)]


@contextlib.contextmanager
def publish(path: Path, origin: Origin, **extra) -> Iterator[Path]:
    """Inside it, write the file that it yields; afterwards the artifact and its sidecar are in place.

    extra  more JSON values for the sidecar (score; seconds, if not those between entering and leaving)
    A killed stage leaves no half artifact. InputError if the disk is full or the folder cannot be written to.
    """
    start = time.perf_counter()
    with replacing(path) as tmp:
        yield tmp
        fsync(tmp)  # a full disk raises here, while the old artifact still has its sidecar
        sha256, (size, time_ns, _) = _hash_file(tmp), _version(tmp)
        sidecar_of(path).unlink(missing_ok=True)  # it must not vouch for the new bytes
    sidecar = {
        "name": path.name,
        "key": origin.key(),
        "sha256": sha256,
        "size": size,
        "time": time_ns,
        "settings": origin.settings,
        "inputs": origin.inputs,
        "seconds": round(time.perf_counter() - start, 1),
        **extra,
        "code": code_version(),
        "commit": commit(),
        "versions": environment.versions(),
        "machine": environment.machine(),
        "host": platform.node(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    sidecar = json.loads(json.dumps(sidecar))  # hash what will be read back: tuples become lists
    with replacing(sidecar_of(path)) as tmp:
        tmp.write_text(json.dumps(sidecar | {"checksum": hash_of(sidecar)}, indent=1) + "\n")
    _parse.cache_clear()  # a file system may reuse the inode


def discard(path: Path) -> None:
    """Delete an outdated artifact, its sidecar, and the temporary files of a killed writer."""
    for file in (sidecar_of(path), path):
        file.unlink(missing_ok=True)
    remove_leftovers(path)


def sidecar_of(path: Path) -> Path:
    """The path of an artifact's sidecar."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> dict | None:
    """The sidecar of a finished artifact, read-only; None if either file is missing.

    InputError if it is damaged: not a JSON object, a key missing or of the wrong type, or changed since it was written.
    """
    try:
        return _parse(sidecar_of(path), _version(sidecar_of(path))) if path.exists() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{display_path(path)} cannot be trusted: {sidecar_of(path).name} beside it is damaged") from e


@lru_cache(10_000)
def _parse(sidecar: Path, version: tuple[int, int, int]) -> dict:
    """The sidecar's content. ValueError if it is damaged."""
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in SIDECAR.items()):
        raise ValueError("no sidecar")
    checksum, key = content.pop("checksum"), Origin(content["settings"], content["inputs"]).key()
    if f"{content['name']}.json" != sidecar.name or key != content["key"] or checksum != hash_of(content):
        raise ValueError("another's, or changed")
    return content


def note_code() -> None:
    """Record the code's version now, for the sidecars: by the time they are written, it may have been edited."""
    code_version(), commit()


@cache
def code_version() -> str:
    """Short hash of the pipeline's code."""
    return _hash(b"".join(f.read_bytes() for f in sorted(CODE.rglob("*.py"))))


@cache
def commit() -> str | None:
    """Short hash of the code's git commit, with a + if files have changed since; None outside a clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", CODE, *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "report.py")  # fails in a clone of something else that holds this code
        return git("describe", "--always", "--dirty=+", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def hash_of(value: object) -> str:
    """Short hash of JSON values."""
    return _hash(json.dumps(value, sort_keys=True).encode())


def _flat(tree: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@lru_cache(10_000)
def _hash_version(path: Path, version: tuple[int, int, int]) -> str:
    return _hash_file(path)


def _version(path: Path) -> tuple[int, int, int]:
    """Size, modification time in ns, inode: tells versions of a file apart without reading it."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _hash_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]
