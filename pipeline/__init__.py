"""Salt segmentation: run the stages with `python -m pipeline`, use a run with `from pipeline import load_run`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.salt.trained import load_run

__all__ = ["load_run"]


def __getattr__(name: str):
    """Import `load_run`, and with it torch, on first use."""
    if name == "load_run":
        from pipeline.salt.trained import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
