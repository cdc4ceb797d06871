"""Clean stops on SIGTERM and Ctrl-C: a training finishes its step and saves, in worker processes too."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from pipeline.salt.distributed import is_main_process, world_size
from pipeline.salt.errors import Stopped

LATE = "the hours of --max-hours are over; the same command goes on"


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception, raised wherever the program is, like Ctrl-C, so that half-written files are removed."""


@contextlib.contextmanager
def terminating_like_ctrl_c() -> Iterator[None]:
    """Inside it SIGTERM raises Terminated, and Ctrl-C KeyboardInterrupt even if the shell had it ignored.

    C code may turn these into errors of its own (safetensors: a ValueError), so an error after a signal counts as the
    signal.
    """
    raised: list[type[KeyboardInterrupt]] = []

    def end(number: int, frame) -> None:
        raised.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise raised[-1]

    with _handling({signal.SIGTERM: end, signal.SIGINT: end}):
        try:
            yield
        except Exception as e:
            if not raised:
                raise
            raise raised[-1] from e


@contextlib.contextmanager
def noting() -> Iterator[Callable[[], int]]:
    """Inside it a first SIGTERM or Ctrl-C is only noted. Yields a function that returns its number, or 0 without one.

    A second signal raises Terminated or KeyboardInterrupt at once; but not if several processes train one model, since
    their launcher passes on the Ctrl-C that they have already received, and kills them half a minute later anyway.
    """
    noted: list[int] = []

    def note(number: int, frame) -> None:
        if noted and world_size() == 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if not noted and is_main_process():
            once_more = b"; once more stops at once" * (world_size() == 1)
            # print is not reentrant, and the signal may come inside a print
            os.write(2, b"\nstopping after this step, which is saved" + once_more + b"\n")
        noted.append(number)

    with _handling({signal.SIGTERM: note, signal.SIGINT: note}):
        yield lambda: noted[0] if noted else 0


def stop_if_asked(done: str, number: float, late: float) -> None:
    """Raise Stopped if a signal or the clock asks for it; to be called after a piece of work.

    done    what is done, to begin the message
    number  of the signal received, else 0, as returned by what `noting` yields
    late    whether the hours of --max-hours are over (true or 0)
    """
    if number:
        raise Stopped(f"{done}; the same command goes on from there", 128 + int(number))
    if late:
        raise Stopped(f"{done}: {LATE}")


@contextlib.contextmanager
def _handling(handlers: dict) -> Iterator[None]:
    """Inside it these signals have these handlers. Does nothing outside the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
