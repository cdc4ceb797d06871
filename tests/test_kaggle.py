"""An earlier session's output of a run is found and linked, and never written to."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import predict, prepare, submit, train
from pipeline.salt import artifacts, checks, device, kaggle
from pipeline.salt.errors import InputError, Stopped
from pipeline.tools import session

SLUGS = ["tgs-salt", "notebooks/somebody/tgs-salt", "datasets/somebody/folds/versions/2/salt"]


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """mount(out, slug) attaches a session's output and returns its folder."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "input")

    def mount(out: Path, slug: str = SLUGS[0]) -> Path:
        (tmp_path / "input" / slug).parent.mkdir(parents=True, exist_ok=True)
        return out.rename(tmp_path / "input" / slug)

    return mount


def content(folder: Path) -> dict[Path, tuple]:
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def up_to_date(said: str) -> int:
    return sum(line.startswith("fresh ") for line in said.splitlines())


@pytest.mark.parametrize("slug", SLUGS)
def test_a_finished_run_is_fresh_in_the_next_session_without_a_copy(tiny, tmp_path, mount, slug):
    earlier = mount(tiny.out, slug)
    before, here = content(earlier), replace(tiny, out=tmp_path / "working")
    said = here(prepare)
    assert f"earlier  {earlier}: " in said and up_to_date(said) == 1
    assert up_to_date(here(train, predict, submit)) == 6, "two folds in two phases, predictions, submission"
    links = [path for path in here.out.rglob("*") if path.is_file()]
    assert links and all(path.is_symlink() and path.resolve().is_relative_to(earlier) for path in links)
    assert "earlier" not in here(prepare), "once"
    assert content(earlier) == before


def test_what_is_made_anew_takes_the_links_place_and_leaves_the_input(tiny, tmp_path, mount):
    earlier = mount(tiny.out)
    before, here = content(earlier), replace(tiny, out=tmp_path / "working")
    changed = ("--set=train.48.lr=1e-4", "--force", "--fold=1")
    here(prepare, extra=changed[:1])
    here(train, extra=changed)
    weights = here.out / "folds/demo/fold_1/48.safetensors"
    assert not weights.is_symlink() and not artifacts.sidecar_of(weights).is_symlink()
    artifacts.discard(here.out / "folds/demo/oof.npy")
    assert content(earlier) == before and not (here.out / "folds/demo/oof.npy").exists()


def test_an_unfinished_training_goes_on_from_the_attached_state(untrained, finished, tmp_path, mount):
    """Two sessions run out of time after an epoch each, the third finishes: bit for bit as in one session."""
    out = untrained.out
    for hours in ("0", "0", "9"):
        earlier = mount(out, f"session-{out.name}")
        out = tmp_path / f"{out.name}-next"
        here, before = replace(untrained, out=out), content(earlier)
        here(prepare)
        try:
            here(train, extra=(f"--max-hours={hours}",))
        except Stopped as e:
            assert hours == "0" and "the same command goes on" in str(e)
            assert not (out / "folds/demo/fold_0/32.resume.pt").is_symlink()
        assert content(earlier) == before
    here(predict)
    for name in ("folds/demo/fold_1/48.safetensors", "folds/demo/fold_0/32.safetensors", "folds/demo/oof.npy"):
        assert (out / name).read_bytes() == (finished[0].out / name).read_bytes(), name
    assert not os.path.lexists(out / "folds/demo/fold_0/32.resume.pt")


def test_of_two_outputs_the_newest_counts_and_each_artifact_keeps_its_own_sidecar(tiny, tmp_path, mount):
    older = shutil.copytree(tiny.out, tmp_path / "older")
    for path in older.rglob("*"):
        os.utime(path, (1e9, 1e9))
    weights = "folds/demo/fold_0/48.safetensors"
    (tiny.out / f"{weights}.json").unlink()  # the newer session was killed between the two
    older, newer = mount(older, "a-older"), mount(tiny.out, "b-newer")
    here = replace(tiny, out=tmp_path / "working")
    here(prepare)
    linked = [(here.out / name).resolve() for name in (weights, f"{weights}.json", "folds/demo/fold_0/32.safetensors")]
    assert [older in path.parents for path in linked] == [True, True, False] and newer in linked[2].parents


def test_a_link_to_an_output_that_is_no_longer_attached_goes_away(tiny, tmp_path, mount):
    earlier, here = mount(tiny.out), replace(tiny, out=tmp_path / "working")
    here(prepare)
    shutil.rmtree(earlier)
    assert "prepared" in here(prepare)
    assert not [path for path in here.out.rglob("*") if path.is_symlink()]


def test_only_on_kaggle_and_only_the_run_of_this_name(tiny, tmp_path, mount, monkeypatch):
    shutil.copytree(tiny.out / "submissions/demo", tiny.out / "submissions/b")
    mount(tiny.out)
    here = replace(tiny, out=tmp_path / "demo")
    assert "earlier" in here(prepare) and [path.name for path in (here.out / "submissions").iterdir()] == ["demo"]
    other = replace(tiny, out=tmp_path / "other")
    assert "earlier" not in other(prepare, extra=("--run=b",))
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    assert "earlier" not in replace(tiny, out=tmp_path / "working")(prepare)


def test_what_is_kept_stands_without_the_earlier_output(tiny, tmp_path, mount):
    earlier, here = mount(tiny.out), replace(tiny, out=tmp_path / "working")
    here(prepare)
    run = here.parse()
    assert kaggle.keep(run.files) > 20 and kaggle.keep(run.files) == 0
    shutil.rmtree(earlier)
    assert up_to_date(here(prepare, train, predict, submit)) == 7


def test_what_follows_a_stage_that_failed_waits_and_the_failure_is_not_forgotten(monkeypatch, capsys):
    """train --pseudo is a separate stage, with nothing to do in most profiles."""
    began = []

    class Process:
        def __init__(self, command, **how):
            began.append(" ".join(command[3:]))
            self.stdout, self.returncode = iter([""]), int(command[3] == "pipeline.train")

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *fault: None  # noqa: E731

    monkeypatch.setattr(session.subprocess, "Popen", Process)
    kernel = session.Session()
    for stage in (["make_folds"], ["train"], ["pseudo_label"], ["train", "--pseudo"], ["predict"], ["train"]):
        kernel.stage(*stage)
    assert [each.split()[0] for each in began] == ["pipeline.make_folds", "pipeline.train", "pipeline.train"]
    said = capsys.readouterr().out
    assert "waits    train: train has failed" in said and "waits    predict: train has failed" in said
    assert kernel.failed == "train"


def test_the_preflight_says_what_it_finds(tiny, tmp_path, mount, capsys, monkeypatch):
    earlier = mount(tiny.out)
    (earlier / "folds/demo/fold_1/48.csv.json").unlink()
    monkeypatch.setattr(checks, "visible_gpus", lambda: [])
    session.main(replace(tiny, out=tmp_path / "working").flags("--set=model.weights=imagenet"))
    said = capsys.readouterr().out
    assert f"earlier  {earlier}: run demo, 3 trainings finished, 0 under way" in said
    assert (
        "choose   Settings > Accelerator > GPU T4 x2" in said and "weights  ImageNet's for test_resnet are not" in said
    )
    assert "torch " in said and "GB free" in said and "attach   Add Input > Competitions" in said


def test_the_preflight_tells_a_gpu_that_works_from_a_full_one_and_one_without_kernels(monkeypatch, capsys):
    import torch

    def try_out(gpu: torch.device) -> None:
        if gpu.index == 1:
            raise InputError("no code for it")
        if gpu.index == 2:
            raise InputError("full") from RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(checks, "visible_gpus", lambda: ["0", "1", "2"])
    monkeypatch.setattr(device, "try_out", try_out)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: ["Tesla T4", "Tesla P100", "H100"][gpu.index])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=15 * 2**30))
    first, second, third = checks.gpus()
    assert first == (checks.OK, "gpu", "0: Tesla T4, 15 GiB; a convolution on it works", "")
    assert second.mark == checks.FAULT and second.text.startswith("1: Tesla P100; torch ")
    assert third[:3] == (checks.FAULT, "gpu", "2: H100; its memory is full") and "nvidia-smi" in third.remedy
    assert "T4 x2" in session.ON_KAGGLE[second.subject]
