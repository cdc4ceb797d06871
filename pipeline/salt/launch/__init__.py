"""Launch the work on several folds: in this process, in one process per GPU, or on a Ray cluster.

A job is the command line of a part of a stage, such as one fold with all its phases. Jobs are independent and write
below --out; a worker gets only strings, and reports only how it ended. An engine is called with the stage's module, the
jobs by title, and how many may run at once (None: as many as there are GPUs).
"""

from collections.abc import Callable, Mapping, Sequence

from pipeline.salt.distributed import usable_gpus, world_size
from pipeline.salt.errors import InputError
from pipeline.salt.launch.local import in_processes
from pipeline.salt.launch.ray_cluster import on_ray
from pipeline.salt.run import Run

ENGINES: dict[str, Callable[[str, dict[str, list[str]], int | None], None]] = {"local": in_processes, "ray": on_ray}


def fan_out(stage: str, run: Run, jobs: Mapping[str, Sequence[int]], work: Callable[[Sequence[int]], object]) -> None:
    """Call work(folds) for each job in this process, one after the other, or pass the jobs to the run's engine.

    stage  module whose command line does a job;  jobs  title -> folds
    InputError if `accelerate launch` has started several processes of a stage other than training.
    """
    if world_size() > 1 and stage != "pipeline.train":
        raise InputError(f"{stage} runs in one process: start it with python -m, without accelerate launch or torchrun")
    workers, gpus = run.workers, usable_gpus()
    if workers is None and run.engine == "local" and not gpus:
        workers = run.profile.workers
    alone = run.engine == "local" and (len(jobs) == 1 or (workers or len(gpus)) <= 1)
    if alone or world_size() > 1:
        for folds in jobs.values():
            work(folds)
    elif jobs:
        commands = {title: [*run.flags, *(f"--fold={fold}" for fold in folds)] for title, folds in jobs.items()}
        ENGINES[run.engine](stage, commands, workers and min(workers, len(jobs)))  # a single job gets everything
