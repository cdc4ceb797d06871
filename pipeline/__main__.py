"""The stages in order, with their state; the flags choose the run, as on every stage.

python -m pipeline
python -m pipeline --data DIR --profile blog
"""

from pipeline.salt import artifacts
from pipeline.salt import cli as command
from pipeline.salt import stages as lineage
from pipeline.salt.errors import InputError


def main(argv: list[str] | None = None) -> None:
    run, _ = command.parse(__doc__, argv)
    print(f"profile  {run.profile.name}: {run.profile.about} ({run.why})")
    print(f"data     {artifacts.shown(run.data) if run.data else 'the built-in sample'}")
    print(f"out      {run.files.out}\n")
    for stage, what, products in lineage.stages(run):
        print(f"{stage:<24} {state(products):<22} {what}")
    print(
        "\nrun one with the same flags, for example: python -m pipeline.train --size "
        f"{run.profile.train.stages[0].size} --fold 0; all of them: ./run_all.sh"
    )


def state(products: list[lineage.Product]) -> str:
    """'done', 'to do', 'out of date', '3 of 10 done'; 'waits' where an input is not made yet."""
    states = [one_state(p) for p in products]
    if len(set(states)) == 1:
        return states[0]
    counts = {s: states.count(s) for s in ("done", "out of date", "under way") if s in states}
    words = [f"{n} {state}" for state, n in counts.items()]
    return f"{', '.join(words)}, of {len(states)}" if words else "to do"


def one_state(product: lineage.Product) -> str:
    try:
        origin = product.origin()
    except InputError:
        return "waits"
    if artifacts.is_fresh(product.path, origin):
        return "done"
    if product.resume and product.resume.exists():
        return "under way"
    return "out of date" if artifacts.read_sidecar(product.path) else "to do"


if __name__ == "__main__":
    command.start(main)
