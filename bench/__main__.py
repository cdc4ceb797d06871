"""Measure every claim that this machine can, keep the numbers, and write the table of all machines.

    python -m bench                     all of them
    python -m bench losses metric_rle   some; the others' numbers stay as they were

writes  bench/results/<machine>.json after each comparison, and the table in docs/speed.md
"""

import argparse
import json
from importlib import import_module
from pathlib import Path

from bench.harness.compare import circumstances, machine, shown, write_between
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
)

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "speed.md"


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
            keep(machine(device), name, results, over=False)
        if results:
            keep(machine(device), name, results)
    write_page()


def keep(where: str, name: str, results: list, over: bool = True) -> None:
    """Put one bench's results, with date, commit and versions, into the machine's file.

    over  whether it has come to its end; until then the rows of an earlier attempt in the same circumstances stay
    """
    path = RESULTS / f"{where}.json"
    record = json.loads(path.read_text()) if path.exists() else {"machine": where, "benches": {}}
    now, before = circumstances(), record["benches"].get(name, {"results": []})
    if not over and now.items() <= before.items():
        measured = {result["name"] for result in results}
        results = results + [result for result in before["results"] if result["name"] not in measured]
    record["benches"][name] = {**now, "results": results}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_page() -> None:
    write_between(PAGE, table())


def table() -> str:
    """One Markdown row for each comparison of each machine's file."""
    rows = ["| machine | what | ours | theirs | ratio | load | date | commit |", "|---|---|--:|--:|--:|--:|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        record = json.loads(path.read_text())
        for bench in record.get("benches", {}).values():  # other files of numbers lie here too
            rows += [
                f"| {record['machine']} | {r['name']} ({r['device']}) | {amount(r, 'ours')} "
                f"| {amount(r, 'theirs')} | {r['ratio']:.1f}x "
                f"| {r['load']:.1f} | {bench['date']} | {bench['commit']} |"
                for r in bench["results"]
            ]
    return "\n".join(rows) + "\n"


def amount(result: dict, side: str) -> str:
    """Seconds, unless the result names another unit."""
    value = result[side]
    return f"{value:,.{0 if value >= 100 else 1}f} {result['unit']}" if "unit" in result else shown(value)


if __name__ == "__main__":
    main()
