"""Jobs in processes on this machine: one per GPU, or as many as --workers asks for."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from threading import Thread

from pipeline.salt.artifacts import CODE
from pipeline.salt.distributed import usable_gpus
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.progress import MARK, RELAY, StatusLine
from pipeline.salt.stopping import LATE, terminating_like_ctrl_c

GRACE = 60.0  # seconds a worker has to finish its step and save before it is killed


def in_processes(stage: str, jobs: dict[str, list[str]], workers: int | None) -> None:
    """Run `python -m <stage> <job>` for each job; worker i gets GPU i mod their number, CPU threads are divided.

    Of five jobs, two at a time, the fifth has all threads: the jobs of a stage take equally long, so it ends up alone.
    The first job that fails stops the others and raises InputError; run again, they resume from what they have saved.
    After a job that --max-hours ends, no other job starts, and Stopped is raised.
    """
    gpus = usable_gpus()
    workers = min(workers or len(gpus) or 1, len(jobs))
    where = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else "the CPU"
    print(f"engine   {workers} processes on {where}: {', '.join(jobs)}", flush=True)
    waiting, running, status, late = list(jobs), dict[int, _Worker](), StatusLine(), False
    with terminating_like_ctrl_c():
        try:
            while waiting or running:
                for i in range(workers):
                    if i not in running and waiting:
                        begun = len(jobs) - len(waiting)
                        at_once = min(workers, len(jobs) - begun // workers * workers)  # fewer in the last round
                        title = waiting.pop(0)
                        gpu = gpus[i % len(gpus)] if gpus else None
                        relay = {RELAY: "1"} if status.is_terminal else {}
                        environment = _environment(gpu, at_once) | relay
                        running[i] = _Worker(title, [stage, *jobs[title]], environment, status)
                ended = [i for i, worker in running.items() if not worker.is_working()]
                if any([running.pop(i).process.returncode == Stopped.status for i in ended]):
                    late, waiting = True, []
                time.sleep(0.05)
        finally:
            for worker in running.values():
                worker.stop()
            try:
                for worker in running.values():
                    worker.wait()
            except KeyboardInterrupt:  # a second Ctrl-C: stop waiting
                for worker in running.values():
                    worker.process.kill()
                raise
    if late:
        raise Stopped(LATE)


def python_path() -> str:
    """PYTHONPATH for a child process, so that it finds this code from any folder, and all that this process finds."""
    return os.pathsep.join(filter(None, [str(CODE.parent), os.environ.get("PYTHONPATH")]))


class _Worker:
    """A child process. It writes to a pipe of this process, and so outlives it by an epoch at most."""

    def __init__(self, title: str, command: list[str], environment: dict[str, str], status: StatusLine):
        self.title, self.status, self.error, self.stopped = title, status, "", False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on once
        )
        self.echo = Thread(target=self._echo, daemon=True)
        self.echo.start()

    def is_working(self) -> bool:
        """False once it has done its job, or as much as time allowed; InputError if it failed."""
        if self.process.poll() is None:
            return True
        self.wait()
        if (status := self.process.returncode) not in (0, Stopped.status):
            raise InputError(self.error or f"{self.title}: its process {_reason(status)}")
        return False

    def stop(self) -> None:
        self.stopped = True
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.echo.join()

    def _echo(self) -> None:
        """Print its lines, except the sentence of an InputError, with which this process itself will end."""
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                if line.startswith("error: "):
                    self.error = line.removeprefix("error: ").strip()
                    continue
                with contextlib.suppress(OSError):  # a full disk stops no worker: the last print here will raise it
                    if line.startswith(MARK):
                        self.status.update(self.title, line.removeprefix(MARK).strip())
                    elif not self.stopped or line.startswith("stopped  "):  # a sentence that says how to go on
                        self.status.print(line)
        with contextlib.suppress(OSError):
            self.status.update(self.title, "")


def _reason(status: int) -> str:
    """Why a process ended with this returncode of subprocess, and what to do."""
    if status == -signal.SIGKILL:
        return (
            "was killed (signal 9), as the system does if memory runs out; the same command goes on from there; if "
            "several ran at once, take fewer: --workers 1"
        )
    reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}, see above"
    return f"{reason}; the same command goes on from there"


def _environment(gpu: str | None, at_once: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    return {"OMP_NUM_THREADS": str(max(1, cores // at_once))} | os.environ | ours
