"""tools.doctor: each fault is one line with the command that fixes it, which works; looking changes nothing."""

import contextlib
import importlib
import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import predict, prepare, train
from pipeline.salt import artifacts, checks, cli, disk, environment
from pipeline.salt.artifacts import sidecar_of
from pipeline.salt.errors import Stopped
from pipeline.salt.models.encoders import weights
from pipeline.tools import doctor

WEIGHTS, OOF = "folds/demo/fold_0/48.last.safetensors", "folds/demo/oof.npy"
TEST, SUBMISSION = "submissions/demo/test.npy", "submissions/demo/submission.csv.gz"
STATE = "folds/demo/fold_0/32.resume.pt"
STAGES = ["prepare", "make_folds", "train", "predict", "submit", "report"]


def snapshot(folder: Path) -> dict[Path, tuple]:
    return {path: ((stat := path.lstat()).st_size, stat.st_mtime_ns, stat.st_ino) for path in folder.rglob("*")}


def look(run, *extra: str) -> tuple[int, list[str]]:
    """Exit status and lines of the doctor; checks that it has changed nothing below --out."""
    artifacts._hash_version.cache_clear()  # another command
    before, said, status = snapshot(run.out), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(said):
            doctor.main(run.flags(*extra))
    except SystemExit as e:
        status = e.code
    assert snapshot(run.out) == before
    lines = said.getvalue().splitlines()
    assert status == any(line.startswith("!!") for line in lines)
    return status, lines


def faults(lines: list[str]) -> list[tuple[str, str]]:
    """(what is wrong, what fixes it) of each fault."""
    rows = zip(lines, lines[1:], strict=False)
    return [(line, below.removeprefix("    fix").strip()) for line, below in rows if line.startswith("!!")]


def carry_out(command: str) -> None:
    """Run what the doctor suggests, as in a shell; stages and tools in this process."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "-m"]:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module(words[2]).main(words[3:])
    else:
        subprocess.run(words, check=True)


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


# ---- a run without fault


def test_a_finished_run_has_no_fault_and_every_stage_its_line(finished):
    status, lines = look(finished[0])
    assert status == 0 and lines[-1] == "nothing is wrong"
    subjects = [line[4:].split()[0] for line in lines if line.startswith("ok")]
    assert [name for name in dict.fromkeys(subjects) if name in STAGES] == STAGES
    assert subjects.count("train") == 4, "two folds in two phases"
    assert "--fold 1 --phase 48: 3 files" in "\n".join(lines)


def test_what_was_not_made_yet_is_no_fault(empty):
    status, lines = look(empty)
    assert status == 0 and not empty.out.exists()
    made = [line for line in lines if "not made yet: python -m pipeline." in line]
    assert [line.split()[1] for line in made] == [*STAGES[:2], *["train"] * 4, *STAGES[3:]]
    assert any("not made yet: python -m pipeline.train --fold 1 --phase 48 --data sample" in line for line in made)


def test_a_copy_with_other_times_is_hashed_and_left_as_it_is(tiny):
    for path in tiny.out.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert look(tiny)[0] == 0


def test_what_its_stage_would_simply_redo_is_no_fault(tiny):
    status, lines = look(tiny, "--set=submit.threshold=0.4")
    [line] = [line for line in lines if line.startswith("--  submit")]
    assert (
        status == 0
        and "gz was made with other settings (submit.threshold 0.5 -> 0.4): python -m pipeline.submit" in line
    )
    assert "--set submit.threshold=0.4" in line


# ---- faults


def one_bit(path: Path) -> None:
    """Flip one bit, and leave size and time unchanged, as a failing disk may."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def no_sidecar(path: Path) -> None:
    sidecar_of(path).unlink()


def garbage_for_sidecar(path: Path) -> None:
    sidecar_of(path).write_text("{")


def half_written(path: Path) -> None:
    path.with_name(f".tmp-{os.uname().nodename}-{dead_process()}-{path.name}").write_text("half")


def old_state(path: Path) -> None:
    path.with_name("48.resume.pt").write_bytes(b"")


@pytest.mark.parametrize(
    "name, spoil, words, mend",
    [
        (WEIGHTS, one_bit, "48.last.safetensors is damaged: its bytes", "pipeline.train --fold 0 --phase 48"),
        (WEIGHTS, no_sidecar, "48.last.safetensors is not finished: 48.last.saf", "pipeline.train --fold 0 --phase 48"),
        (OOF, cut, "oof.npy is damaged: it has ", "pipeline.predict"),
        (TEST, Path.unlink, "test.npy is gone, but its test.npy.json is there", "pipeline.predict"),
        (SUBMISSION, garbage_for_sidecar, "submission.csv.gz cannot be trusted: ", "pipeline.submit"),
        ("data/cache/sample/masks.npy", one_bit, "masks.npy is damaged: its bytes are not those", "pipeline.prepare"),
        ("folds/demo/folds.csv", one_bit, "folds.csv is damaged: its bytes are not those", "pipeline.make_folds"),
        (OOF, half_written, "oof.npy, of a killed process", "rm "),
    ],
)
def test_a_fault_is_one_line_and_what_stands_below_it_mends_it(tiny, name, spoil: Callable, words, mend):
    spoil(tiny.out / name)
    status, lines = look(tiny)
    [(fault, remedy)] = faults(lines)
    assert status == 1 and words in fault and mend in remedy, lines
    assert lines[-1].startswith("1 fault;")
    carry_out(remedy)
    assert look(tiny)[0] == 0


def test_of_several_faults_each_has_its_line(tiny):
    for name in (WEIGHTS, OOF, TEST, SUBMISSION):
        one_bit(tiny.out / name)
    status, lines = look(tiny)
    assert status == 1 and len(faults(lines)) == 4 and lines[-1].startswith("4 faults; start with the first")


def test_weights_of_another_recipe_are_a_fault_and_the_run_of_another_name_is_none(tiny):
    _, lines = look(tiny, "--set=train.48.lr=1e-4")
    found = faults(lines)
    assert len(found) == 2 and all(" was made with other settings (train.phase.lr 0." in fault for fault, _ in found)
    assert "--run NAME" in found[0][1] and found[0][1].endswith("--force")
    assert look(tiny, "--set=train.48.lr=1e-4", "--run=other")[0] == 0


def test_what_a_living_process_writes_is_no_fault(tiny):
    tmp = tiny.out / f"submissions/demo/.tmp-{os.uname().nodename}-{os.getpid()}-test.npy"
    tmp.write_text("half")
    with disk.making(tiny.out / TEST):
        status, lines = look(tiny)
    assert status == 0 and sum("of a process at work" in line for line in lines) == 2


def test_the_lock_of_a_killed_process_is_no_fault_for_the_next_one_takes_it(tiny):
    lock = tiny.out / "submissions/demo/.test.npy.lock"
    lock.write_text(f"process {dead_process()} on {os.uname().nodename}, since 2026-11-22 10:00")
    status, lines = look(tiny)
    assert status == 0 and sum("/.test.npy.lock, of a killed process" in line for line in lines) == 1


# ---- states


def test_a_state_beside_what_is_finished_may_be_that_of_a_stopped_force_and_is_no_fault(tiny):
    old_state(tiny.out / WEIGHTS)
    status, lines = look(tiny)
    [at] = [number for number, line in enumerate(lines) if "48.resume.pt is left over from finished work" in line]
    assert status == 0 and "pipeline.train --fold 0 --phase 48" in lines[at + 1] and "--force" in lines[at + 1]


def test_a_stopped_training_says_how_far_it_is_and_what_goes_on(untrained):
    with pytest.raises(Stopped):
        untrained(train, extra=("--max-hours=0",))
    status, lines = look(untrained)
    [line] = [line for line in lines if "resume.pt" in line]
    assert status == 0 and "32.resume.pt: 1 epochs are done; to go on from there: python -m pipeline.train" in line

    status, lines = look(untrained, "--set=train.32.lr=1e-3")
    [(fault, remedy)] = faults(lines)
    assert "1 epochs are done, with other settings (train.phase.lr 0.03 -> 0.001)" in fault and "--run NAME" in remedy

    one_bit(untrained.out / STATE)
    [(fault, remedy)] = faults(look(untrained)[1])
    assert "32.resume.pt is damaged (" in fault and "pipeline.train --fold 0 --phase 32" in remedy
    carry_out(remedy)
    assert look(untrained)[0] == 0 and not (untrained.out / STATE).exists()


def test_a_stopped_prediction_goes_on_or_is_damaged(tiny):
    (tiny.out / OOF).unlink(), sidecar_of(tiny.out / OOF).unlink()
    with pytest.raises(Stopped):
        tiny(predict, extra=("--max-hours=0",))
    status, lines = look(tiny)
    [line] = [line for line in lines if "resume" in line]
    assert status == 0 and "oof.resume: some tiles are predicted; to go on from there: python -m pipeline.pre" in line
    one_bit(tiny.out / "folds/demo/oof.resume")
    [(fault, remedy)] = faults(look(tiny)[1])
    assert "oof.resume is damaged" in fault
    carry_out(remedy)
    assert look(tiny)[0] == 0


# ---- what a run needs


def test_faults_of_the_tiles_are_all_said_until_they_are_mended(tiny_competition, empty):
    run, lists = replace(empty, data=tiny_competition), ("depths.csv", "train.csv")
    for name in lists:
        (tiny_competition / name).rename(tiny_competition / f"x{name}")
    status, lines = look(run)
    text = "\n".join(lines)
    assert status == 1 and all(f"{name}: missing" in text for name in lists)
    assert "then python -m pipeline.prepare --data " in text
    for name in lists:
        (tiny_competition / f"x{name}").rename(tiny_competition / name)
    status, lines = look(run)
    assert status == 0 and "24 with a mask, 8 to predict; no file has a fault" in "\n".join(lines)
    run(prepare)
    assert "unchanged since they were decoded" in "\n".join(look(run)[1]), "and not read again"
    (tiny_competition / "depths.csv").write_text("id,z\n")
    [(fault, _)] = faults(look(run)[1])
    assert "fault" in fault and "tiles" in fault, "read again"


@pytest.mark.parametrize("sha256, status", [("b627a593", 1), ("", 0)])
def test_weights_have_the_sha256_of_their_name(empty, tmp_path, monkeypatch, sha256, status):
    url = f"https://download.example/resnet34{'-' * bool(sha256)}{sha256}.pth"
    monkeypatch.setattr(weights, "_addresses", lambda name: [url])
    flags = ("--set=model.weights=imagenet", "--encoder=resnet34", f"--weights={tmp_path}")
    found, lines = look(empty, *flags)
    assert found == 0 and any(line.startswith("--  weights") for line in lines), "none are there: no fault"
    assert (f"training downloads them from {url}" in "\n".join(lines)) == bool(sha256)
    file = tmp_path / url.rpartition("/")[2]
    torch.save({"x": torch.zeros(1)}, file)
    found, lines = look(empty, *flags)
    assert found == status
    if status:
        [(fault, remedy)] = faults(lines)
        assert "its SHA-256 begins with " in fault and "that of the right file with b627a593" in fault
        assert remedy == f"curl -L -o {disk.display_path(file)} {url}"
    file.write_bytes(file.read_bytes()[:100])
    assert look(empty, *flags)[0] == 1, "cut short"


def test_a_right_sha256_is_found_right(empty, tmp_path, monkeypatch):
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pth")
    name = f"resnet34-{artifacts._hash_file(tmp_path / 'w.pth')[:8]}.pth"
    (tmp_path / "w.pth").rename(tmp_path / name)
    monkeypatch.setattr(weights, "_addresses", lambda encoder: [f"https://download.example/{name}"])
    status, lines = look(empty, "--set=model.weights=imagenet", "--encoder=resnet34", f"--weights={tmp_path}")
    assert status == 0 and any(line.startswith("ok  weights") and name in line for line in lines)


def test_a_disk_too_small_is_a_fault_while_there_is_something_to_write(empty, finished, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.4e9))
    [(fault, remedy)] = faults(look(empty)[1])
    assert "1.4 GB free; this run may need 1.7" in fault and "--out DIR" in remedy
    assert look(finished[0])[0] == 0


def test_packages_that_are_too_old_or_cannot_be_imported_are_named(empty, monkeypatch):
    monkeypatch.setattr(checks, "_requirements", lambda: ["numpy>=99", "no-such-package", "six>=99", "torch>=1"])
    [(old, remedy), (absent, _)] = faults(look(empty)[1])
    assert "numpy>=99 is needed, " in old and remedy.endswith("-m pip install 'numpy>=99'")
    assert "no-such-package is needed, none is installed" in absent
    monkeypatch.setattr(checks, "_requirements", lambda: [])
    monkeypatch.setattr(checks, "IMPORTED", ("no_such_module",))
    [(fault, remedy)] = faults(look(empty)[1])
    assert "no_such_module cannot be imported (ModuleNotFoundError: " in fault and "install torch torchvision" in remedy


def test_the_requirements_are_those_of_the_project():
    assert any(each.startswith("torch>=") for each in checks._requirements())
    assert not [finding for finding in checks.packages() if finding.mark == checks.FAULT]


def test_a_gpu_that_torch_cannot_use_is_a_fault(empty, monkeypatch):
    monkeypatch.setattr(checks, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    [(fault, remedy)] = faults(look(empty)[1])
    assert "there is one, but torch " in fault and "pytorch.org" in remedy


def test_weights_of_another_release_are_worth_a_line(tiny, monkeypatch):
    versions = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda: versions | {"torch": "99.1"})
    status, lines = look(tiny)
    noted = [
        line for line in lines if line.startswith("--  train") and f"torch {versions['torch']} (here 99.1)" in line
    ]
    assert status == 0 and len(noted) == 4


def test_the_exit_status_reaches_the_shell(tiny, monkeypatch):
    one_bit(tiny.out / OOF)
    monkeypatch.setattr(sys, "argv", ["doctor", *tiny.flags()])
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as e:
        cli.start(doctor.main)
    assert e.value.code == 1
