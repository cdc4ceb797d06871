"""Results in a place that is no folder: --out s3://bucket/run, gs://, sftp://, or any other URL fsspec knows.

A stage works in a folder of this machine that mirrors the URL. First it gets what is newer there; while it works, what
it has finished and the states of trainings are put there, every few seconds. https://filesystem-spec.readthedocs.io
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from urllib.parse import quote, unquote

from pipeline.salt import artifacts
from pipeline.salt.distributed import world_size
from pipeline.salt.errors import InputError

EVERY = 5.0  # seconds between two looks at what is new in the folder
RESUME = ".resume.pt"


def folder_of(url: str) -> Path:
    """The folder of this machine that mirrors the URL; its name is the URL."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "salt-segmentation" / quote(url.rstrip("/"), safe="")


def url_of(folder: Path) -> str | None:
    """The URL that folder_of made this folder of; None for any other folder."""
    url = unquote(folder.name)
    return url if "://" in url else None


@contextlib.contextmanager
def local(argv: list[str]) -> Iterator[list[str]]:
    """The flags of a stage with a folder as --out, which mirrors the URL that they name for as long as this lasts.

    InputError when the URL cannot be read at the beginning or written to at the end; between the two it may be away.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--out", "--profile", "--engine"):
        parser.add_argument(flag)
    parser.add_argument("--fold", action="append", type=int)
    try:
        flags, others = parser.parse_known_args(argv)
        url = flags.out or ""
    except argparse.ArgumentError:
        url = ""  # the stage's own parser will say what is wrong
    if "://" not in url or {"-h", "--help"} & {*others}:
        yield argv
        return
    if world_size() > 1:
        raise InputError(f"--out {url}: several processes of one fold need a folder that all of them see")
    mirror = Mirror(url, flags.profile, flags.fold)
    mirror.fetch()
    with mirror.following(at_work=flags.engine != "ray"):  # Ray's tasks put what they make themselves
        yield [*argv, f"--out={mirror.folder}"]


def elsewhere(argv: list[str]) -> list[str]:
    """The flags of a job as another machine is to have them: with the URL, if --out mirrors one."""
    return [f"--out={url_of(Path(flag[6:])) or flag[6:]}" if flag.startswith("--out=") else flag for flag in argv]


class Mirror:
    """A folder of this machine and what is at the URL.

    profile, folds  all that is looked at below folds/ and submissions/; None: everything
    """

    def __init__(self, url: str, profile: str | None = None, folds: list[int] | None = None):
        self.url, self.folder, self.profile, self.folds = url, folder_of(url), profile, folds
        self.seen: dict[str, tuple] = {}  # what the URL has, as it was in the folder when it was got or put
        with self._reaching():
            from fsspec.core import url_to_fs

            self.files, self.root = url_to_fs(url.rstrip("/"))

    def fetch(self) -> None:
        """Get what is there and newer than here."""
        from tqdm import tqdm

        with self._reaching(), self._alone():
            self.files.invalidate_cache()
            there = {str(PurePosixPath(path).relative_to(self.root)) for path in self.files.find(self.root)}
            wanted = sorted(filter(self._is_ours, there))
            for name in tqdm(wanted, desc="fetching", unit="file", leave=False, disable=None):
                with contextlib.suppress(FileNotFoundError):  # another machine has just taken it away
                    if name.endswith(RESUME):
                        self._fetch_state(name)
                    elif f"{name}.json" in there:  # otherwise half put, or none of ours
                        self._fetch_artifact(name)
            for name in self._here():
                history = name.removesuffix(RESUME) + ".csv"
                if name.endswith(RESUME) and _written(self.folder / name) < _made(self._notes_there(history)):
                    artifacts.discard(self.folder / name)  # another machine has ended this training
        print(f"mirror   {self.url} in {self.folder}", flush=True)

    def _fetch_artifact(self, name: str) -> None:
        path, theirs = self.folder / name, self._notes_there(name)
        mine = _notes(path)
        if not path.exists() or _made(theirs) > _made(mine):
            artifacts.discard(path)
            self._get(name)
            if self._notes_there(name) != theirs:
                return  # it was made anew meanwhile
            artifacts.replace_file(artifacts.sidecar_of(path), lambda tmp: tmp.write_bytes(theirs))
        elif theirs != mine:
            return  # ours is newer, and is put
        self.seen[name] = _stat(path)

    def _fetch_state(self, name: str) -> None:
        path = self.folder / name
        try:
            written = self.files.modified(f"{self.root}/{name}").timestamp()
        except NotImplementedError:  # this file system does not tell
            written = time.time()
        apart = written - (_written(path) if path.exists() else 0)  # s; some file systems know whole ones only
        if apart < -1:
            return  # ours is newer, and is put
        if apart > 1:
            self._get(name)
            os.utime(path, (written, written))
        self.seen[name] = _stat(path)

    def put(self) -> None:
        """Put what is finished here and not yet there, then take away there what is gone here."""
        with self._reaching():
            here = self._here()
            for name, stat in here.items():
                path = self.folder / name
                notes = _notes(path)
                if self.seen.get(name) != stat and not (notes and notes == self._notes_there(name)):
                    self._remove(f"{name}.json")  # the old notes must not vouch for new bytes
                    self._put(name, lambda half, path=path: self.files.put_file(str(path), half))
                    if _stat(path) != stat:
                        continue  # it was made anew meanwhile
                    if notes:
                        self._put(f"{name}.json", lambda half, notes=notes: self.files.pipe_file(half, notes))
                self.seen[name] = stat
            for name in self.seen.keys() - here.keys():
                self._remove(f"{name}.json", name)
                del self.seen[name]

    @contextlib.contextmanager
    def following(self, at_work: bool) -> Iterator[None]:
        """Inside it, what is new is put every few seconds (only where `at_work`), and what is left at the end."""
        over = Event()

        def follow() -> None:
            while not over.wait(EVERY):
                try:
                    self.put()
                except InputError as e:
                    print(f"note     {e}; it is tried again", flush=True)

        thread = Thread(target=follow, daemon=True)
        if at_work:
            thread.start()
        failed = True
        try:
            yield
            failed = False
        finally:
            over.set()
            if at_work:
                thread.join()
            with contextlib.suppress(*[InputError] * failed):  # what ended the stage is what is said
                self.put()

    def _here(self) -> dict[str, tuple]:
        """The finished artifacts and the states of trainings in the folder, as they are now."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if self._is_ours(name) and (name.endswith(RESUME) or artifacts.sidecar_of(path).exists()):
                with contextlib.suppress(FileNotFoundError):  # it has just gone
                    found[name] = _stat(path)
        return found

    def _is_ours(self, name: str) -> bool:
        match name.split("/"):
            case [*_, file] if file.startswith(".tmp-"):
                return False
            case ["data", "cache", *_]:
                return True
            case ["folds" | "submissions", profile, first, *_] if self.profile in (None, profile):
                return self.folds is None or not first.startswith("fold_") or first in {f"fold_{k}" for k in self.folds}
        return False

    def _get(self, name: str) -> None:
        artifacts.replace_file(self.folder / name, lambda tmp: self.files.get_file(f"{self.root}/{name}", str(tmp)))

    def _put(self, name: str, write: Callable[[str], object]) -> None:
        """Beside its place, then moved there: not every file system puts a file at once or not at all."""
        place = PurePosixPath(self.root, name)
        half = place.with_name(f".tmp-{platform.node()}-{place.name}")
        self.files.makedirs(str(place.parent), exist_ok=True)
        write(str(half))
        self.files.mv(str(half), str(place))

    def _remove(self, *names: str) -> None:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm_file(f"{self.root}/{name}")

    def _notes_there(self, name: str) -> bytes:
        try:
            return self.files.cat_file(f"{self.root}/{name}.json")
        except FileNotFoundError:
            return b""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Folds that begin together on one machine wait for the first of them to fetch the tiles."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Every file system has errors of its own; what they say is said."""
        try:
            yield
        except InputError:
            raise
        except Exception as e:
            raise InputError(
                f"--out {self.url}: {str(e) or type(e).__name__} (what is done is kept in {self.folder})"
            ) from e


def _notes(path: Path) -> bytes:
    try:
        return artifacts.sidecar_of(path).read_bytes()
    except FileNotFoundError:
        return b""


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _made(notes: bytes) -> float:
    return datetime.fromisoformat(json.loads(notes)["made"]).timestamp() if notes else 0


def _stat(path: Path) -> tuple:
    """What changes with a file or its notes."""
    both = [file.stat() for file in (path, artifacts.sidecar_of(path)) if file.exists()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in both)
