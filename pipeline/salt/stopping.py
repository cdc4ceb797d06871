"""Ends a command in good order at SIGTERM and Ctrl-C: a training finishes its step and saves, workers do so too."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from pipeline.salt.distributed import is_main_process, world_size
from pipeline.salt.errors import Stopped


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where the program is as Ctrl-C is, so that what is half-written is cleared away."""


@contextlib.contextmanager
def terminating_like_ctrl_c() -> Iterator[None]:
    """Inside it SIGTERM raises Terminated, and Ctrl-C KeyboardInterrupt, though a shell has begun it to ignore that.

    C code may make an error of its own of that (safetensors: a ValueError): one that follows is taken for the signal.
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
    """Inside it a first SIGTERM or Ctrl-C is only noted; what is yielded gives the work its number, 0 where none was.

    A second one raises KeyboardInterrupt at once. Not where several processes train one model: their launcher hands
    them the Ctrl-C that they have had already, and kills them half a minute later.
    """
    noted: list[int] = []

    def note(number: int, frame) -> None:
        if noted and world_size() == 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if not noted and is_main_process():
            once_more = b"; once more stops at once" * (world_size() == 1)
            # print cannot be called within itself, which is where the signal may come
            os.write(2, b"\nstopping after this step, which is saved" + once_more + b"\n")
        noted.append(number)

    with _handling({signal.SIGTERM: note, signal.SIGINT: note}):
        yield lambda: noted[0] if noted else 0


def stop_if_asked(done: str, number: float, late: float) -> None:
    """Raises Stopped, with what is done, where a signal or the clock asks for an end; called after a piece of work.

    number  of a signal that has come, else 0: what `noting` yields gives it;  late  whether the hours are over, or 0
    """
    if number:
        raise Stopped(f"{done}; the same command goes on from there", 128 + int(number))
    if late:
        raise Stopped(f"{done}: the hours of --max-hours are over; the same command goes on")


@contextlib.contextmanager
def _handling(handlers: dict) -> Iterator[None]:
    """Inside it these signals have these handlers. In the main thread alone, which gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
