"""Fuzzing of the readers with atheris, if installed, for SALT_FUZZ seconds each (default: 60)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris")
pytestmark = pytest.mark.soak


@pytest.mark.parametrize("target", ["png", "zip", "csv", "npy", "tif", "jpg", "mask"])
def test_no_bytes_break_a_reader(target, tmp_path):
    seconds = os.environ.get("SALT_FUZZ", "60")
    command = [sys.executable, "-m", "tests.soak.fuzz", target, str(tmp_path / "corpus"), f"-max_total_time={seconds}"]
    command += [f"-artifact_prefix={tmp_path}/", "-rss_limit_mb=4096", "-timeout=60"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert not done.returncode, f"{done.stdout[-2000:]}{done.stderr[-2000:]}\nthe input is in {tmp_path}"
