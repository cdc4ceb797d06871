"""Files on disk: written whole or not at all, made by one process at a time, larger than memory.

No other module renames a result into place, but for the sample's whole folder (tiles.synthetic).
"""

import contextlib
import errno
import fcntl
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.salt.errors import InputError

FULL = {errno.ENOSPC, errno.EDQUOT}


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
        # numpy says "9 requested and 0 written", and not why
        if numbers & FULL or "No space left" in str(e) or (isinstance(e, OSError) and " requested and " in str(e)):
            raise InputError(
                f"no space left to write {display_path(path)}; free some, or choose a disk with --out"
            ) from e
        if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}:
            raise InputError(f"{display_path(path)} cannot be written; choose a folder of yours with --out") from e
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside it, write the file that it yields; it is then forced to disk and renamed over `path`.

    So `path` is the old file or the new one, never half of it. Errors as `writing` has them.
    """
    with temporary(path) as tmp:
        yield tmp
        fsync(tmp)
        os.replace(tmp, path)


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Inside it there may be the file or folder that it yields, beside `path`; what killed processes left is deleted.

    Errors as `writing` has them.
    """
    # A prefix, not a suffix: np.save and gzip look at the ending.
    tmp = path.with_name(f".tmp-{platform.node()}-{os.getpid()}-{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        try:
            yield tmp
        finally:
            _remove(tmp)


@contextlib.contextmanager
def making(path: Path) -> Iterator[None]:
    """Inside it this process alone makes the artifact. InputError that says who does, where another is at it.

    The lock ends with its process, however that ends. On a file system without locks there is none.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and not os.access(lock, os.W_OK) and os.access(path.parent, os.W_OK):
            raise InputError(
                f"{display_path(lock)} is another user's: {_text(lock) or 'a process of theirs'} makes {path.name}, or "
                "was killed; where it has ended, delete that file"
            )
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115    closed below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:  # of another process, which ended just now
                raise BlockingIOError
        except (BlockingIOError, PermissionError) as e:  # the second one is NFS's way to say it
            file.seek(0)
            raise InputError(
                f"{display_path(path)} is being made by {file.read() or 'another process'}; wait until that has ended"
            ) from e
        except OSError:
            print(f"note     {display_path(path.parent)} knows no locks: let no other command work there")
        try:
            with writing(path):
                owner = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M')}"
                file.truncate(0)
                os.write(file.fileno(), owner.encode())  # a full disk would come again when a buffer is closed
            yield
        finally:
            lock.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Have the system write the file's bytes to the disk now; an OSError where it is full."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def zeros(shape: tuple[int, ...], dtype: type | np.dtype, folder: Path | None = None) -> np.ndarray:
    """A memory-mapped array of zeros, in a nameless file that goes with the array; folder None: where TMPDIR says.

    When the disk is full OSError, or InputError where that is TMPDIR's, which no file of the caller's would name.
    """
    size = max(math.prod(shape), 1) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            reserve(file.fileno())
            return np.memmap(file, dtype, "r+", shape=shape)  # an allocated file begins as zeros
    except OSError as e:
        if folder is None and e.errno in FULL:
            place = tempfile.gettempdir()
            raise InputError(f"no space left for {size / 1e6:,.0f} MB in {place}; set TMPDIR to another folder") from e
        raise


def reserve(file: int) -> None:
    """Claim the space of an open file that is to be memory-mapped: a full disk is an error here, not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, os.fstat(file).st_size)


def unfinished(folder: Path) -> Iterator[tuple[Path, bool]]:
    """(temporary file or lock in this folder, whether its process is known to have been killed)."""
    for file in sorted(folder.glob(".tmp-*")):
        yield file, _was_killed(file)
    for file in sorted(folder.glob(".*.lock")):  # to take it, and see, would be in another's way
        owner = re.match(rf"process (\d+) on {re.escape(platform.node())}, since", _text(file))
        yield file, owner is not None and not _is_alive(int(owner[1]))


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files that killed processes of this machine have left beside `path`."""
    for file in path.parent.glob(f".tmp-*-{path.name}"):
        if _was_killed(file, re.escape(path.name)):
            _remove(file)


def _was_killed(tmp: Path, name: str = r"(?!\d+-).*") -> bool:
    """Whether a temporary file, of an artifact whose name is like this, is of a killed process of this machine.

    By itself no name begins with a number and a hyphen: that is of machine 'node-1' beside 'node'.
    """
    pid = re.fullmatch(rf"\.tmp-{re.escape(platform.node())}-(\d+)-{name}", tmp.name)
    return pid is not None and not _is_alive(int(pid[1]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone since
        return ""


def _remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def display_path(path: Path) -> str:
    """A path as a person would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
