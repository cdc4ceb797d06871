"""Files on disk: written whole or not at all, by one process at a time; arrays larger than memory.

No other module renames a result into place, except that tiles.synthetic does so with the sample's whole folder.
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
    """Inside it, a full disk or a folder that cannot be written to raises an InputError that names `path`."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        # torch and safetensors raise errors of their own: the system's error is their cause, or in their text.
        causes: list[BaseException] = [e]
        while deeper := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(deeper)
        numbers = {getattr(cause, "errno", None) for cause in causes}
        # numpy says "9 requested and 0 written", but not why
        if numbers & FULL or "No space left" in str(e) or (isinstance(e, OSError) and " requested and " in str(e)):
            raise InputError(
                f"no space left to write {display_path(path)}; free some, or choose another disk with --out"
            ) from e
        if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}:
            raise InputError(f"{display_path(path)} cannot be written; name a writable folder with --out") from e
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Inside it, write the file that it yields; it is then forced to disk and renamed over `path`.

    So `path` is always the old file or the new one, never half of it. Errors as in `writing`.
    """
    with temporary(path) as tmp:
        yield tmp
        fsync(tmp)
        os.replace(tmp, path)


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` for a file or folder, deleted afterwards. Errors as in `writing`.

    Deletes what killed processes have left for the same `path`, too.
    """
    # A prefix, not a suffix: np.save and gzip look at the file's extension.
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
    """Inside it only this process makes the artifact. InputError that names the process if another is making it.

    The lock ends with its process, however that ends. A file system without locks gives no such protection.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and not os.access(lock, os.W_OK) and os.access(path.parent, os.W_OK):
            raise InputError(
                f"{display_path(lock)} is another user's: {_text(lock) or 'a process of theirs'} is making {path.name} "
                "or was killed; if it has ended, delete that file"
            )
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115    closed below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:  # deleted by another process, which has just ended
                raise BlockingIOError
        except (BlockingIOError, PermissionError) as e:  # NFS raises the latter
            file.seek(0)
            raise InputError(
                f"{display_path(path)} is being made by {file.read() or 'another process'}; wait until that has ended"
            ) from e
        except OSError:
            print(f"note     {display_path(path.parent)} does not support locks: run only one command at a time there")
        try:
            with writing(path):
                owner = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M')}"
                file.truncate(0)
                # Unbuffered: closing a buffer would raise for a full disk again.
                os.write(file.fileno(), owner.encode())
            yield
        finally:
            lock.unlink(missing_ok=True)


def fsync(path: Path) -> None:
    """Have the system write the file's bytes to the disk now; OSError if that is full."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def zeros(shape: tuple[int, ...], dtype: type | np.dtype, folder: Path | None = None) -> np.ndarray:
    """A memory-mapped array of zeros, in a nameless file in `folder` that is deleted with the array; None: in TMPDIR.

    If the disk is full: OSError; InputError for TMPDIR's, since the caller has no file there to name in a message.
    """
    size = max(math.prod(shape), 1) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            reserve(file.fileno())
            return np.memmap(file, dtype, "r+", shape=shape)  # an allocated file starts as zeros
    except OSError as e:
        if folder is None and e.errno in FULL:
            place = tempfile.gettempdir()
            raise InputError(f"no space left for {size / 1e6:,.0f} MB in {place}; set TMPDIR to another folder") from e
        raise


def reserve(file: int) -> None:
    """Reserve disk space for an open file before it is memory-mapped: a full disk raises here, not as SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, os.fstat(file).st_size)


def unfinished(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Temporary files and locks in this folder, each with whether its process is known to have been killed."""
    for file in sorted(folder.glob(".tmp-*")):
        yield file, _was_killed(file)
    for file in sorted(folder.glob(".*.lock")):  # not tested by taking it: that would block others
        owner = re.match(rf"process (\d+) on {re.escape(platform.node())}, since", _text(file))
        yield file, owner is not None and not _is_alive(int(owner[1]))


def remove_leftovers(path: Path) -> None:
    """Delete the temporary files for `path` that killed processes of this machine have left."""
    for file in path.parent.glob(f".tmp-*-{path.name}"):
        if _was_killed(file, re.escape(path.name)):
            _remove(file)


def _was_killed(tmp: Path, name: str = r"(?!\d+-).*") -> bool:
    """Whether this temporary file was left by a killed process of this machine.

    name  regular expression for the artifact's name. The default refuses names that begin with a number and a hyphen:
          on machine 'node', that is a file of machine 'node-1'
    """
    pid = re.fullmatch(rf"\.tmp-{re.escape(platform.node())}-(\d+)-{name}", tmp.name)
    return pid is not None and not _is_alive(int(pid[1]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        return True
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:  # deleted meanwhile
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
