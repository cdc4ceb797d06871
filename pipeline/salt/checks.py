"""Checks of what a run needs from its machine: packages, a convolution on each GPU, disk, tiles, ImageNet weights.

Used by tools.doctor and by tools.session, which Kaggle's notebooks run first. The checks change nothing.
"""

import importlib
import os
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from pipeline.salt import environment, stages
from pipeline.salt.artifacts import CODE
from pipeline.salt.disk import display_path
from pipeline.salt.distributed import visible_gpus
from pipeline.salt.errors import InputError
from pipeline.salt.product import all_done
from pipeline.salt.run import Run

OK, NOTE, FAULT = "ok", "--", "!!"
SPARE = {"pretrainedmodels", "six"}  # if missing, timm's copy of the same encoders is used
IMPORTED = ("torch", "torchvision", "timm", "fastai.learner")
# Bytes that a run may take: the weights of each fold not trained yet (three files of 0.4 GB for a GPU profile), and
# everything else: states of unfinished trainings, predictions.
OF_FOLD, ELSE = 0.1e9, 1.5e9
OF_FOLD_WITH_GPU, ELSE_WITH_GPU = 1.2e9, 6e9


class Finding(NamedTuple):
    """What a check has found.

    mark     OK, NOTE (no fault, but worth a look) or FAULT
    subject  what was checked: 'gpu', or the command that makes an artifact
    remedy   what fixes a fault, a command if there is one; for a note, what to do next, if anything
    """

    mark: str
    subject: str
    text: str
    remedy: str = ""


def of_machine(run: Run) -> Iterator[Finding]:
    """Checks of what a run needs and does not make itself; those that use torch only if it can be imported."""
    installed = [*packages()]
    yield from installed
    if all(finding.mark != FAULT for finding in installed):
        yield from gpus()
        yield from weights(run)
    yield from disk(run)
    yield from tiles(run)


def packages() -> Iterator[Finding]:
    """Whether the required packages are installed, recent enough, and can be imported."""
    from packaging.requirements import Requirement

    found = environment.versions()
    yield Finding(OK, "versions", ", ".join(f"{name} {version}" for name, version in found.items()))
    pip = f"{shlex.quote(display_path(Path(sys.executable)))} -m pip install"
    wrong = []
    for requirement in map(Requirement, _requirements()):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "none"
        if requirement.name not in SPARE and (version == "none" or not requirement.specifier.contains(version, True)):
            wrong.append((str(requirement), version))
    for needed, version in wrong:
        yield Finding(FAULT, "versions", f"{needed} is needed, {version} is installed", f"{pip} {shlex.quote(needed)}")
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as e:  # whatever its compiled part raises
            text = f"{name} cannot be imported ({type(e).__name__}: {str(e).partition(chr(10))[0]})"
            remedy = f"{pip} --force-reinstall torch torchvision  # builds that match: docs/how-to/install.md"
            yield Finding(FAULT, "versions", text, remedy)
            return


def _requirements() -> list[str]:
    """Requirements of the clone that this code lies in, or of the installed package; [] for a bare copy of the code."""
    project = CODE.with_name("pyproject.toml")
    if project.exists():
        return tomllib.loads(project.read_text())["project"]["dependencies"]
    try:
        return [each for each in metadata.requires("salt-segmentation") or [] if "extra ==" not in each]
    except metadata.PackageNotFoundError:
        return []


def gpus() -> Iterator[Finding]:
    """One real convolution on each GPU, or on the CPU."""
    import torch

    from pipeline.salt.device import device_name, is_full, try_out

    if not visible_gpus():
        try_out(cpu := torch.device("cpu"))
        yield Finding(NOTE, "gpu", f"there is none; a convolution on the CPU works ({device_name(cpu)})")
    elif not torch.cuda.is_available():
        text = f"there is one, but torch {torch.__version__} cannot use it"
        yield Finding(FAULT, "gpu", text, "install the build of torch for its driver: https://pytorch.org/get-started")
    for i in range(torch.cuda.device_count()):
        device = torch.device("cuda", i)
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        try:
            try_out(device)
            yield Finding(OK, "gpu", f"{i}: {name}, {memory / 2**30:.0f} GiB; a convolution on it works")
        except InputError as e:
            if is_full(e.__cause__):
                fault, remedy = "its memory is full", "nvidia-smi  # shows what uses it"
            else:
                fault = f"torch {torch.__version__} has no kernels for it"
                remedy = "export CUDA_VISIBLE_DEVICES=  # to use the CPU; or name the GPUs that work"
            yield Finding(FAULT, "gpu", f"{i}: {name}; {fault}", remedy)


def disk(run: Run) -> Iterator[Finding]:
    """Whether an unfinished run can write to --out, and has room there for the rest."""
    folder = next(path for path in (run.files.out, *run.files.out.parents) if path.exists())
    free, last = shutil.disk_usage(folder).free, run.profile.train.last
    of_fold, otherwise = (OF_FOLD_WITH_GPU, ELSE_WITH_GPU) if run.profile.needs_gpu else (OF_FOLD, ELSE)
    untrained = sum(not all_done(stages.trained(run, fold, last).values()) for fold in run.folds)
    needed = otherwise + untrained * of_fold
    finished = all(all_done(products) for _, _, products in stages.table(run))
    text = f"{run.files.out}: {free / 1e9:.1f} GB free"
    if not finished and not os.access(folder, os.W_OK):
        yield Finding(FAULT, "disk", f"{run.files.out}: cannot be written to", "name a writable folder with --out DIR")
    elif not finished and free < needed:
        text += f"; this run may need {needed / 1e9:.1f} GB"
        yield Finding(FAULT, "disk", text, "free some space, or choose another disk with --out DIR")
    else:
        yield Finding(OK, "disk", text)


def tiles(run: Run) -> Iterator[Finding]:
    """Where the tiles come from."""
    if run.data:
        yield Finding(OK, "tiles", str(run.data))
    else:
        yield Finding(NOTE, "tiles", "generated ones are used; name Kaggle's or your own with --data DIR")


def weights(run: Run) -> Iterator[Finding]:
    """Where the encoder's ImageNet weights come from, and whether their file, if it is there, is undamaged."""
    from pipeline.salt.models.encoders.weights import addresses, fault_of, find_weights, is_fetched

    encoder = run.profile.model.encoder
    if run.profile.model.weights != "imagenet":
        return
    if file := find_weights(encoder, run.weights):
        fault = fault_of(file, encoder)
        url = next((url for url, name in addresses(encoder).items() if name == file.name), None)
        fetch = ["curl", "-L", "-o", display_path(file), url] if url else []
        remedy = shlex.join(fetch) or "name another file: --weights FILE"
        yield Finding(FAULT, "weights", fault, remedy) if fault else Finding(OK, "weights", str(file))
        return
    text = f"ImageNet's for {encoder} are not there; they are needed to train, not to predict"
    if urls := [url for url, name in addresses(encoder).items() if is_fetched(name)]:
        remedy = f"training downloads them from {urls[0]}; without a connection, name a file: --weights FILE"
    else:
        remedy = "no download address is known: give --weights FILE, or --weights none to train from scratch"
    yield Finding(NOTE, "weights", text, remedy)
