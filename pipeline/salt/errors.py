"""User-facing errors."""

import difflib
import re
from collections.abc import Collection


class InputError(Exception):
    """Something the user can fix. The text names the file or value, the rule, and what to do; no traceback is shown."""


class Stopped(Exception):
    """Work was stopped early on purpose: what is done is saved, and the same command resumes from there."""

    status = 75  # exit status of the process; EX_TEMPFAIL in sysexits.h: no error, try again later

    def __init__(self, text: str, status: int = status):
        super().__init__(text)
        self.status = status


def reason(error: Exception) -> str:
    """The message of a library's exception as one short line, without addresses of objects."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(" at 0x[0-9a-f]+", "", said.splitlines()[0])[:200]


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The end of a message about a name that is not among `known`: similar names, or else all of them."""
    near = near_names(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"


def near_names(name: object, known: Collection[str]) -> str:
    """Those of `known` that look like `name`: 'resnet34 or resnet50'; '' if none does."""
    return " or ".join(difflib.get_close_matches(str(name), known, n=4, cutoff=0.5))
