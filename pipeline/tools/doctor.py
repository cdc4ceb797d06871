"""Check everything a run needs and has made: what is wrong, and the command that fixes it. Changes nothing.

    python -m pipeline.tools.doctor                  with the flags of the run, as for every stage
    python -m pipeline.tools.doctor --data DIR --profile blog --run NAME

prints  a line for each thing: ok, -- (no fault: not made yet, or worth a look) or !! (wrong); below it what fixes it
Checks the packages, the GPUs (one real convolution on each), the disk, the tiles (every file, unless decoded already
and unchanged since), ImageNet weights, every artifact (its bytes, its settings), saved states, and what killed
processes left behind. The exit status is 0 if nothing is wrong, else 1.
"""

import shlex
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from pipeline.salt import artifacts, checks, cli, disk, environment, stages
from pipeline.salt.artifacts import Origin, sidecar_of
from pipeline.salt.checks import FAULT, NOTE, OK, Finding
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError
from pipeline.salt.product import Product, all_done, command_of
from pipeline.salt.progress import progress_bar
from pipeline.salt.run import Run
from pipeline.salt.tiles import competition, folder

KEPT = ("make_folds", "train")  # stages that replace results made with other settings only with --force


def main(argv: list[str] | None = None) -> None:
    run, _ = cli.parse(__doc__, argv, flags=cli.RUN_FLAGS)
    faults = 0
    with artifacts.only_looking():
        for finding in findings(run):
            faults += finding.mark == FAULT
            print(f"{finding.mark}  {finding.subject:<10} {finding.text}", flush=True)
            if finding.remedy:
                print(f"    {'fix' if finding.mark == FAULT else 'next':<10} {finding.remedy}", flush=True)
    if faults:
        print(f"\n{faults} fault{'s' * (faults > 1)}; start with the first: later ones may follow from it")
        sys.exit(1)
    print("\nnothing is wrong")


def findings(run: Run) -> Iterator[Finding]:
    """All checks, in the order in which a run needs the things they check."""
    about = f"{run.files.run}, profile {run.profile.name}: {run.profile.about} ({run.reason})"
    yield Finding(OK, "run", about)
    of_machine = [*checks.of_machine(run)]
    yield from of_machine
    yield from data(run)
    yield from made(run)
    if all(
        finding.mark != FAULT for finding in of_machine if finding.subject == "versions"
    ):  # reading them takes torch
        yield from states(run)
    yield from leftovers(run)


def data(run: Run) -> Iterator[Finding]:
    """The tiles' files: unchanged since they were decoded and checked, or else read and checked again."""
    if run.data is None:
        return
    if all_done(stages.decoded(run)):
        yield Finding(OK, "tiles", "unchanged since they were decoded, and had no fault then")
        return
    try:
        tiles, _ = folder.read(run.data, run.profile.tiles) if run.own_data else competition.read(run.data)
    except InputError as e:
        listed, again = str(e).replace("\n", "\n    "), command_of(run, "prepare")
        yield Finding(FAULT, "tiles", listed, f"as the line above says; then {again}")
    else:
        text = f"{len(tiles.train_images)} with a mask, {len(tiles.test_images)} to predict; no file has a fault"
        yield Finding(OK, "tiles", text)


def made(run: Run) -> Iterator[Finding]:
    """Every artifact: one finding per command that makes artifacts, or one per damaged artifact of that command."""
    products = stages.everything(run)
    sizes = [product.path.stat().st_size / 2**20 if product.path.is_file() else 0 for product in products]
    with progress_bar(round(sum(sizes)), "hashing, MiB") as bar:
        for product, size in zip(products, sizes, strict=True):
            artifacts.damage_of(product.path, hashed=True)  # remembers the result
            bar.update(size)
    for maker, group in groupby(products, key=lambda product: product.maker):
        by_command = [*group]
        faults = [fault for product in by_command if (fault := fault_of(run, product))]
        yield from faults or [summary(run, maker, by_command)]


def fault_of(run: Run, product: Product) -> Finding | None:
    """What is wrong with an artifact; None if it is whole, or was never made."""
    path, subject = product.path, product.maker.split()[0]
    again = command_of(run, product.maker)
    if not path.exists():
        if not sidecar_of(path).exists():
            return None
        return Finding(FAULT, subject, f"{display_path(path)} is gone, but its {sidecar_of(path).name} is there", again)
    if not sidecar_of(path).exists():
        text = f"{display_path(path)} is not finished: {sidecar_of(path).name}, which is written last, is missing"
        return Finding(FAULT, subject, text, again)
    if damage := artifacts.damage_of(path, hashed=True):
        return Finding(FAULT, subject, damage, f"{again} --force")
    return None


def summary(run: Run, maker: str, products: list[Product]) -> Finding:
    """The finding about what one command has made, none of it damaged."""
    subject, again = maker.split()[0], command_of(run, maker)
    for product in products:
        if changes := product.changes():
            text = f"{display_path(product.path)} was made with other settings ({'; '.join(changes)})"
            if subject not in KEPT:
                return Finding(NOTE, subject, f"{text}: {again}")
            return Finding(
                FAULT, subject, text, f"give the same flags as then, or --run NAME; to replace it: {again} --force"
            )
    if missing := [product for product in products if not product.path.exists()]:
        some = "" if len(missing) == len(products) else f"{', '.join(display_path(each.path) for each in missing)} "
        return Finding(NOTE, subject, f"{some}not made yet: {again}")
    size = sum(product.path.stat().st_size for product in products)
    files = f"{len(products)} file{'s' * (len(products) > 1)}, {size / 1e6:,.1f} MB"
    text = f"{files}: every byte is as it was written"
    if own := maker.split()[1:]:
        text = f"{' '.join(own)}: {text}"
    sidecar = artifacts.read_sidecar(products[0].path) or {"versions": {}}
    others = environment.differences(sidecar["versions"], environment.versions(), environment.MODEL_PACKAGES)
    if subject == "train" and others:
        return Finding(NOTE, subject, f"{text}; made with {others}")
    return Finding(OK, subject, text)


def states(run: Run) -> Iterator[Finding]:
    """Saved states of unfinished trainings and predictions: how far they are, and the command that resumes them."""
    last_made = {product.state: product for product in stages.everything(run) if product.state}
    for state, product in last_made.items():
        if state.exists():
            yield of_state(run, product, state, of_training if state.suffix == ".pt" else of_prediction)


def of_state(run: Run, product: Product, path: Path, read: Callable[[Path], tuple[Origin, str]]) -> Finding:
    """The finding about one state; read(path) returns what it was made from and how far it is, or raises."""
    subject, command, name = product.maker.split()[0], command_of(run, product.maker), display_path(path)
    if product.status() == "done":
        files = [display_path(file) for file in (path, sidecar_of(path)) if file.exists()]
        text = f"{name} is left over from finished work, or from a --force that was stopped"
        remedy = f"{command} --force  # continues it; or, to give it up: {shlex.join(['rm', *files])}"
        return Finding(NOTE, subject, text, remedy)
    try:
        origin, done = read(path)
    except Exception as e:  # whatever torch makes of a damaged file
        text = f"{name} is damaged ({type(e).__name__}): its content is lost"
        return Finding(FAULT, subject, text, f"{command}  # starts again")
    try:
        changes = artifacts.changes(origin, product.origin())
    except InputError:
        return Finding(NOTE, subject, f"{name}: {done}; its inputs have to be made first")
    if changes:
        remedy = f"give the same flags as then, or --run NAME; to start again: {command} --force"
        return Finding(FAULT, subject, f"{name}: {done}, with other settings ({'; '.join(changes)})", remedy)
    return Finding(NOTE, subject, f"{name}: {done}; to go on from there: {command}")


def of_training(path: Path) -> tuple[Origin, str]:
    from pipeline.salt.training import checkpoints

    state = checkpoints.load_state(path)
    steps = f" and {state['batch']} steps of the next" * bool(state["batch"])
    return Origin(state["settings"], state["inputs"]), f"{state['epochs']} epochs{steps} are done"


def of_prediction(path: Path) -> tuple[Origin, str]:
    if damage := artifacts.damage_of(path, hashed=True):
        raise InputError(damage)
    sidecar = artifacts.read_sidecar(path) or {"settings": {}, "inputs": {}}
    return Origin(sidecar["settings"], sidecar["inputs"]), "some tiles are predicted"


def leftovers(run: Run) -> Iterator[Finding]:
    """Temporary files and locks in the run's folders, of working and of killed processes.

    A lock is no fault: it ends with its process, and its file is removed after the next process has used it.
    """
    for place in run.files.folders:
        for below in [place, *sorted(path for path in place.glob("*") if path.is_dir())]:
            for file, killed in disk.unfinished(below):
                name = display_path(file)
                if killed and not name.endswith(".lock"):
                    yield Finding(FAULT, "leftover", f"{name}, of a killed process", shlex.join(["rm", name]))
                else:
                    whose = "a killed process" if killed else "a process at work, here or on another machine"
                    yield Finding(NOTE, "leftover", f"{name}, of {whose}")


if __name__ == "__main__":
    cli.start(main)
