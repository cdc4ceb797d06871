"""Who computes: this process, one process per GPU, or a Ray cluster.

A job is the command line that does a part of a stage, such as a fold with all its sizes. Jobs wait for nothing of each
other, and all they make lies below --out; only strings go to a worker, and only a sentence comes back. An engine is
called with the stage's module, each job by its title, and how many may run at once (None: as many as there are GPUs).
"""

from collections.abc import Callable

from pipeline.salt.distributed import world_size
from pipeline.salt.launch.local import in_processes, visible_gpus
from pipeline.salt.launch.ray_cluster import on_ray

__all__ = ["ENGINES", "runs_here", "visible_gpus"]

ENGINES: dict[str, Callable[[str, dict[str, list[str]], int | None], None]] = {"local": in_processes, "ray": on_ray}


def runs_here(engine: str, workers: int | None, jobs: int) -> bool:
    """Whether this process is to do the jobs itself, one after the other."""
    if world_size() > 1 or jobs == 0:
        return True
    return engine == "local" and (jobs == 1 or (workers or len(visible_gpus())) <= 1)
