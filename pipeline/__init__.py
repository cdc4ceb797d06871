"""Salt segmentation: `python -m pipeline` for the stages; as a library, `from pipeline import load_run`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.salt.trained import load_run

__all__ = ["load_run"]


def __getattr__(name: str):
    """Import torch only when the library is used."""
    if name == "load_run":
        from pipeline.salt.trained import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
