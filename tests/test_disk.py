"""Files appear complete, one process at a time makes each, and a full disk is one sentence."""

import errno
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pipeline.salt import disk
from pipeline.salt.disk import replacing
from pipeline.salt.errors import InputError

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_one_makes_no_other_makes_at_the_same_time(tmp_path):
    path = tmp_path / "fold_0" / "64.csv"
    other = rf"64\.csv is being made by process {os.getpid()} on {platform.node()}, since .*; wait until that has ended"
    with disk.making(path), disk.making(path.with_name("96.csv")):
        with pytest.raises(InputError, match=other), disk.making(path):
            pass
        assert names(path.parent) == [".64.csv.lock", ".96.csv.lock"], "the one that was refused has taken nothing"
    assert names(path.parent) == []
    with disk.making(path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    path = tmp_path / "64.csv"
    program = f"""
        import time
        from pathlib import Path
        from pipeline.salt.disk import making
        with making(Path({str(path)!r})):
            print("at it", flush=True)
            time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout.readline() == "at it\n"
        with pytest.raises(InputError, match=f"being made by process {owner.pid} on"), disk.making(path):
            pass
        owner.kill()
        owner.wait()
    assert names(tmp_path) == [".64.csv.lock"]
    with disk.making(path):
        pass
    assert names(tmp_path) == []


def test_a_lock_of_another_machine_or_user_is_a_lock(tmp_path, monkeypatch):
    """NFS refuses a held lock with EACCES; a killed process's lock file may belong to another user."""
    path, lock = tmp_path / "64.csv", tmp_path / ".64.csv.lock"
    with monkeypatch.context() as patch:
        patch.setattr(disk.fcntl, "flock", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(InputError, match="is being made by another process"), disk.making(path):
            pass
    lock.write_text("process 7 on there, since 2026-11-20 10:00")
    monkeypatch.setattr(os, "access", lambda file, mode: Path(file) != lock)
    words = r"64\.csv\.lock is another user's: process 7 on there, since .* if it has ended, delete that file"
    with pytest.raises(InputError, match=words), disk.making(path):
        pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def none(*args) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", none)
    with disk.making(tmp_path / "64.csv"):
        pass
    assert "does not support locks: run only one command at a time there" in capsys.readouterr().out


def test_a_full_disk_behind_another_error_is_found(tmp_path):
    with pytest.raises(InputError, match="no space left"), replacing(tmp_path / "x.pt"):
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  torch.save says this, and no more


def test_a_full_folder_for_temporary_files_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(disk, "reserve", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    words = f"no space left for 80 MB in {tmp_path}; set TMPDIR to another folder"
    with pytest.raises(InputError, match=re.escape(words)):
        disk.zeros((20, 1000, 1000), np.float32)
    with pytest.raises(OSError, match="No space left"):
        disk.zeros((20, 1000, 1000), np.float32, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path, displayed", [("x.npy", "x.npy"), ("/a/b/x.npy", "/a/b/x.npy")])
def test_paths_are_shown_as_a_person_types_them(path, displayed):
    assert disk.display_path(Path(path)) == displayed


def test_space_is_claimed_for_a_file_that_is_to_be_mapped(tmp_path):
    with open(tmp_path / "x", "w+b") as f:
        f.truncate(1 << 20)
        disk.reserve(f.fileno())
        assert os.fstat(f.fileno()).st_size == 1 << 20
        if hasattr(os, "posix_fallocate"):
            assert os.fstat(f.fileno()).st_blocks * 512 >= 1 << 20
