"""Progress bars on a terminal and through a worker's pipe; none without a terminal."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.salt.progress import MARK, RELAY, StatusLine, progress_bar

BAR = """
from pipeline.salt.progress import progress_bar
bar = progress_bar(4, "fold 0  64 px epoch 2/9")
for _ in range(4):
    bar.update()
bar.refresh()
bar.close()
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of_a_worker(environment: dict[str, str]) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", BAR],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name != RELAY} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not ended.stderr
    return ended.stdout.splitlines()


def test_a_workers_bar_is_lines_that_its_parent_can_tell_from_others():
    lines = lines_of_a_worker({RELAY: "1"})
    assert lines[0] == f"{MARK}fold 0  64 px epoch 2/9 0%" and f"{MARK}fold 0  64 px epoch 2/9 100%" in lines
    assert lines[-1].strip() == MARK.strip(), "it is gone at its end"
    assert all(line.startswith(MARK.strip()) for line in lines)


def test_without_a_terminal_there_is_no_bar():
    assert lines_of_a_worker({}) == []


def test_hidden_means_hidden(monkeypatch, capsys):
    monkeypatch.setenv(RELAY, "1")
    progress_bar(4, "process 1", hidden=True).update()
    assert capsys.readouterr() == ("", "")


def screen(text: str) -> list[str]:
    """What a terminal shows after this text; it understands line ends and 'clear this line'."""
    rows = [""]
    for part in text.replace("\r\033[K", "\0").replace("\n", "\n\1").split("\1"):
        *_, last = part.split("\0")
        rows[-1] = last.rstrip("\n") if "\0" in part else rows[-1] + last.rstrip("\n")
        if part.endswith("\n"):
            rows.append("")
    return rows


def test_the_bars_of_all_workers_are_the_last_line_and_lines_go_above(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    status = StatusLine()
    status.update("fold 0", "fold 0 10%")
    status.update("fold 1", "fold 1 20%")
    status.print("fold 0  epoch 1/2\n")
    status.update("fold 0", "")
    assert screen(terminal.getvalue()) == ["fold 0  epoch 1/2", "fold 1 20%"]
    status.update("fold 1", "")
    assert screen(terminal.getvalue())[-1] == ""


def test_the_last_line_is_never_wider_than_the_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    status = StatusLine()
    status.update("fold 0", "x" * 50)
    assert screen(terminal.getvalue())[-1] == "x" * 19


@pytest.mark.parametrize("line", ["fold 0  epoch 1/2\n", "ä\n"])
def test_elsewhere_only_lines_are_printed(capsys, line):
    status = StatusLine()
    status.update("fold 0", "fold 0 10%")
    status.print(line)
    assert capsys.readouterr().out == line
