"""What a result was made with: the versions of Python and packages and the kind of machine, and how that differs here.

Every sidecar and every saved state records it. Arrays, tables and submissions read the same whichever version wrote
them, so differences are not reported for those. For two kinds of files they matter and are reported in one line:

weights  become a model only through the code of MODEL_PACKAGES. Reported if the release differs (2.10, 2.11): a patch
         of the same release (2.11.1) or a build for another device (2.11+cu128) changes no model.
states   promise that a training resumes bit for bit. Any difference is reported, once, when the training resumes.
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
    """'torch 2.10.0 (here 2.11.1), timm 0.9 (here none)': the entries of `then` that differ now; '' if none does.

    names  compare only these packages, and only their release, the first two numbers of a version
    """
    known = [name for name in then if name in names or not names]
    here = {name: now.get(name, "none") for name in known}
    differing = [name for name in known if then[name] != here[name]]
    if names:
        differing = [name for name in differing if _release(then[name]) != _release(here[name])]
    return ", ".join(f"{name} {then[name]} (here {here[name]})" for name in differing)


@cache
def say(text: str) -> None:
    """Print the line once per process: ten folds usually have the same versions to report."""
    print(text)


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]
