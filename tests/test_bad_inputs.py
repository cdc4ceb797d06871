"""Bad inputs, row by row, through the command that meets them: one sentence with the file's name, and nothing changed.

The rows are in tests/bad/: of each how it is made, and what must be said; or that it is taken, and why.
"""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import prepare
from pipeline.salt import cli
from pipeline.salt.tiles import competition
from tests.bad import builders, kaggle

FAULTS = r"error: \d+ faults? in \S+: mend or download again what is named here\."


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return builders.competition(tmp_path_factory.mktemp("whole") / "tgs")


@pytest.fixture
def data(whole, tmp_path) -> Path:
    """A copy of the whole competition that the test may change."""
    return shutil.copytree(whole, tmp_path / "tgs")


def tree(folder: Path) -> dict[bytes, object]:
    """What lies below a folder: content of files, targets of links."""
    return {
        os.fsencode(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(main, *flags: str, folder: Path) -> str:
    """What the command says on stderr as it ends with status 1; nothing in the folder has changed."""
    before, said = tree(folder), io.StringIO()
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as e:
        cli.start(lambda _: main([*flags]))
    assert isinstance(e.value.code, str), "a text makes Python print it to stderr and exit with 1"
    assert not said.getvalue(), "and nothing else is printed there"
    assert tree(folder) == before
    for word in ("Traceback", "Errno", "0x", "\0", "\x1b"):
        assert word not in e.value.code, "it helps nobody"
    return e.value.code


@pytest.mark.parametrize("spoil, says", kaggle.REFUSED.values(), ids=kaggle.REFUSED)
def test_kaggles_files(data, tmp_path, spoil, says):
    spoil(data)
    first, *lines = refusal(prepare.main, f"--data={data}", f"--out={tmp_path / 'out'}", folder=tmp_path).split("\n")
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
