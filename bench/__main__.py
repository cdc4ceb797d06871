"""Run the speed benches, keep their results, and write the table of docs/speed.md.

    python -m bench                     all that this machine can run
    python -m bench losses metric_rle   only these; the results of others stay

writes  bench/results/<machine>.json after each comparison, and the table in docs/speed.md
"""

import argparse
import json
from importlib import import_module

from bench.harness.compare import format_seconds
from bench.harness.records import REPOSITORY, RESULTS, machine_name, provenance, write_generated, write_record
from pipeline.salt.device import pick_device

# modules of bench.speed with run(device) -> Iterable[Result]
BENCHES = (
    "losses",
    "metric_rle",
    "cpu_depthwise",
    "loader",
    "train_step",
    "switches",
    "folds_at_once",
    "smp",
    "inference",
    "whole_run",
    "scaling",
    "training_memory",
    "viewer",
)
PAGE = REPOSITORY / "docs" / "speed.md"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benches", nargs="*", metavar="bench", default=BENCHES, help=", ".join(BENCHES))
    names = parser.parse_args(argv).benches
    if unknown := set(names) - set(BENCHES):
        parser.error(f"no bench {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    device = pick_device()
    for name in names:
        results = []
        for result in import_module(f"bench.speed.{name}").run(device):
            results.append(result)
            save(machine_name(device), name, results, finished=False)
        if results:
            save(machine_name(device), name, results)
    write_page()


def save(machine: str, bench: str, results: list, finished: bool = True) -> None:
    """Put one bench's results and their provenance into the machine's file.

    finished  whether the bench has ended; until then, rows of an earlier attempt with the same provenance stay
    """
    path = RESULTS / f"{machine}.json"
    record = json.loads(path.read_text()) if path.exists() else {"machine": machine, "benches": {}}
    now, before = provenance(), record["benches"].get(bench, {"results": []})
    if not finished and now.items() <= before.items():
        measured = {result["name"] for result in results}
        results = results + [result for result in before["results"] if result["name"] not in measured]
    record["benches"][bench] = {**now, "results": results}
    write_record(path, record)


def write_page() -> None:
    """Write the table of all machines into docs/speed.md."""
    write_generated(PAGE, table())


def table() -> str:
    """Markdown table with one row for each comparison in each machine's file."""
    rows = ["| machine | what | ours | theirs | ratio | load | date | commit |", "|---|---|--:|--:|--:|--:|---|---|"]
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    for record in records:
        if "benches" not in record:  # an experiment
            continue
        for bench in record["benches"].values():
            rows += [
                f"| {record['machine']} | {r['name']} ({r['device']}) | {amount(r, 'ours')} "
                f"| {amount(r, 'theirs')} | {r['ratio']:.1f}x "
                f"| {r['load']:.1f} | {bench['date']} | {bench['commit']} |"
                for r in bench["results"]
            ]
    return "\n".join(rows) + "\n"


def amount(result: dict, side: str) -> str:
    """Median of one side, with its unit."""
    value = result[side]
    return f"{value:,.{0 if value >= 100 else 1}f} {result['unit']}" if "unit" in result else format_seconds(value)


if __name__ == "__main__":
    main()
