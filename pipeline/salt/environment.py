"""What a result was made with: versions of Python and of the packages, the kind of machine; and whether that is here.

Every sidecar and every saved state has it. Arrays, tables and submissions are read as what they are, whichever version
wrote them, so nothing is said of those. Two things are less without it, and what differs is then one line:

weights  are numbers that the code of MODEL_PACKAGES makes a model of. Said of another release (2.10, 2.11): one that
         only mends the same release (2.11.1) or is built for another device (2.11+cu128) changes no model.
states   promise that a training goes on bit for bit. Said of any difference: it is said once, when it goes on.
"""

import contextlib
import platform
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata

PACKAGES = ("torch", "fastai", "timm", "pretrainedmodels", "numpy")
MODEL_PACKAGES = ("torch", "fastai", "timm")  # pretrainedmodels has had no release since 2018, and timm has a copy


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def machine() -> str:
    """The kind of machine: 'Linux x86_64'."""
    return f"{platform.system()} {platform.machine()}"


def differences(then: Mapping[str, str], now: Mapping[str, str], names: Collection[str] = ()) -> str:
    """'torch 2.10.0 (here 2.11.1), timm 0.9 (here none)': what differs of what is known of then; '' where nothing does.

    names  of packages: these alone, and only where the release differs, the first two numbers of a version
    """
    known = [name for name in then if name in names or not names]
    here = {name: now.get(name, "none") for name in known}
    differing = [name for name in known if then[name] != here[name]]
    if names:
        differing = [name for name in differing if _release(then[name]) != _release(here[name])]
    return ", ".join(f"{name} {then[name]} (here {here[name]})" for name in differing)


@cache
def say(text: str) -> None:
    """Print the line, once a process: ten folds are usually made with the same versions."""
    print(text)


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
