"""Run a stage or tool by name; without a name, print the state of a run, and all runs with their scores.

python -m pipeline                                   once the package is installed, `salt` does the same
python -m pipeline --data DIR --profile blog         the flags choose the run, as for every stage
python -m pipeline run                               all stages in order, like ./run_all.sh
python -m pipeline train --fold 0                    one stage
"""

import contextlib
import importlib
import pkgutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline.salt import artifacts, cli, door, stages
from pipeline.salt.artifacts import CODE, read_sidecar
from pipeline.salt.disk import display_path
from pipeline.salt.errors import InputError, did_you_mean
from pipeline.salt.product import Product, one_look
from pipeline.salt.run import Run

ALL = ("prepare", "make_folds", "train", "pseudo_label", "train --pseudo", "predict", "submit", "report")
RUN = """Run all stages in order; one whose inputs and settings have not changed returns at once.

    python -m pipeline run
    python -m pipeline run --data DIR --profile blog
"""


def main(argv: list[str] | None = None) -> None:
    flags = sys.argv[1:] if argv is None else argv
    if flags and not flags[0].startswith("-"):
        run_command(flags[0], flags[1:])
        return
    doc = f"{__doc__}\n{describe_commands()}" if {"-h", "--help"} & {*flags} else __doc__
    run, _ = cli.parse(doc, flags)
    print(f"run      {run.files.run}, profile {run.profile.name}: {run.profile.about} ({run.reason})")
    print(f"data     {display_path(run.data) if run.data else 'the built-in sample'}")
    print(f"out      {run.files.out}\n")
    with one_look():
        for command, about, products in stages.table(run):
            print(f"{command:<24} {summarize(products):<22} {about}")
    print_runs(run)
    print(
        "\nto run one stage, use the same flags, for example: python -m pipeline.train --phase "
        f"{run.profile.train.phases[0].name} --fold 0; to run them all: python -m pipeline run"
    )


def salt() -> None:
    """The console script."""
    cli.start(main)


def run_command(name: str, flags: list[str]) -> None:
    """Run the stage or tool of this name; 'run' is all stages in order. InputError for an unknown name."""
    modules = commands()
    if name not in {*modules, "run"}:
        raise InputError(f"there is no command {name!r}; {did_you_mean(name, [*modules, 'run'])}")
    sys.argv[0] = f"salt {name}"  # the name that --help shows
    if name != "run":
        importlib.import_module(modules[name]).main(flags)
        return
    run, _ = cli.parse(RUN, flags)  # answers --help and rejects wrong flags before any stage starts
    run.refuse_forced_sessions()
    started = f"--started={time.time()}"  # --max-hours is for all stages together
    for command in ALL:
        stage, *own = command.split()
        importlib.import_module(modules[stage]).main([started, *own, *flags])


def commands() -> dict[str, str]:
    """Full module name of every stage and tool, by its short name."""
    return {
        info.name: f"{package}.{info.name}"
        for package, folder in (("pipeline", CODE), ("pipeline.tools", CODE / "tools"))
        for info in pkgutil.iter_modules([str(folder)])
        if not info.ispkg and info.name != "__main__"
    }


def describe_commands() -> str:
    """One line per command: its name and the first line of its docstring."""
    about = {"run": RUN} | {name: importlib.import_module(module).__doc__ or "" for name, module in commands().items()}
    order = [*dict.fromkeys(["run", *(command.split()[0] for command in ALL), *sorted(about)])]
    return "commands, each with a --help of its own:\n" + "\n".join(
        f"  {name:<14} {about[name].partition(chr(10))[0]}" for name in order
    )


def summarize(products: Sequence[Product]) -> str:
    """'done', 'to do', 'out of date', 'damaged', '3 done, of 10'; 'waits' if an input is missing or damaged."""
    counts = Counter(product.status() for product in products)
    if len(counts) == 1:
        return next(iter(counts))
    words = [
        f"{counts[status]} {status}" for status in ("done", "damaged", "out of date", "under way") if counts[status]
    ]
    return f"{', '.join(words)}, of {len(products)}" if words else "to do"


def print_runs(run: Run) -> None:
    """Print one line per run below --out: how many trainings it has finished, and its scores."""
    folders = sorted(path.parent for path in (run.files.out / "folds").glob("*/folds.csv"))
    if folders:
        print(f"\n{'run':<24} {'profile':<10} {'trained':<10} {'out of fold':<12} {'test':<8} made")
    for folder in folders:
        files = replace(run.files, run=folder.name)
        trained = [path for path in folder.glob("fold_*/*.csv") if artifacts.sidecar_of(path).exists()]
        trained = [path for path in trained if not path.name.startswith("pseudo_")]
        sidecar, scores = {}, {}
        with contextlib.suppress(InputError):  # missing or damaged: its stage will say so
            sidecar = read_sidecar(files.folds) or {}
            scores = door.values(files.result("scores.json"), "report", {})
        oof, test = ((scores.get(part) or {}).get("score") for part in ("out_of_fold", "test"))
        print(
            f"{folder.name:<24} {sidecar.get('profile', ''):<10} {len(trained):<10} "
            f"{'' if oof is None else f'{oof:.4f}':<12} {'' if test is None else f'{test:.4f}':<8} "
            f"{scores.get('made', '')}"
        )


if __name__ == "__main__":
    cli.start(main)
