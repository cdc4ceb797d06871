"""A stale artifact never looks up to date, and no half-written one ever exists."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Origin, differences, is_fresh, origin, publish
from pipeline.salt.errors import InputError

ROOT = Path(__file__).parents[1]
ONE, TWO = Origin({"lr": 1}, {}), Origin({"lr": 2}, {})


def put(path: Path, origin: Origin, content: str = "old", **extra) -> None:
    with publish(path, origin, **extra) as tmp:
        tmp.write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def die(path: Path, error: BaseException) -> None:
    """Publish `path` with other settings, with a writer that fails halfway."""
    with publish(path, TWO) as tmp:
        tmp.write_text("half")
        raise error


def test_what_is_published_is_there_with_its_sidecar(tmp_path):
    path = tmp_path / "a" / "b" / "x.npy"
    with publish(path, ONE, score=0.5) as tmp:
        np.save(tmp, np.arange(3))
        assert not path.exists() and tmp.parent == path.parent, "on the same disk, or it could not be renamed"
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert names(path.parent) == ["x.npy", "x.npy.json"]
    sidecar = json.loads(path.with_name("x.npy.json").read_text())
    assert sidecar.pop("checksum") and sidecar == artifacts.read_sidecar(path)
    assert (sidecar["key"], sidecar["score"], sidecar["settings"], sidecar["inputs"]) == (ONE.key(), 0.5, {"lr": 1}, {})
    assert (sidecar["name"], sidecar["size"], sidecar["time"]) == (
        "x.npy",
        path.stat().st_size,
        path.stat().st_mtime_ns,
    )
    assert {"python", "torch", "fastai"} <= set(sidecar["versions"])
    assert sidecar["host"] and sidecar["code"] and sidecar["made"]
    assert is_fresh(path, ONE) and not is_fresh(path, TWO)


@pytest.mark.parametrize("key", artifacts.SIDECAR)
def test_a_sidecar_that_lacks_a_key_or_has_it_of_another_type_is_not_trusted(tmp_path, key):
    path = tmp_path / "x.npy"
    with publish(path, ONE) as tmp:
        np.save(tmp, np.arange(3))
    sidecar = json.loads(artifacts.sidecar_of(path).read_text())
    del sidecar["checksum"]
    for changed in ({k: v for k, v in sidecar.items() if k != key}, sidecar | {key: None}):
        signed = changed if key == "checksum" else changed | {"checksum": artifacts.hash_of(changed)}
        artifacts.sidecar_of(path).write_text(json.dumps(signed))
        with pytest.raises(InputError, match="x.npy cannot be trusted: x.npy.json beside it is damaged"):
            artifacts.read_sidecar(path)


def test_the_sidecar_says_how_long_the_writing_took_unless_the_writer_knows_better(tmp_path):
    for name, extra in [("a", {}), ("b", {"seconds": 7.5})]:
        with publish(tmp_path / name, ONE, **extra) as tmp:
            tmp.write_text("")
            time.sleep(0.11)
    a, b = ((artifacts.read_sidecar(tmp_path / name) or {})["seconds"] for name in "ab")
    assert a >= 0.1 and b == 7.5


def test_the_commit_of_a_clone_is_known_and_changes_to_it_show(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        ended = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return ended.stdout.strip()

    def commit() -> str | None:
        artifacts.commit.cache_clear()
        return artifacts.commit()

    code = tmp_path / "pipeline"
    code.mkdir()
    (code / "report.py").write_text("1")
    monkeypatch.setattr(artifacts, "CODE", code)
    try:
        assert commit() is None, "no clone"
        git("init", "-q")
        git("commit", "-q", "--allow-empty", "-m", "another project that holds an installed copy")
        assert commit() is None
        git("add", ".")
        git("commit", "-q", "-m", "ours")
        assert commit() == git("rev-parse", "--short", "HEAD")
        (code / "report.py").write_text("2")
        assert commit() == git("rev-parse", "--short", "HEAD") + "+"
        monkeypatch.setenv("PATH", "")
        assert commit() is None, "no git"
    finally:
        artifacts.commit.cache_clear()


def test_the_hash_is_that_of_the_bytes(tmp_path):
    put(tmp_path / "x.txt", ONE, "a")
    put(tmp_path / "y.txt", TWO, "a")
    put(tmp_path / "z.txt", TWO, "b")
    x, y, z = (artifacts.read_sidecar(tmp_path / f"{name}.txt")["sha256"] for name in "xyz")
    assert x == y != z and x == "ca978112ca1bbdca"  # printf a | sha256sum


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1), OSError(errno.EIO, "x")])
def test_a_writer_that_dies_leaves_the_old_artifact_and_its_sidecar(tmp_path, error):
    path = tmp_path / "x.txt"
    put(path, ONE)
    before = (path.read_bytes(), path.with_name("x.txt.json").read_bytes())
    with pytest.raises(type(error)):
        die(path, error)
    assert (path.read_bytes(), path.with_name("x.txt.json").read_bytes()) == before
    assert is_fresh(path, ONE) and names(tmp_path) == ["x.txt", "x.txt.json"]


def test_a_writer_that_dies_first_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        die(tmp_path / "x.txt", RuntimeError())
    assert names(tmp_path) == []


def test_a_writer_that_writes_nothing_is_noticed(tmp_path):
    put(tmp_path / "y.txt", ONE)
    for name in ("x.txt", "y.txt"):
        with pytest.raises(FileNotFoundError), publish(tmp_path / name, TWO):
            pass
    assert names(tmp_path) == ["y.txt", "y.txt.json"] and is_fresh(tmp_path / "y.txt", ONE)


def test_a_stage_killed_between_file_and_sidecar_is_not_done(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    put(path, ONE)

    def killed() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "code_version", killed)  # is asked for the sidecar
    with pytest.raises(KeyboardInterrupt):
        put(path, TWO, "new")
    assert path.read_text() == "new" and not is_fresh(path, ONE), "the old sidecar must not vouch for new bytes"
    assert not is_fresh(path, TWO) and names(tmp_path) == ["x.txt"]


KILLED = """
    import os, signal
    from pathlib import Path
    from pipeline.salt.artifacts import Origin, publish
    with publish(Path({path!r}), Origin({{"lr": 2}}, {{}})) as tmp:
        tmp.write_text("half")
        {then}
"""


def run_writer(path: Path, then: str) -> subprocess.Popen:
    """A process that publishes `path` and gets no further than the middle."""
    program = textwrap.dedent(KILLED).format(path=str(path), then=then)
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_a_process_killed_while_it_writes_leaves_the_old_artifact(tmp_path):
    path = tmp_path / "x.txt"
    put(path, ONE)
    assert run_writer(path, "os.kill(os.getpid(), signal.SIGKILL)").wait() == -signal.SIGKILL
    assert path.read_text() == "old" and is_fresh(path, ONE)


def test_what_dead_processes_left_goes_with_the_next_write_and_what_living_ones_write_stays(tmp_path):
    path, host = tmp_path / "x.txt", platform.node()
    living = run_writer(path, "import time; time.sleep(600)")
    try:
        while not (theirs := tmp_path / f".tmp-{host}-{living.pid}-x.txt").exists():
            assert living.poll() is None
        dead = run_writer(path, "os.kill(os.getpid(), signal.SIGKILL)")
        dead.wait()
        left = f".tmp-{host}-{dead.pid}-x.txt"
        others = [
            f".tmp-{host}-{dead.pid}-y.txt",  # of another artifact
            f".tmp-{host}-{dead.pid}-a-x.txt",  # of a-x.txt
            f".tmp-elsewhere-{dead.pid}-x.txt",  # of a machine whose processes are not seen from here
            f".tmp-{host}-{dead.pid}-{os.getpid()}-x.txt",  # of one whose name begins as ours
        ]
        for name in others:
            (tmp_path / name).write_text("half")
        assert (tmp_path / left).exists()
        put(path, ONE)
        assert names(tmp_path) == sorted([*others, theirs.name, "x.txt", "x.txt.json"])
    finally:
        living.kill()
        living.wait()
    put(path, ONE)
    assert not theirs.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path, error):
    put(tmp_path / "x.txt", ONE)
    with pytest.raises(InputError, match=r"no space left to write .*x\.txt; .*--out"):
        die(tmp_path / "x.txt", error)
    assert (tmp_path / "x.txt").read_text() == "old" and is_fresh(tmp_path / "x.txt", ONE)
    assert names(tmp_path) == ["x.txt", "x.txt.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_only_when_the_file_is_put_in_place_leaves_the_old_artifact_fresh(
    tmp_path, monkeypatch, call
):
    path = tmp_path / "x.txt"
    put(path, ONE)

    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr(os, call, full)
        put(path, TWO, "new")
    assert path.read_text() == "old" and (call == "replace" or is_fresh(path, ONE))
    assert not is_fresh(path, TWO) and not list(tmp_path.glob(".tmp*"))


def test_a_full_disk_while_the_sidecar_is_written_is_said_and_the_artifact_is_not_done(tmp_path, monkeypatch):
    write_text = Path.write_text

    def full(path: Path, *args, **kwargs):
        if path.name.endswith(".json"):
            raise OSError(errno.ENOSPC, "full")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="no space left"):
        put(tmp_path / "x.txt", ONE)
    assert not is_fresh(tmp_path / "x.txt", ONE) and names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "x"), OSError(errno.EROFS, "x")])
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, error):
    with pytest.raises(InputError, match=r"x\.txt cannot be written; .*--out"):
        die(tmp_path / "x.txt", error)


def test_a_file_where_a_folder_belongs_is_said(tmp_path):
    (tmp_path / "folds").write_text("")
    for path in (tmp_path / "folds" / "demo" / "x.txt", tmp_path / "folds" / "x.txt"):
        with pytest.raises(InputError, match="cannot be written"):
            put(path, ONE)


def test_an_input_error_of_the_writer_comes_through_as_it_is(tmp_path):
    error = InputError("fold_0/64.safetensors cannot be read")
    error.__cause__ = PermissionError(errno.EACCES, "x")
    with pytest.raises(InputError, match="cannot be read"):
        die(tmp_path / "x.txt", error)


@pytest.mark.parametrize("damage", ["", '{"key": "', "\xff"])
def test_a_damaged_sidecar_is_said(tmp_path, damage):
    put(tmp_path / "x.txt", ONE)
    (tmp_path / "x.txt.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.txt cannot be trusted: x\.txt\.json beside it is damaged"):
        is_fresh(tmp_path / "x.txt", ONE)


def test_a_sidecar_without_its_file_does_not_count(tmp_path):
    put(tmp_path / "x.txt", ONE)
    (tmp_path / "x.txt").unlink()
    assert not is_fresh(tmp_path / "x.txt", ONE) and differences(tmp_path / "x.txt", TWO) == []


def test_two_artifacts_of_one_kind_cannot_be_exchanged_with_their_sidecars(tmp_path):
    """The best and the last weights of a phase have the same origin."""
    for name in ("48.safetensors", "48.last.safetensors"):
        put(tmp_path / name, ONE, name)
    for ending in ("", ".json"):
        os.replace(tmp_path / f"48.last.safetensors{ending}", tmp_path / f"48.safetensors{ending}")
    assert "48.safetensors.json beside it is damaged" in artifacts.damage_of(tmp_path / "48.safetensors")


def test_what_is_discarded_is_gone_with_its_sidecar(tmp_path):
    put(tmp_path / "x.txt", ONE)
    put(tmp_path / "y.txt", ONE)
    for _ in range(2):  # of what is not there, nothing
        artifacts.discard(tmp_path / "x.txt")
    assert names(tmp_path) == ["y.txt", "y.txt.json"]


def test_a_change_of_time_is_no_change(tmp_path):
    path = tmp_path / "x.txt"
    put(path, ONE)
    below = origin({}, {"x.txt": path})
    made = path.stat().st_mtime_ns
    os.utime(path, (0, 0))
    assert is_fresh(path, ONE) and origin({}, {"x.txt": path}) == below
    assert artifacts.damage_of(path) == "" and path.stat().st_mtime_ns == made, "so that it is not hashed again"


def test_an_input_made_anew_with_the_same_settings_makes_what_follows_stale(tmp_path):
    weights, out = tmp_path / "64.safetensors", tmp_path / "oof.npy"

    def made_from() -> Origin:
        return origin({}, {"fold_0/64.safetensors": weights})

    put(weights, ONE, "first")
    put(out, made_from())
    put(weights, ONE, "first")
    assert is_fresh(out, made_from()), "the same bytes: nothing to redo"
    put(weights, ONE, "second")
    assert is_fresh(weights, ONE) and not is_fresh(out, made_from())
    assert differences(out, made_from()) == ["fold_0/64.safetensors changed"]


def test_a_change_of_the_code_is_said_and_costs_nothing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.txt"
    put(path, ONE)
    artifacts.print_fresh(path)
    assert "earlier" not in capsys.readouterr().out
    monkeypatch.setattr(artifacts, "code_version", lambda: "another")
    assert is_fresh(path, ONE)
    artifacts.print_fresh(path)
    assert "another version of the code" in capsys.readouterr().out


def test_differences_are_said_by_name(tmp_path):
    path = tmp_path / "x.txt"
    put(path, Origin({"train": {"lr": 1, "wd": 0, "old": 1}, "fold": 0}, {"a.npy": "1", "b.npy": "1"}))
    now = Origin({"train": {"lr": 2, "wd": 0}, "fold": 0, "new": [1]}, {"a.npy": "1", "b.npy": "2", "c.npy": "1"})
    assert differences(path, now) == [
        "new unset -> [1]",
        "train.lr 1 -> 2",
        "train.old 1 -> unset",
        "b.npy changed",
        "c.npy changed",
    ]
    assert differences(tmp_path / "y.txt", now) == []


def test_keys_depend_on_values_and_not_on_order_or_container():
    assert Origin({"a": 1, "b": 2}, {}).key() == Origin({"b": 2, "a": 1}, {}).key()
    assert origin({"phases": (1, 2)}, {}).key() == origin({"phases": [1, 2]}, {}).key()
    keys = {
        o.key() for o in [ONE, TWO, Origin({"lr": 1}, {"x": "1"}), Origin({"lr": "1"}, {}), Origin({"lr": 1.5}, {})]
    }
    assert len(keys) == 5
