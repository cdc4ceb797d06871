"""Jobs on a Ray cluster, https://docs.ray.io."""

import importlib
import logging
import math
import os
from typing import Any

from pipeline.salt.artifacts import CODE
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.stopping import LATE

RETRIES = 3  # times a job is given to another worker after its own was lost


def on_ray(stage: str, jobs: dict[str, list[str]], workers: int | None) -> None:
    """Run each job as a task of the cluster that RAY_ADDRESS names or that runs on this machine, else of a new one.

    The code is sent along; --out must be a folder that every node sees. If a worker is lost, another one continues its
    job, a training from its last saved step. A job that fails ends all jobs and raises InputError; after one that
    --max-hours ends, no other job starts, and Stopped is raised.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else Ray drops lines that two folds have in common
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage data to Ray's developers
    try:
        import ray
        from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError
    except ImportError as e:
        raise InputError("--engine ray needs Ray: pip install ray") from e

    with ray.init(runtime_env={"py_modules": [str(CODE)]}, logging_level=logging.WARNING):
        workers, needs = share([node["Resources"] for node in ray.nodes() if node["Alive"]], workers)
        print(f"engine   Ray, {workers} at once, {needs} for each: {', '.join(jobs)}", flush=True)
        # max_calls: a process of its own for each job, because an idle one would keep its GPU memory.
        remote: Any = ray.remote  # its annotations do not allow a dict of options
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
                    f"{title}: its worker was lost {RETRIES + 1} times, often for lack of memory; see "
                    "Ray's logs, and run the same command again to go on"
                ) from e
            if isinstance(outcome, InputError):
                raise outcome
            if isinstance(outcome, Stopped):
                late, waiting = True, []
    if late:
        raise Stopped(LATE)


def run_job(stage: str, job: list[str]) -> InputError | Stopped | None:
    """Run the stage in this process, a worker. Returns the InputError or Stopped that ended it, else None."""
    try:
        importlib.import_module(stage).main(job)
    except Stopped as e:
        print(f"stopped  {e}")
        return e
    except InputError as e:
        return e
    return None


def share(nodes: list[dict[str, float]], workers: int | None) -> tuple[int, dict[str, float]]:
    """(jobs at once, resources that Ray reserves for each): a GPU, or without GPUs a node's CPUs, or a share of these.

    nodes    resources of each: {"CPU": 16, "GPU": 2}
    workers  jobs at once; None: one per GPU, or per node. More jobs than that share a GPU, or a node's CPUs
    """
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    places = gpus or max(1, len(nodes))
    workers = workers or places
    together = math.ceil(workers / places)
    if gpus:
        return workers, {"num_gpus": 1 / together}
    return workers, {"num_cpus": max(1, min((int(node["CPU"]) for node in nodes), default=1) // together)}
