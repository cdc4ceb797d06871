"""Progress bars, including those of worker processes, which send them through a pipe."""

import os
import shutil
import sys
from threading import Lock

from tqdm.auto import tqdm

RELAY = "SALT_RELAY_PROGRESS"  # set in the environment of a worker whose parent draws its bars
MARK = "progress: "  # prefix of a worker's output lines that hold a bar


def progress_bar(total: int, title: str, hidden: bool = False) -> tqdm:
    """tqdm's bar on a terminal; in a worker with RELAY, lines for its parent's StatusLine; else no output."""
    if RELAY in os.environ and not hidden:
        form = "{desc} {percentage:.0f}%"
        return tqdm(total=total, desc=title, leave=False, mininterval=1, bar_format=form, file=_Relay(), disable=False)
    return tqdm(total=total, desc=title, leave=False, disable=True if hidden else None)


class StatusLine:
    """The last line of a terminal, with the bars of all workers side by side. Elsewhere only `print` has an effect."""

    def __init__(self) -> None:
        self.bars: dict[str, str] = {}
        self.lock, self.is_terminal = Lock(), sys.stdout.isatty()

    def print(self, line: str) -> None:
        """Print a line, which includes its line end, above the status line."""
        with self.lock:
            sys.stdout.write("\r\033[K" * self.is_terminal + line)
            self._draw()

    def update(self, worker: str, bar: str) -> None:
        """Set a worker's bar, '' if it has none now."""
        with self.lock:
            self.bars[worker] = bar
            self._draw()

    def _draw(self) -> None:
        if self.is_terminal:
            text = "  |  ".join(filter(None, self.bars.values()))
            sys.stdout.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
        sys.stdout.flush()


class _Relay:
    """A file for tqdm that prints each state of the bar as a line of its own on stdout."""

    def write(self, text: str) -> None:
        if "\r" in text or text.strip():
            print(MARK + text.replace("\r", "").strip(), flush=True)

    def flush(self) -> None:
        pass
