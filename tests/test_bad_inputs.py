"""Every row of the tables of bad inputs, given to its command: one sentence with the file's name, and nothing changed.

The tables are in tests/bad/.
"""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import prepare
from pipeline.salt import cli
from pipeline.salt.config import Tiling
from pipeline.salt.errors import InputError
from pipeline.salt.tiles import competition, folder, own_folds
from tests.bad import builders, commands, kaggle, own

FAULTS = r"error: \d+ faults? in \S+: fix the files below, or download them again\."


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return builders.competition(tmp_path_factory.mktemp("whole") / "tgs")


@pytest.fixture
def data(whole, tmp_path) -> Path:
    """A copy of the valid competition folder for tests that change it."""
    return shutil.copytree(whole, tmp_path / "tgs")


def tree(folder: Path) -> dict[bytes, object]:
    """Everything below a folder: content of files, targets of links."""
    return {
        os.fsencode(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(main, *flags: str, below: Path) -> str:
    """What the command prints to stderr as it ends with status 1; checks that the folder is unchanged."""
    before, said = tree(below), io.StringIO()
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as e:
        cli.start(lambda _: main([*flags]))
    assert isinstance(e.value.code, str), "a text makes Python print it to stderr and exit with 1"
    assert not said.getvalue(), "and nothing else is printed there"
    assert tree(below) == before
    for word in ("Traceback", "Errno", "0x", "\0", "\x1b"):
        assert word not in e.value.code, "it helps nobody"
    return e.value.code


@pytest.mark.parametrize("spoil, says", kaggle.REFUSED.values(), ids=kaggle.REFUSED)
def test_kaggles_files(data, tmp_path, spoil, says):
    spoil(data)
    first, *lines = refusal(prepare.main, f"--data={data}", f"--out={tmp_path / 'out'}", below=tmp_path).split("\n")
    assert re.fullmatch(FAULTS, first) and len(lines) == 1 and re.search(says, lines[0].strip()), lines


@pytest.mark.parametrize("spoil, reason, picture", kaggle.TAKEN.values(), ids=kaggle.TAKEN)
def test_kaggles_files_that_are_taken(whole, data, spoil, reason, picture):
    spoil(data)
    before, expected = tree(data.parent), competition.read(whole)[0]
    tiles = competition.read(data)[0]
    np.testing.assert_array_equal(tiles.train_images[2], picture, err_msg=reason)
    np.testing.assert_array_equal(tiles.train_masks, expected.train_masks)
    np.testing.assert_array_equal(tiles.test_images, expected.test_images)
    assert tiles.table["id"].equals(expected.table["id"]) and tree(data.parent) == before


# ---- a folder of one's own


@pytest.fixture
def mine(tmp_path) -> Path:
    return own.whole(tmp_path / "mine")


@pytest.mark.parametrize("spoil, says", own.REFUSED.values(), ids=own.REFUSED)
def test_files_of_ones_own(mine, tmp_path, spoil, says):
    spoil(mine)
    first, *lines = refusal(prepare.main, f"--data={mine}", f"--out={tmp_path / 'out'}", below=tmp_path).split("\n")
    assert re.fullmatch(FAULTS, first) and len(lines) == 1 and re.search(says, lines[0].strip()), lines


@pytest.mark.parametrize("spoil, reason, picture", own.TAKEN.values(), ids=own.TAKEN)
def test_files_of_ones_own_that_are_taken(mine, spoil, reason, picture):
    spoil(mine)
    before, (tiles, _) = tree(mine), folder.read(mine, Tiling())
    assert tiles.table["id"].tolist() == ["a", "b", "c", "d"] and tree(mine) == before
    np.testing.assert_array_equal(tiles.train_images[1], picture, err_msg=reason)
    np.testing.assert_array_equal(tiles.train_masks, [own.scene(i) > 128 for i in range(3)])
    np.testing.assert_array_equal(tiles.test_images, [own.scene(3)])


# ---- command lines


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty working folder, next to a file."""
    (tmp_path / "file").write_text("")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    return tmp_path


@pytest.mark.parametrize("command, flags, says", commands.REFUSED)
def test_command_lines(here, command, flags, says):
    said = refusal(command.main, *(flag.replace("TMP", str(here)) for flag in flags), below=here)
    assert says.replace("TMP", str(here)) in said and "\n" not in said, said


@pytest.mark.parametrize("command, flags, says", commands.USAGE)
def test_command_lines_that_argparse_refuses(here, capsys, command, flags, says):
    with pytest.raises(SystemExit) as e:
        cli.start(lambda _: command.main(flags))
    usage, _, error = capsys.readouterr().err.rpartition("error: ")
    assert e.value.code == 2 and usage.startswith("usage: ") and says in error and error.count("\n") == 1
    assert sorted(path.name for path in here.rglob("*")) == ["file", "here"]


@pytest.mark.parametrize("content, says", commands.FOLDS)
def test_folds_of_ones_own(tmp_path, content, says):
    path, table = tmp_path / "mine.csv", pd.DataFrame({"id": list("abcd")})
    path.write_text("fold,id\n1,b\n 0 ,a\n0,d\n1,c\n")
    assert own_folds.read(path, table, 2).tolist() == [0, 1, 1, 0]
    path.write_bytes(content)
    with pytest.raises(InputError) as e:
        own_folds.read(path, table, 2)
    first, *lines = str(e.value).split("\n")
    assert re.fullmatch(FAULTS, f"error: {first}") and f"mine.csv: {says}" in lines[0]
