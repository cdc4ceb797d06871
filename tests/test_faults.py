"""Faults of the machine: a full disk, a read-only folder, too little memory, a wrong clock.

Each ends with one sentence and exit status 1, and nothing good is lost.
"""

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_door import LABELS, sentence
from test_pipeline import tree

from pipeline import make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import artifacts, cli, disk, inference
from pipeline.salt.device import enough_memory
from pipeline.salt.errors import InputError
from pipeline.salt.training.callbacks import EpochLog
from pipeline.tools import compare, export, lr_find, picture, segment

ROOT = Path(__file__).parents[1]
STAGES = [prepare, make_folds, train, predict, submit, report]
FOLD = "folds/demo/fold_0/"
LAST = ("--fold=0", "--phase=48")

# (stage, more flags, what it is writing when the disk is full)
WRITES = [
    (prepare, (), "data/cache/sample/images.npy"),
    (prepare, (), "data/cache/sample/tiles.csv"),
    (make_folds, (), "folds/demo/folds.csv"),
    (train, LAST, FOLD + "48.last.safetensors"),
    (train, LAST, FOLD + "48.csv"),
    (pseudo_label, ("--fold=0", *LABELS), FOLD + "pseudo_probs.npy"),
    (pseudo_label, ("--fold=0", *LABELS), FOLD + "pseudo_tiles.csv"),
    (predict, (), "folds/demo/oof.npy"),
    (predict, (), "submissions/demo/disagreement.csv"),
    (submit, (), "submissions/demo/submission.csv.gz"),
    (report, (), "submissions/demo/scores.json"),
    (report, (), "submissions/demo/report.html"),
]
# (tool, its arguments, what it writes)
TOOLS = [
    (segment, ("tile.npy", "--profile=demo"), "submissions/demo/segment/tile/mask.png"),
    (segment, ("tile.npy", "--profile=demo"), "submissions/demo/segment/tile/probability.tif"),
    (compare, ("demo", "twin"), "submissions/compare-demo+twin.html"),
    (picture, ("--profile=demo", "--tiles=2", "--to=submissions/tiles.png"), "submissions/tiles.png"),
    (lr_find, ("--profile=demo", *LAST), "folds/demo/fold_0/48.lr_find.png"),
    (export, ("--profile=demo", *LAST, "--to=submissions/unet.onnx"), "submissions/unet.onnx"),
]


def content(out: Path) -> dict[str, bytes]:
    """Every file except sidecars, which record when they were written."""
    return {name: bytes_ for name, (_, bytes_) in tree(out).items() if not name.endswith(".json")}


def ends(command: Callable, argv: list[str]) -> str:
    """The sentence with which the command ends, with status 1."""
    with contextlib.redirect_stdout(None), pytest.raises(SystemExit) as e:
        cli.start(lambda _: command(argv))
    assert isinstance(e.value.code, str) and e.value.code.startswith("error: ") and "\n" not in e.value.code
    return e.value.code


@pytest.fixture
def tools(tiny, monkeypatch) -> Callable[[tuple[str, ...]], list[str]]:
    """A tool's command line, run in the folder of a run that has a copy, and a picture."""
    for folder in ("folds", "submissions"):
        shutil.copytree(tiny.out / folder / "demo", tiny.out / folder / "twin")
    monkeypatch.chdir(tiny.out)
    np.save("tile.npy", np.load("data/cache/sample/test.npy")[0])
    own = [f"--set={setting}" for setting in tiny.settings]
    return lambda flags: [
        "--data=sample",
        f"--out={tiny.out}",
        *flags,
        *own * (not {"--tiles=2", *LAST}.isdisjoint(flags)),
    ]


# ---- a full disk


def full(path: Path) -> None:
    """Make the temporary file of `path` a link to /dev/full, so that this process finds no space there."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    tmp = path.with_name(f".tmp-{platform.node()}-{os.getpid()}-{path.name}")
    tmp.parent.mkdir(parents=True, exist_ok=True)
    tmp.symlink_to("/dev/full")


@pytest.mark.parametrize("stage, extra, name", WRITES, ids=lambda value: getattr(value, "__name__", None))
def test_a_full_disk_is_one_sentence_of_every_stage_and_what_was_there_stays(tiny, stage, extra, name):
    before = content(tiny.out)
    full(tiny.out / name)
    said = ends(stage.main, tiny.flags("--force", *extra))
    assert "no space left to write " in said and said.count(Path(name).name) == 1 and "--out" in said
    assert content(tiny.out) == before, "what was there, and nothing half-written"
    assert not [path for path in tiny.out.rglob("*.*") if artifacts.damage_of(path)]
    assert artifacts.read_sidecar(tiny.out / name) or "pseudo" in name


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # fastai's Learner.load
@pytest.mark.parametrize("tool, flags, name", TOOLS, ids=lambda value: getattr(value, "__name__", None))
def test_a_full_disk_is_one_sentence_of_the_tools(tiny, tools, tool, flags, name):
    before = tree(tiny.out)
    full(tiny.out / name)
    said = ends(tool.main, tools(flags))
    assert "no space left to write " in said and "Traceback" not in said
    assert tree(tiny.out) == before


def test_a_file_that_numpy_could_write_in_part_alone_is_a_full_disk_too(tmp_path):
    """ndarray.tofile raises "2000000 requested and 131056 written", without an errno."""
    with pytest.raises(InputError, match="no space left to write"), disk.replacing(tmp_path / "x.npy"):
        raise OSError("2000000 requested and 131056 written")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_that_the_output_goes_to_is_one_sentence(empty):
    with open("/dev/full", "w") as nowhere:
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline", *empty.flags()],
            cwd=ROOT,
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "error: no space left to write what this command prints; free some\n",
    )


def test_a_full_disk_is_said_by_the_lock_too(tmp_path, monkeypatch):
    def write(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(InputError, match="no space left to write"), disk.making(tmp_path / "64.csv"):
        pass
    assert not [*tmp_path.iterdir()]


# ---- a folder that can only be read


@contextlib.contextmanager
def bound_by_modes() -> Iterator[None]:
    """Let file modes restrict this thread, even if the process is root's.

    https://man7.org/linux/man-pages/man2/capset.2.html
    """
    if os.geteuid():
        yield
        return
    libc, header, sets = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@contextlib.contextmanager
def read_only(out: Path) -> Iterator[None]:
    """Let nothing be created or removed below `out`."""
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with bound_by_modes():
            with pytest.raises(PermissionError):
                (out / "x").touch()
            yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


STAGES_THAT_WRITE = [(stage, extra) for stage, extra, _ in WRITES if stage not in (train, pseudo_label)]


@pytest.mark.parametrize(
    "stage, extra",
    [*dict.fromkeys(STAGES_THAT_WRITE), (train, LAST), (pseudo_label, ("--fold=0", *LABELS))],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_folder_that_can_only_be_read_is_one_sentence_of_every_stage(tiny, stage, extra):
    with read_only(tiny.out):
        said = sentence(tiny, stage, ("--force", *extra))
    assert "cannot be written; name a writable folder with --out" in said and "\n" not in said


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # fastai's Learner.load
@pytest.mark.parametrize("tool, flags, name", TOOLS[1:], ids=lambda value: getattr(value, "__name__", None))
def test_a_folder_that_can_only_be_read_is_one_sentence_of_the_tools(tiny, tools, tool, flags, name):
    before = tree(tiny.out)
    with read_only(tiny.out):
        said = ends(tool.main, tools(flags))
    assert "cannot be written; name a writable folder" in said and tree(tiny.out) == before


def test_a_run_in_a_folder_that_can_only_be_read_is_found_up_to_date(tiny):
    with read_only(tiny.out):
        assert tiny(*STAGES).count("fresh") == 9


# ---- too little memory

NO_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_too_little_memory_is_a_sentence_with_the_batch_to_try(error):
    whose = "there is" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else "the GPU has"
    words = rf"^fold 0: {whose} too little memory for batches of 33 .* --set train.batch=16"
    with pytest.raises(InputError, match=words), enough_memory("fold 0", "train.batch", 33):
        raise error
    with pytest.raises(InputError, match="use a smaller model or size"), enough_memory("fold 0", "train.batch", 3):
        raise error


def test_another_fault_is_not_taken_for_too_little_memory():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("fold 0", "train.batch", 32):
        raise RuntimeError("shapes do not match")


def test_a_training_that_a_gpu_has_too_little_memory_for_keeps_its_state(finished, untrained, monkeypatch):
    clock, after_batch = time.perf_counter, EpochLog.after_batch
    monkeypatch.setattr(time, "perf_counter", lambda: 10**6 * clock())  # a state is saved after every step

    def out_of_memory(self) -> None:
        after_batch(self)
        if self.epoch == 1:
            raise NO_MEMORY[0]

    flags = untrained.flags("--fold=0", "--phase=32")
    with monkeypatch.context() as patch:
        patch.setattr(EpochLog, "after_batch", out_of_memory)
        said = ends(train.main, flags)
    assert "fold 0 32: the GPU has too little memory for batches of 6 tiles; try --set train.32.batch=3" in said
    untrained.parse("--set=train.32.batch=3")  # can be followed
    train.main(flags)
    name = FOLD + "32.safetensors"
    assert (untrained.out / name).read_bytes() == (finished[0].out / name).read_bytes()


def test_a_prediction_that_a_gpu_has_too_little_memory_for_changes_nothing(tiny, monkeypatch):
    def out_of_memory(*args) -> None:
        raise NO_MEMORY[0]

    monkeypatch.setattr(inference, "flip_tta", out_of_memory)
    words = "the GPU has too little memory for batches of 5 tiles; try --set predict.batch=2"
    assert words in sentence(tiny, predict, ("--force",))
    before = content(tiny.out)
    assert words in ends(pseudo_label.main, tiny.flags("--fold=0", *LABELS)) and content(tiny.out) == before


# ---- a clock that is wrong


def test_neither_a_clock_that_is_set_back_nor_files_of_the_future_make_anything_stale(tiny, monkeypatch):
    before, strftime = content(tiny.out), time.strftime
    for path in tiny.out.rglob("*"):
        os.utime(path, (2**32, 2**32))  # 2106
    monkeypatch.setattr(time, "time", lambda: 1.0)  # 1970, as a machine whose battery is empty begins
    monkeypatch.setattr(time, "strftime", lambda form, when=None: strftime(form, when or time.gmtime(1)))
    assert tiny(*STAGES).count("fresh") == 9
    tiny(make_folds, submit, extra=("--force",))
    assert tiny(*STAGES).count("fresh") == 9 and content(tiny.out) == before
