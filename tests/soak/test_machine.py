"""A disk that is really full, with different amounts of space left, and a machine without shared memory. Linux only."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_door import LABELS
from test_faults import LAST, content
from test_pipeline import tree

from pipeline import make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import artifacts, cli

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
STAGES = [
    (prepare, ()),
    (make_folds, ()),
    (train, LAST),
    (pseudo_label, ("--fold=0", *LABELS)),
    (predict, ()),
    (submit, ()),
    (report, ()),
]
LEFT = [0, 4, 16, 64, 256, 1024, 16384]  # KiB
TIMED = re.compile(r"fold_\d/\d+\.csv|report\.html")  # what took how long stands in them


@contextlib.contextmanager
def disk(folder: Path, mib: int) -> Iterator[Path]:
    """A disk of this size. Skipped if this process may not mount one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", folder], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file: Path, left: int) -> None:
    """Grow the file until only so many KiB are free."""
    space = os.statvfs(file.parent)
    with open(file, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, max(space.f_bavail * space.f_frsize - left * 1024, 1))


@pytest.mark.parametrize("stage, extra", STAGES, ids=lambda value: getattr(value, "__name__", None))
def test_on_a_full_disk_a_stage_says_so_loses_nothing_and_goes_on_when_there_is_space(finished, tmp_path, stage, extra):
    before, refused = content(finished[0].out), 0
    with disk(tmp_path / "disk", 64) as folder:
        for left in LEFT:
            run = replace(finished[0], out=shutil.copytree(finished[0].out, folder / "out"))
            fill(folder / "filler", left)
            if said := outcome(stage.main, run.flags("--force", *extra)):
                refused += 1
                assert "no space left to write " in said and "--out" in said, said
                after = content(run.out)
                assert {name: after.get(name) for name in before} == before, "all that was there is there"
                assert not [path for path in run.out.rglob("*.*") if artifacts.damage_of(path)]
                assert not [*run.out.rglob(".tmp-*")]
            (folder / "filler").unlink()
            assert outcome(stage.main, run.flags(*extra)) == ""
            after = content(run.out)
            assert [name for name in before if after.get(name) != before[name] and not TIMED.search(name)] == []
            shutil.rmtree(run.out)
    assert 0 < refused < len(LEFT)


def outcome(command: Callable, argv: list[str]) -> str:
    """The sentence with which the command fails, or '' if it succeeds."""
    try:
        with contextlib.redirect_stdout(None):
            cli.start(lambda _: command(argv))
    except SystemExit as e:
        return str(e.code)
    return ""


def test_without_shared_memory_two_workers_train_the_same(finished, untrained):
    """/dev/shm exists but cannot be written, as in a container with --shm-size=0 or a sandbox that hides it."""
    flags = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    hidden = ["unshare", *flags, "--mount", "sh", "-c", 'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$@"', "-"]
    if subprocess.run([*hidden, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this process may not hide /dev/shm")
    command = [*hidden, sys.executable, "-m", "pipeline", "run", *untrained.flags("--workers=2")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    for name, (_, bytes_) in tree(finished[0].out).items():
        if name.endswith((".safetensors", ".npy", ".gz")):
            assert (untrained.out / name).read_bytes() == bytes_, name
