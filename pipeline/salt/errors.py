"""User-facing errors."""

import difflib
import re
from collections.abc import Collection


class InputError(Exception):
    """Something the user can fix. Its text names the file or value, the rule, and what to do; it is shown alone."""


class Stopped(Exception):
    """Work that ended before its end, in good order: what is done is saved, and the same command goes on from there."""

    status = 75  # of the process; EX_TEMPFAIL of sysexits.h: no error, try again later

    def __init__(self, text: str, status: int = status):
        super().__init__(text)
        self.status = status


def reason(error: Exception) -> str:
    """What an exception of a library says, in one short line without addresses of objects."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(" at 0x[0-9a-f]+", "", said.splitlines()[0])[:200]


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The end of a sentence about a name that is not among `known`."""
    near = near_names(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"


def near_names(name: object, known: Collection[str]) -> str:
    """Those of `known` that look like `name`: 'resnet34 or resnet50'; '' where none does."""
    return " or ".join(difflib.get_close_matches(str(name), known, n=4, cutoff=0.5))
