"""A stale artifact never looks fresh, and a half-written one is never there."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pipeline.salt import artifacts
from pipeline.salt.artifacts import Files, Origin, differences, is_fresh, origin, publish, replace_file
from pipeline.salt.errors import InputError

ONE, TWO = Origin({"lr": 1}, {}), Origin({"lr": 2}, {})


def text(words: str):
    return lambda tmp: tmp.write_text(words)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def dies(error: BaseException, after: str = "half"):
    def write(tmp: Path) -> None:
        tmp.write_text(after)
        raise error

    return write


def test_what_is_published_is_there_with_its_notes(tmp_path):
    path = tmp_path / "a" / "b" / "x.npy"
    publish(path, ONE, lambda tmp: np.save(tmp, np.arange(3)), score=0.5)
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert names(path.parent) == ["x.npy", "x.npy.json"]
    notes = json.loads(path.with_name("x.npy.json").read_text())
    assert (
        notes["key"] == ONE.key() and notes["score"] == 0.5 and notes["settings"] == {"lr": 1} and notes["inputs"] == {}
    )
    assert {"python", "torch", "fastai"} <= set(notes["versions"]) and notes["host"] and notes["code"] and notes["made"]
    assert is_fresh(path, ONE) and not is_fresh(path, TWO)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1), OSError(errno.EIO, "x")])
def test_a_writer_that_dies_leaves_the_old_artifact_and_its_notes(tmp_path, error):
    path = tmp_path / "x.txt"
    publish(path, ONE, text("old"))
    before = (path.read_bytes(), path.with_name("x.txt.json").read_bytes())
    with pytest.raises(type(error)):
        publish(path, TWO, dies(error))
    assert (path.read_bytes(), path.with_name("x.txt.json").read_bytes()) == before
    assert is_fresh(path, ONE) and names(tmp_path) == ["x.txt", "x.txt.json"]


def test_a_writer_that_dies_first_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        publish(tmp_path / "x.txt", ONE, dies(RuntimeError()))
    assert names(tmp_path) == []


def test_a_writer_that_writes_nothing_is_noticed(tmp_path):
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "x.txt", ONE, lambda tmp: None)
    assert names(tmp_path) == []


def test_a_stage_killed_between_file_and_notes_is_not_done(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    publish(path, ONE, text("old"))
    monkeypatch.setattr(artifacts, "_hash_file", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        publish(path, ONE, text("new"))
    assert path.read_text() == "new" and not is_fresh(path, ONE), "old notes must not vouch for new bytes"


def test_a_process_killed_while_it_writes_leaves_the_old_artifact(tmp_path):
    path = tmp_path / "x.txt"
    publish(path, ONE, text("old"))
    program = f"""
        import os, signal
        from pathlib import Path
        from pipeline.salt.artifacts import Origin, publish
        def write(tmp):
            tmp.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        publish(Path({str(path)!r}), Origin({{"lr": 2}}, {{}}), write)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=Path(__file__).parents[1], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old" and is_fresh(path, ONE)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_is_said_in_a_sentence(tmp_path, error):
    publish(tmp_path / "x.txt", ONE, text("old"))
    with pytest.raises(InputError, match=r"no space left to write .*x\.txt; .*--out"):
        publish(tmp_path / "x.txt", TWO, dies(error))
    assert (tmp_path / "x.txt").read_text() == "old" and is_fresh(tmp_path / "x.txt", ONE)
    assert names(tmp_path) == ["x.txt", "x.txt.json"]


def test_a_full_disk_behind_another_error_is_found(tmp_path):
    def write(tmp: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  torch.save says this, and no more

    with pytest.raises(InputError, match="no space left"):
        replace_file(tmp_path / "x.pt", write)


def test_a_full_disk_while_the_notes_are_written_is_said_and_the_artifact_is_not_done(tmp_path, monkeypatch):
    write_text = Path.write_text

    def full(path: Path, *args, **kwargs):
        if path.name.endswith(".json"):
            raise OSError(errno.ENOSPC, "full")
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="no space left"):
        publish(tmp_path / "x.txt", ONE, text("new"))
    assert not is_fresh(tmp_path / "x.txt", ONE) and names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "x"), OSError(errno.EROFS, "x")])
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, error):
    with pytest.raises(InputError, match=r"x\.txt cannot be written; .*--out"):
        publish(tmp_path / "x.txt", ONE, dies(error))


def test_a_file_where_a_folder_belongs_is_said(tmp_path):
    (tmp_path / "folds").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        publish(tmp_path / "folds" / "demo" / "x.txt", ONE, text(""))
    with pytest.raises(InputError, match="cannot be written"):
        publish(tmp_path / "folds" / "x.txt", ONE, text(""))


def test_an_input_error_of_the_writer_comes_through_as_it_is(tmp_path):
    error = InputError("fold_0/64.safetensors cannot be read")
    error.__cause__ = PermissionError(errno.EACCES, "x")
    with pytest.raises(InputError, match="cannot be read"):
        publish(tmp_path / "x.txt", ONE, dies(error))


@pytest.mark.parametrize("damage", ["", '{"key": "', "\xff"])
def test_damaged_notes_are_said(tmp_path, damage):
    publish(tmp_path / "x.txt", ONE, text("a"))
    (tmp_path / "x.txt.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.txt\.json is damaged; delete it"):
        is_fresh(tmp_path / "x.txt", ONE)


def test_notes_without_their_file_do_not_count(tmp_path):
    publish(tmp_path / "x.txt", ONE, text("a"))
    (tmp_path / "x.txt").unlink()
    assert not is_fresh(tmp_path / "x.txt", ONE) and differences(tmp_path / "x.txt", TWO) == []


def test_a_change_of_time_is_no_change(tmp_path):
    path = tmp_path / "x.txt"
    publish(path, ONE, text("a"))
    below = origin({}, [path])
    os.utime(path, (0, 0))
    assert is_fresh(path, ONE) and origin({}, [path]) == below


def test_an_input_made_anew_with_the_same_settings_makes_what_follows_stale(tmp_path):
    weights, out = tmp_path / "64.safetensors", tmp_path / "oof.npy"
    publish(weights, ONE, text("first"))
    publish(out, origin({}, [weights]), text("predicted"))
    publish(weights, ONE, text("first"))
    assert is_fresh(out, origin({}, [weights])), "the same bytes: nothing to redo"
    publish(weights, ONE, text("second"))
    assert is_fresh(weights, ONE) and not is_fresh(out, origin({}, [weights]))
    assert differences(out, origin({}, [weights])) == [f"{tmp_path.name}/64.safetensors changed"]


def test_a_change_of_the_code_is_said_and_costs_nothing(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.txt"
    publish(path, ONE, text("a"))
    artifacts.say_fresh(path)
    assert "earlier" not in capsys.readouterr().out
    monkeypatch.setattr(artifacts, "code_version", lambda: "another")
    assert is_fresh(path, ONE)
    artifacts.say_fresh(path)
    assert "earlier version of the code; --force" in capsys.readouterr().out


def test_differences_are_said_by_name(tmp_path):
    path = tmp_path / "x.txt"
    publish(path, Origin({"train": {"lr": 1, "wd": 0, "old": 1}, "fold": 0}, {"a.npy": "1", "b.npy": "1"}), text("a"))
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
    assert origin({"stages": (1, 2)}).key() == origin({"stages": [1, 2]}).key()
    keys = {
        o.key() for o in [ONE, TWO, Origin({"lr": 1}, {"x": "1"}), Origin({"lr": "1"}, {}), Origin({"lr": 1.5}, {})]
    }
    assert len(keys) == 5


def test_origin_of_something_not_made_names_the_stage_that_makes_it(tmp_path):
    files = Files(tmp_path, "sample", "demo")
    for path, stage in [
        (files.cache("images.npy"), "prepare"),
        (files.cache("tiles.csv"), "prepare"),
        (files.cache("test.npy"), "prepare"),
        (files.folds, "make_folds"),
        (files.checkpoint(0, 64), "train"),
        (files.checkpoint(0, 64, "last"), "train"),
        (files.oof(), "predict"),
        (files.result("test.npy"), "predict"),
        (files.result("submission.csv.gz"), "submit"),
    ]:
        with pytest.raises(
            InputError, match=rf"{path.name} has not been made yet; run python -m pipeline\.{stage} first"
        ):
            origin({}, [path])


def test_no_two_artifacts_share_a_path(tmp_path):
    files = Files(tmp_path, "sample", "demo")
    paths = [files.cache(n) for n in ("images.npy", "masks.npy", "test.npy", "tiles.csv")] + [files.folds, files.oof()]
    for fold in range(2):
        for size in (64, 96):
            paths += [
                files.checkpoint(fold, size),
                files.checkpoint(fold, size, "last"),
                files.history(fold, size),
                files.resume(fold, size),
            ]
    paths += [files.result(n) for n in ("test.npy", "submission.csv.gz", "report.html", "scores.json")]
    with_notes = [*paths, *(p.with_name(p.name + ".json") for p in paths)]
    assert len(set(with_notes)) == len(with_notes)
    assert all(p.is_relative_to(tmp_path) for p in paths)
    others = Files(tmp_path, "sample", "blog")
    assert files.checkpoint(0, 64) != others.checkpoint(0, 64) and files.cache("tiles.csv") == others.cache("tiles.csv")


@pytest.mark.parametrize("path, said", [("x.npy", "x.npy"), ("/a/b/x.npy", "/a/b/x.npy")])
def test_paths_are_shown_as_a_person_types_them(path, said):
    assert artifacts.shown(Path(path)) == said


def test_space_is_claimed_for_a_file_that_is_to_be_mapped(tmp_path):
    with open(tmp_path / "x", "w+b") as f:
        f.truncate(1 << 20)
        artifacts.reserve(f.fileno())
        assert os.fstat(f.fileno()).st_size == 1 << 20
        if hasattr(os, "posix_fallocate"):
            assert os.fstat(f.fileno()).st_blocks * 512 >= 1 << 20
