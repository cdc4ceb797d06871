"""A run of all stages that is killed and interrupted at random moments equals an undisturbed one, bit for bit.

    SALT_SOAK_MOMENTS=20 SALT_SOAK_SEED=7 ./run_tests.sh --soak -s tests/soak/test_resume.py

Half of the moments are times, so a seed does not repeat the exact steps. The others are within a write: when a complete
file is flushed to disk, or renamed into place. With --workers 2 the folds are trained in two more processes, which
outlive a killed command, and which a signal must reach.
"""

import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline import __main__ as overview
from pipeline.salt import cli
from pipeline.salt.artifacts import sidecar_of

pytestmark = pytest.mark.soak

MOMENTS = int(os.environ.get("SALT_SOAK_MOMENTS", "100"))
SEED = int(os.environ.get("SALT_SOAK_SEED", random.randrange(10**6)))
WRITES = 40  # a moment in a write is in one of the next so many
A_RUN = 12  # moments for which an undisturbed run has time; more, and none would come to an end
EPOCHS = {1: 2, 2: 40}  # of the first phase, by workers: these take seconds to start, so they train longer
KINDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FLAGS = (
    "--set=sample.train=17",
    "--set=train.48.epochs=2",
    "--set=train.average=0.5",
    "--add-phase=pseudo=true,epochs=1",
    "--set=pseudo.low=0.49",
    "--set=pseudo.high=0.51",
)
MEASURED = ["seconds", "tiles_per_second", "memory"]  # columns of a history
# The sidecar that ends each part of a run, in order.
PARTS = {
    "prepare": "data/cache/sample/tiles.csv.json",
    "make_folds": "folds/demo/folds.csv.json",
    "train fold 0, phase 32": "folds/demo/fold_0/32.csv.json",
    "train fold 0, phase 48": "folds/demo/fold_0/48.csv.json",
    "train fold 1, phase 32": "folds/demo/fold_1/32.csv.json",
    "train fold 1, phase 48": "folds/demo/fold_1/48.csv.json",
    "pseudo_label": "folds/demo/fold_1/pseudo_masks.npy.json",
    "train fold 0, phase pseudo": "folds/demo/fold_0/pseudo.csv.json",
    "train fold 1, phase pseudo": "folds/demo/fold_1/pseudo.csv.json",
    "predict": "submissions/demo/disagreement.csv.json",
    "submit": "submissions/demo/submission.csv.gz.json",
    "report": "submissions/demo/report.html.json",
    "after the report": "",
}


@pytest.fixture(scope="module")
def processes(fast_clock):
    """Starts processes that have already imported what takes seconds; `clock` makes their clock fast."""
    context = multiprocessing.get_context("forkserver")
    context.clock = fast_clock
    slow = ("fold", "learner", "tracking", "pseudo", "checkpoints")
    reporting = ("html", "scores")
    context.set_forkserver_preload(
        [
            "test_resume",
            "pipeline.salt.device",
            "pipeline.salt.inference",
            *(f"pipeline.salt.training.{name}" for name in slow),
            *(f"pipeline.salt.reporting.{name}" for name in reporting),
        ]
    )
    return context


def command(flags: list[str], log: str, clock: str, listens, write: int, number: int) -> None:
    """All stages in a process of its own, as a shell runs them. Reports once it handles signals.

    write  number of the write, from 1, at which it gets the signal `number`; 0: none
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    runpy.run_path(f"{clock}/sitecustomize.py")
    os.environ["PYTHONPATH"] = clock

    left = [write]

    def counted(call):
        def calls(*args):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            return call(*args)

        return calls

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)

    def main(argv: list[str]) -> None:
        listens.send(True)
        overview.main(argv)

    sys.argv[1:] = ["run", *flags]
    cli.start(main)


class Attempt:
    """The command in a process that has just started to listen."""

    def __init__(self, processes, run, log: Path, write: int = 0, number: int = 0, workers: int = 1):
        here, there = processes.Pipe(duplex=False)
        self.log = log
        flags = run.flags(*FLAGS, f"--workers={workers}", f"--set=train.32.epochs={EPOCHS[workers]}")
        self.process = processes.Process(target=command, args=(flags, str(log), processes.clock, there, write, number))
        self.process.start()
        there.close()  # so that one that dies before it listens is noticed
        assert here.recv()
        self.began = time.monotonic()

    def end(self, seconds: float | None = None, number: int = 0) -> int | None:
        """Exit status; sends the signal first if the command takes longer than that."""
        self.process.join(seconds)
        if self.process.is_alive():
            os.kill(self.process.pid, number)
            self.process.join()
        return self.process.exitcode


def results(out: Path) -> dict[str, object]:
    """What must not depend on interruptions: all files but sidecars, times, and what is derived from them."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or path.suffix in (".json", ".html") or path.name.endswith(".lock"):
            continue
        found[name] = path.read_bytes()
        if path.parent.name.startswith("fold_") and path.suffix == ".csv" and "pseudo_" not in name:
            found[name] = pd.read_csv(path).drop(columns=MEASURED).to_csv()
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_at_random_moments_it_ends_with_the_same_bits(empty, tmp_path, processes, capsys, workers):
    draw, log = random.Random(SEED), tmp_path / "log"
    straight = replace(empty, out=tmp_path / "straight")
    attempt = Attempt(processes, straight, log, workers=workers)
    assert attempt.end() == 0, log.read_text()
    began = time.monotonic()
    whole = began - attempt.began
    expected, hits, evidence, runs, moments = results(straight.out), Counter(), Counter(), 0, 0
    assert len(expected) >= 30 and all((straight.out / file).exists() for file in PARTS.values())
    while moments < MOMENTS:
        run, status = replace(empty, out=tmp_path / "stopped"), None
        while status != 0:
            number, seconds, write = draw.choice(KINDS), draw.expovariate(A_RUN / whole), draw.randint(1, WRITES)
            in_write = draw.random() < 0.5
            last = moments == MOMENTS  # it may end undisturbed
            attempt = Attempt(processes, run, log, write * (in_write and not last), number, workers)
            status = attempt.end(None if in_write or last else seconds, number)
            said = log.read_text()
            if status == 0:
                break
            if workers > 1 and status == 1 and " is being made by " in said:  # by a worker of a command that was killed
                evidence["while a worker that was left went on"] += 1
                time.sleep(0.5)
                continue
            assert status == (-number if number == signal.SIGKILL else 128 + number), (SEED, moments, status, said)
            assert "Traceback" not in said and "restart" not in said, (SEED, moments, said)
            assert number == signal.SIGKILL or "the same command " in said, (SEED, moments, said)
            moments += 1
            part = next(part for part, file in PARTS.items() if not file or not (run.out / file).exists())
            hits[signal.Signals(number).name, part] += 1
            made = [path for path in run.out.rglob("*.*") if path.suffix in (".npy", ".csv", ".safetensors", ".gz")]
            evidence["while a file was written"] += bool([*run.out.rglob(".tmp-*")])
            evidence["before its .json"] += any(
                not sidecar_of(path).exists()
                for path in made
                if "data/sample/" not in str(path) and path.name[0] != "."
            )
            evidence["with a state to go on from"] += bool([*run.out.rglob("*.resume.pt")])
        runs += 1
        after = results(run.out)
        assert after.keys() == expected.keys(), (SEED, moments, after.keys() ^ expected.keys())
        assert [name for name in after if after[name] != expected[name]] == [], (SEED, moments)
        shutil.rmtree(run.out)
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{workers} at once: {moments} moments, seed {SEED}, in {seconds:.0f} s")
        print(f"{runs} runs, of {whole:.0f} s where undisturbed")
        for (kind, part), count in sorted(hits.items()):
            print(f"{kind:<8} {part:<28} {count}")
        print(dict(evidence))


def test_two_at_once_in_one_folder_end_with_the_same_bits(empty, tmp_path, processes):
    """One works; the other names the one that does, and may be called again."""
    straight = replace(empty, out=tmp_path / "straight")
    assert Attempt(processes, straight, tmp_path / "log").end() == 0
    both = replace(empty, out=tmp_path / "both")
    waiting, refusals = {"one", "other"}, 0
    attempts = {name: Attempt(processes, both, tmp_path / name) for name in waiting}
    while waiting:
        for name in sorted(waiting):
            status = attempts[name].process.exitcode
            if status == 0:
                waiting.remove(name)
            elif status is not None:
                said = attempts[name].log.read_text()
                assert status == 1 and "Traceback" not in said, said
                assert " is being made by " in said, said
                refusals += 1
                time.sleep(1)
                attempts[name] = Attempt(processes, both, tmp_path / name)
        time.sleep(0.05)
    assert refusals and results(both.out) == results(straight.out)
