"""Processes that train one fold together, as `accelerate launch` or torchrun starts them; each is called a rank.

Without such a launcher there is one rank, and nothing here does anything.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from pipeline.salt.errors import InputError


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the rank that prints and publishes."""
    return world_size() == 1 or os.environ["RANK"] == "0"


@contextlib.contextmanager
def joined() -> Iterator[Callable[[], None]]:
    """Inside it the ranks reach each other, each has its own GPU, the first one prints. Yields what waits for all."""
    if world_size() == 1:
        yield lambda: None
        return
    try:
        from accelerate import PartialState
    except ImportError as e:
        raise InputError(
            "a fold over several processes needs accelerate: pip install 'salt-segmentation[cluster]', or "
            "from the clone pip install -e '.[cluster]'"
        ) from e
    import torch

    state = PartialState(cpu=not torch.cuda.is_available())
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(sys.stdout if is_first() else nowhere):
        yield state.wait_for_everyone
    state.destroy_process_group()
