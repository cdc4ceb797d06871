"""Folds in several processes and on a Ray cluster, and one fold over several processes: the same weights as in one."""

import importlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline import make_folds, train
from pipeline.salt import disk, distributed, launch
from pipeline.salt.config import Model
from pipeline.salt.errors import InputError, Stopped
from pipeline.salt.launch import local
from pipeline.salt.launch.local import in_processes
from pipeline.salt.launch.ray_cluster import share
from pipeline.salt.metrics import tile_scores
from pipeline.salt.run import Run
from pipeline.salt.tiles import Tiles
from pipeline.salt.tiles.geometry import to_tile
from pipeline.salt.tiles.loaders import get_data
from pipeline.salt.training import checkpoints

ROOT = Path(__file__).parents[2]
EPOCHS = 8  # of the tiny run's first phase


@pytest.fixture
def out(untrained) -> Path:
    """Tiles and folds of a tiny run, untrained."""
    return untrained.out


@pytest.fixture(scope="module")
def straight(finished) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that one process produces, one fold after the other."""
    return weights(finished[0].out)


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(out)): load_file(path) for path in sorted(out.rglob("*.safetensors"))}


def assert_same(ours: dict, theirs: dict) -> None:
    assert len(ours) == 6 and ours.keys() == theirs.keys()  # 2 folds, best of 2 phases and last of the second
    for path, tensors in ours.items():
        assert all(torch.equal(tensors[name], theirs[path][name]) for name in theirs[path]), path


# ---- processes of this machine, with a stage that only says where it runs


@pytest.fixture
def toy(tmp_path, monkeypatch) -> str:
    """A stage: `--fail` ends with a sentence, `--crash` with a traceback, `--late` when out of time; `--sleep` takes a
    minute."""
    (tmp_path / "toy.py").write_text("""
import os, sys, time
said = " ".join(sys.argv[1:])
began = time.time()
if "--fail" in said:
    sys.exit("error: there is no salt")
if "--late" in said:
    print("stopped  fold 0")
    open(os.path.join(os.path.dirname(__file__), "late"), "w").close()
    sys.exit(75)
while "--after-late" in said and not os.path.exists(os.path.join(os.path.dirname(__file__), "late")):
    time.sleep(0.05)
if "--crash" in said:
    raise RuntimeError("a fault of ours")
for line in range(3 * ("--talk" in said)):
    print("line", line, flush=True)
    time.sleep(0.1)
if "--killed" in said:
    os.kill(os.getpid(), 9)
try:
    time.sleep(60 if "--sleep" in said else 0.3)
except KeyboardInterrupt:
    if "--saves" not in said:
        raise
    print("stopped  saved; how to go on")
    sys.exit(130)
print(said, "gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), "threads", os.environ["OMP_NUM_THREADS"],
      "began", began, "ended", time.time())
""")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS")
    return "toy"


def test_folds_queue_for_the_gpus(toy, monkeypatch, capfd):
    monkeypatch.setattr(local, "usable_gpus", lambda: ["3", "GPU-7"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    in_processes(toy, {f"fold {k}": [f"fold={k}"] for k in range(5)}, None)
    first, *lines = capfd.readouterr().out.splitlines()
    assert first == "engine   2 processes on 2 GPUs: fold 0, fold 1, fold 2, fold 3, fold 4"
    assert sorted(line.split()[0] for line in lines) == [f"fold={k}" for k in range(5)]
    seen = [re.match(r"fold=\d gpu (\S+) threads \d+ began (\S+) ended (\S+)", line).groups() for line in lines]
    for gpu in ("3", "GPU-7"):
        times = sorted((float(began), float(ended)) for name, began, ended in seen if name == gpu)
        assert len(times) >= 2 and all(a[1] <= b[0] for a, b in zip(times, times[1:], strict=False)), "one at a time"


@pytest.mark.parametrize(
    "jobs, workers, threads", [(5, 2, "44448"), (5, 3, "22244"), (4, 2, "4444"), (3, 8, "222"), (9, 8, "111111118")]
)
def test_the_jobs_of_the_last_round_share_all_threads(toy, monkeypatch, capfd, jobs, workers, threads):
    monkeypatch.setattr(local, "usable_gpus", lambda: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    in_processes(toy, {f"fold {k}": [f"fold={k}"] for k in range(jobs)}, workers)
    seen = dict(re.findall(r"fold=(\d) gpu None threads (\d)", capfd.readouterr().out))
    assert "".join(seen[k] for k in sorted(seen)) == threads


@pytest.mark.parametrize("version, gpus", [("2.15.0", ["0"]), ("2.15.0+cu128", ["0"]), ("2.15.0+cpu", [])])
def test_a_build_of_torch_for_the_cpu_has_no_use_for_a_gpu(monkeypatch, version, gpus):
    monkeypatch.setattr(distributed, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(distributed.metadata, "version", lambda name: version)
    assert distributed.usable_gpus() == gpus


def test_several_workers_share_a_gpu(toy, monkeypatch, capfd):
    monkeypatch.setattr(local, "usable_gpus", lambda: ["0"])
    in_processes(toy, {"a": ["a"], "b": ["b"]}, 2)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "engine   2 processes on 1 GPU: a, b" and all(" gpu 0 " in line for line in lines[1:])


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--fail", "^there is no salt$"),
        ("--crash", "fold 1: its .* status 1"),
        ("--killed", r"^fold 1: its process was killed \(signal 9\), as the system does if memory runs out; .* 1$"),
    ],
)
def test_the_first_that_fails_stops_the_others(toy, capfd, flag, words):
    with pytest.raises(InputError, match=words):
        in_processes(toy, {"fold 0": ["--sleep"], "fold 1": [flag], "fold 2": ["never begun"]}, 2)
    said = capfd.readouterr().out
    assert "never begun" not in said and "error:" not in said
    assert ("RuntimeError: a fault of ours" in said) == (flag == "--crash") and "KeyboardInterrupt" not in said
    assert not left("--sleep")


def test_a_full_disk_that_the_output_goes_to_stops_no_worker(toy, monkeypatch):
    tried = []

    def full(self, line: str) -> None:
        tried.append(line)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.StatusLine, "print", full)
    in_processes(toy, {"fold 0": ["--talk"], "fold 1": ["--talk"]}, 2)
    assert len(tried) == 8


def test_after_one_whose_time_is_over_no_other_begins_and_those_at_work_end_by_themselves(toy, capfd):
    jobs = {"fold 0": ["--late"], "fold 1": ["at work", "--after-late"], "fold 2": ["never begun"]}
    with pytest.raises(Stopped, match="--max-hours are over"):
        in_processes(toy, jobs, 2)
    said = capfd.readouterr().out
    assert "at work --after-late gpu" in said and "never begun gpu" not in said and "stopped  fold 0" in said


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_command_stops_its_workers(toy, monkeypatch, handlers, stop, capfd):
    sleep, stopped = time.sleep, []

    def stopping(seconds: float) -> None:
        if not stopped:
            stopped.append(True)
            sleep(2)  # until they handle signals
            os.kill(os.getpid(), stop)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", stopping)
    with pytest.raises(KeyboardInterrupt):
        in_processes(toy, {"a": ["--sleep=a"], "b": ["--sleep=b", "--saves"]}, 2)
    assert not left("--sleep=a") and not left("--sleep=b")
    said = capfd.readouterr().out
    assert "Traceback" not in said and "stopped  saved; how to go on" in said, "what a worker knows alone"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture
def handlers():
    """Signal handlers as in a shell's foreground, however the tests were started."""
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def left(word: str) -> list[str]:
    """Command lines of toy stages that are still running."""
    folders = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"toy" in command and word.encode() in command:
            folders.append(path.parent.name)
    return folders


def test_jobs_run_here_or_in_the_engine(empty, monkeypatch):
    run = empty.parse()
    run = replace(run, profile=replace(run.profile, workers=1))
    for gpus, engine, workers, jobs, here in [
        (0, "local", None, 5, True),
        (1, "local", None, 5, True),
        (2, "local", None, 5, False),
        (2, "local", None, 1, True),
        (2, "local", 1, 5, True),
        (1, "local", 2, 5, False),
        (0, "local", 2, 5, False),
        (2, "local", None, 0, True),
        (0, "ray", None, 1, False),
        (0, "ray", None, 0, True),
    ]:
        monkeypatch.setattr(launch, "usable_gpus", lambda n=gpus: [str(i) for i in range(n)])
        assert done_here(replace(run, engine=engine, workers=workers), jobs, monkeypatch) == here, (gpus, workers, jobs)
    assert not done_here(replace(run, profile=replace(run.profile, workers=2)), 5, monkeypatch), "no GPU, two at once"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for engine in ("local", "ray"):
        assert done_here(replace(run, engine=engine, workers=4), 5, monkeypatch), "processes of one fold"
    with pytest.raises(InputError, match="pipeline.predict runs in one process: .* without accelerate launch"):
        launch.fan_out("pipeline.predict", run, {"all folds": (0, 1)}, lambda folds: None)


def done_here(run: Run, jobs: int, monkeypatch) -> bool:
    """Whether fan_out does the jobs in this process, each once and in order, rather than hand them to an engine."""
    here, launched = [], []
    for engine in ("local", "ray"):
        monkeypatch.setitem(
            launch.ENGINES, engine, lambda stage, jobs, workers: launched.extend([workers, *jobs.items()])
        )
    launch.fan_out("pipeline.train", run, {f"fold {k}": (k,) for k in range(jobs)}, here.extend)
    if launched:
        workers = launched.pop(0)
        assert workers is None or workers <= jobs, "one job is not given half a machine"
        assert launched == [(f"fold {k}", [*run.flags, f"--fold={k}"]) for k in range(jobs)] and not here
    else:
        assert here == list(range(jobs))
    return not launched


# ---- the real stage


def test_two_workers_give_the_same_weights(untrained, out, straight, capfd):
    train.main(untrained.flags("--workers", "2"))
    said = capfd.readouterr().out
    assert said.count("trained") == 4 and "engine   2 processes on the CPU: fold 0, fold 1" in said
    assert_same(weights(out), straight)
    train.main(untrained.flags("--workers", "2"))
    assert capfd.readouterr().out.count("fresh") == 4


def test_a_killed_worker_costs_no_result(untrained, out, straight, fast_clock, monkeypatch, capfd):
    state, is_working, killed = out / "folds/demo/fold_0/32.resume.pt", local._Worker.is_working, []

    def killing(worker) -> bool:
        if worker.title == "fold 0" and state.exists():
            worker.process.kill()
            worker.process.wait()
            killed.append(worker.process.pid)
        return is_working(worker)

    monkeypatch.setenv("PYTHONPATH", fast_clock)
    with monkeypatch.context() as patch:
        patch.setattr(local._Worker, "is_working", killing)
        with pytest.raises(InputError, match=r"fold 0: its process was killed \(signal 9\), as the system"):
            train.main(untrained.flags("--workers", "2"))
    assert len(killed) == 1
    capfd.readouterr()
    train.main(untrained.flags("--workers", "2"))
    assert f"resume   {disk.display_path(state)}: " in capfd.readouterr().out
    assert_same(weights(out), straight)


# ---- Ray


@pytest.mark.parametrize(
    "nodes, workers, wanted",
    [
        ([{"CPU": 16, "GPU": 8}], None, (8, {"num_gpus": 1})),
        ([{"CPU": 16, "GPU": 1}] * 4, 4, (4, {"num_gpus": 1})),
        ([{"CPU": 16, "GPU": 1}] * 4, 10, (10, {"num_gpus": 1 / 3})),  # three on a GPU: ten find room
        ([{"CPU": 16, "GPU": 2}, {"CPU": 4}], None, (2, {"num_gpus": 1})),
        ([{"CPU": 2}], 2, (2, {"num_cpus": 1})),
        ([{"CPU": 2}], None, (1, {"num_cpus": 2})),
        ([{"CPU": 16}, {"CPU": 8}, {}], None, (2, {"num_cpus": 8})),  # {}: a head that computes nothing
        ([{"CPU": 2}], 5, (5, {"num_cpus": 1})),
    ],
)
def test_resources_of_a_ray_task(nodes, workers, wanted):
    assert share(nodes, workers) == wanted


def test_without_ray_it_says_what_to_install(untrained, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray$"):
        train.main(untrained.flags("--engine", "ray"))


@pytest.fixture(scope="module")
def ray_cluster(fast_clock):
    """Environment of a command that finds a Ray cluster of its own, with two CPUs."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")
    folder = tempfile.mkdtemp(prefix="ray-")  # pytest's own folders are too deep for the names of Ray's sockets
    port = free_port()
    token = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = token | {
        "PYTHONPATH": fast_clock,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    head = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--num-gpus=0",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--temp-dir={folder}",
            "--include-dashboard=false",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    while not said or "--block" not in said[-1]:  # it says so when it is ready
        said.append(head.stdout.readline())
        assert said[-1], "".join(said)
    yield token | {"RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
    head.terminate()
    head.communicate(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def on_ray(environment: dict[str, str], stage: str, *args: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"pipeline.{stage}", *args, "--engine", "ray", "--workers", "2"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def running_tasks(fast_clock: str) -> list[int]:
    """Worker processes of this cluster, recognised by its clock."""
    return [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if (folder / "cmdline").exists()
        and (folder / "cmdline").read_bytes().startswith(b"ray::run_job")
        and fast_clock.encode() in (folder / "environ").read_bytes()
    ]


def test_ray_gives_the_same_weights_even_where_its_workers_are_killed(
    untrained, out, straight, ray_cluster, fast_clock
):
    state = out / "folds/demo/fold_0/32.resume.pt"
    with on_ray(ray_cluster, "train", *untrained.flags()) as command:
        while not state.exists() and command.poll() is None:
            time.sleep(0.01)
        killed = [os.kill(pid, signal.SIGKILL) for pid in running_tasks(fast_clock)]
        text = command.stdout.read()
    assert command.returncode == 0 and killed, text  # on a busy machine fold 1 may not have begun
    assert re.search(r"resume   \S+fold_0/32.resume.pt: ", text), text
    assert_same(weights(out), straight)


def test_what_follows_training_runs_on_ray_too(untrained, out, ray_cluster):
    """The machine on which the command is given may have no GPU."""
    pseudo = ["--add-phase=pseudo=true,epochs=1", "--set=pseudo.share=0"]
    train.main(untrained.flags(*pseudo))
    for stage, tasks, extra in [
        ("pseudo_label", "fold 0, fold 1", []),
        ("train", "fold 0, fold 1", ["--pseudo"]),
        ("predict", "all folds", []),
    ]:
        elsewhere = shutil.copytree(out, out.parent / f"{stage} here")
        importlib.import_module(f"pipeline.{stage}").main(replace(untrained, out=elsewhere).flags(*pseudo, *extra))
        with on_ray(ray_cluster, stage, *untrained.flags(*pseudo, *extra)) as command:
            text = command.stdout.read()
        assert command.returncode == 0 and re.search(rf"engine +Ray, .*: {tasks}\n", text), text
        made = {path.relative_to(elsewhere) for path in elsewhere.rglob("*") if path.suffix in (".npy", ".safetensors")}
        assert made == {path.relative_to(out) for path in out.rglob("*") if path.suffix in (".npy", ".safetensors")}
        assert all((out / path).read_bytes() == (elsewhere / path).read_bytes() for path in made)


def test_the_sentence_of_a_task_is_that_of_the_command(untrained, out, ray_cluster):
    weights = ["--run=b", "--set=model.weights=imagenet", f"--weights={out / 'data'}"]
    make_folds.main(untrained.flags(*weights))
    with on_ray(ray_cluster, "train", *untrained.flags(*weights)) as command:
        text = command.stdout.read()
    assert command.returncode == 1 and "Traceback" not in text, text
    assert "error: no ImageNet weights for encoder 'test_resnet'" in text


def test_tasks_whose_time_is_over_end_the_command_in_good_order(untrained, out, straight, ray_cluster):
    for hours, status in (("0", Stopped.status), ("1", 0)):
        with on_ray(ray_cluster, "train", *untrained.flags(f"--max-hours={hours}")) as command:
            text = command.stdout.read()
        assert command.returncode == status and "Traceback" not in text, text
        assert ("of --max-hours are over; the same command goes on" in text) == (status != 0)
    assert_same(weights(out), straight)


# ---- one fold over several processes


def test_without_accelerate_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="pip install accelerate$"), distributed.process_group():
        pass


def together(tmp_path, flags: list[str], patch: str = "") -> subprocess.CompletedProcess:
    """Train in two processes, which check that they end with the same weights; `patch` runs in both first."""
    script = tmp_path / "both.py"
    script.write_text(f"""
import os, sys, torch
from pipeline import train
from pipeline.salt import cli
from pipeline.salt.training import learner
fit = learner.fit_fold

def compared(*args, **kwargs):
    fitted = fit(*args, **kwargs)
    for name, w in [*fitted.weights["last"].items(), *fitted.weights["best"].items()]:
        both = [torch.empty_like(w), torch.empty_like(w)]
        torch.distributed.all_gather(both, w)
        assert torch.equal(*both), name
    print(f"the same in {{torch.distributed.get_world_size()}}")
    return fitted
learner.fit_fold = compared
{patch}
cli.start(train.main)
""")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",  # the way through torchrun, which needs no GPU; for CPUs accelerate would take MPI
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        f"--main_process_port={free_port()}",
        str(script),
        *flags,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_two_processes_train_one_model(untrained, out, tmp_path):
    """Both end with the same weights; the score in the history is theirs, over all tiles of the fold."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[cluster]'")
    folds = pd.read_csv(out / "folds/demo/folds.csv", dtype={"id": str})
    fold = folds["fold"].value_counts().idxmax()
    held_out = (folds["fold"] == fold).to_numpy()
    assert held_out.sum() == 13, "batches of 12 and 1: the second process has no part of the last"
    ended = together(tmp_path, untrained.flags(f"--fold={fold}"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("the same in 2") == 2 and ended.stdout.count("trained") == 2, ended.stdout
    model = checkpoints.build(Model(name="unet_lean", encoder="test_resnet", options={"width": 8}))
    tiles = Tiles(
        *(np.load(out / f"data/cache/sample/{name}.npy") for name in ("images", "masks", "test")), pd.DataFrame()
    )
    for size in (32, 48):
        history = pd.read_csv(out / f"folds/demo/fold_{fold}/{size}.csv")
        model.eval().load_state_dict(load_file(out / f"folds/demo/fold_{fold}/{size}.safetensors"))
        dls = get_data(fold, folds, size, 6, tiles=tiles, stats=(model.encoder.mean, model.encoder.std))
        with torch.inference_mode():
            logits = torch.cat([to_tile(model(x), y.shape[-2:]) for x, y in dls.valid])
        score = tile_scores(logits[:, 0].numpy() > 0, tiles.train_masks[held_out]).mean()
        assert history["meanap"].max() == pytest.approx(score, abs=1e-5)
        assert np.isfinite(history[["train_loss", "valid_loss"]]).all(axis=None)
        assert len(history) == (EPOCHS if size == 32 else 1)


def test_two_processes_save_within_an_epoch_and_go_on_bit_for_bit(untrained, tmp_path):
    """A signal reaches only the second process, in the second epoch: both stop after that step, and the first one
    saves."""
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[cluster]'")
    straight = replace(untrained, out=shutil.copytree(untrained.out, tmp_path / "straight"))
    assert together(tmp_path, straight.flags("--fold=0", "--phase=32")).returncode == 0
    stopped = together(
        tmp_path,
        untrained.flags("--fold=0", "--phase=32"),
        """
import signal
from pipeline.salt.training.callbacks import BatchShard
steps, shard = [], BatchShard.before_batch

def counted(self):
    shard(self)
    steps.append(self.training)
    if sum(steps) == 3 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
BatchShard.before_batch = counted
""",
    )
    assert stopped.returncode != 0 and "exitcode  : 143" in stopped.stderr, stopped.stderr
    assert stopped.stdout.count("stopped  ") == 1, stopped.stdout
    state = torch.load(untrained.out / "folds/demo/fold_0/32.resume.pt", weights_only=True)
    assert (state["epochs"], state["batch"]) == (1, 1)
    ended = together(tmp_path, untrained.flags("--fold=0", "--phase=32"))
    assert ended.returncode == 0 and "1 epochs and 1 steps of the next are done" in ended.stdout, ended.stdout
    ours, theirs = (weights(run.out)["folds/demo/fold_0/32.safetensors"] for run in (untrained, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    histories = [
        pd.read_csv(run.out / "folds/demo/fold_0/32.csv").drop(columns=["seconds", "tiles_per_second", "memory"])
        for run in (straight, untrained)
    ]
    pd.testing.assert_frame_equal(*histories, atol=1e-5, rtol=0)


def test_two_processes_begin_no_phase_after_their_hours(untrained, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[cluster]'")
    ended = together(tmp_path, untrained.flags("--fold=0", "--set=train.32.epochs=1", "--max-hours=0"))
    assert "fold 0  32 px is trained: the hours of --max-hours are over" in ended.stdout, ended.stdout
    assert f"exitcode  : {Stopped.status}" in ended.stderr, ended.stderr
    assert {path.name for path in untrained.out.glob("folds/demo/fold_0/*.csv")} == {"32.csv"}
