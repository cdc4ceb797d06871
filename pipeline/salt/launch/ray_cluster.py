"""Jobs on a Ray cluster, https://docs.ray.io."""

import importlib
import logging
import math
import os
from typing import Any

from pipeline.salt.artifacts import CODE
from pipeline.salt.errors import InputError, Stopped

RETRIES = 3  # times a job is given to another worker when its own is lost


def on_ray(stage: str, jobs: dict[str, list[str]], workers: int | None) -> None:
    """Each job is a task of the cluster that RAY_ADDRESS names or that runs on this machine, else of one started here.

    The code goes along; --out must be a folder that every node sees. A job whose worker is lost goes on with
    another one, a training from its last saved step. A job that fails ends them all and is an InputError; after one
    that --max-hours ends no other begins, and what is raised is Stopped.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # Ray takes the same epoch of two folds for one line
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    try:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError
    except ImportError as e:
        raise InputError("--engine ray needs Ray: pip install ray") from e

    with ray.init(runtime_env={"py_modules": [str(CODE)]}, logging_level=logging.WARNING):
        workers, needs = share([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)
        print(f"engine   Ray, {workers} at once, {needs} for each: {', '.join(jobs)}", flush=True)
        # max_calls: a process for each job, because an idle one would keep its memory on the GPU.
        remote: Any = ray.remote  # its types know no dict of options
        task = remote(max_retries=RETRIES, max_calls=1, **needs)(run_job)
        waiting, running, late = list(jobs), dict[Any, str](), False
        while waiting or running:
            while waiting and len(running) < workers:
                title = waiting.pop(0)
                running[task.remote(stage, jobs[title])] = title
            done = ray.wait([*running])[0][0]
            title = running.pop(done)
            try:
                outcome = ray.get(done)
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as e:
                raise InputError(
                    f"{title}: its worker was lost {RETRIES + 1} times, often for want of memory; see "
                    "Ray's logs, and run the same command again to go on"
                ) from e
            if isinstance(outcome, InputError):
                raise outcome
            if isinstance(outcome, Stopped):
                late, waiting = True, []
    if late:
        raise Stopped("the hours of --max-hours are over; the same command goes on")


def run_job(stage: str, job: list[str]) -> InputError | Stopped | None:
    """Run the stage in this process, a worker's. Returns what it ended with, None if with its end."""
    try:
        importlib.import_module(stage).main(job)
    except Stopped as e:
        print(f"stopped  {e}")
        return e
    except InputError as e:
        return e
    return None


def share(nodes: list[dict[str, float]], workers: int | None) -> tuple[int, dict[str, float]]:
    """(jobs at once, what Ray keeps for each): a GPU, or without GPUs a node's CPUs; a share of it for more jobs.

    nodes  what each has: {"CPU": 16, "GPU": 2}
    """
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    places = gpus or max(1, len(nodes))
    workers = workers or places
    together = math.ceil(workers / places)
    if gpus:
        return workers, {"num_gpus": 1 / together}
    return workers, {"num_cpus": max(1, min((int(node["CPU"]) for node in nodes), default=1) // together)}
