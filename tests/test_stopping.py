"""SIGTERM and Ctrl-C: the step is finished and saved, the exit status is the signal's, nothing is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline import predict, train
from pipeline.salt import inference, stopping
from pipeline.salt.errors import Stopped

ROOT = Path(__file__).parents[1]
MORE = "--set=train.32.epochs=40"  # time to be stopped in
FLAGS = ("--fold=0", "--phase=32", MORE)


def start(run, *extra: str) -> subprocess.Popen:
    """Start the training as a shell does in the background, where Ctrl-C is ignored unless handled."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", *run.flags(*extra)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509
    )


def wait_for(process: subprocess.Popen, *words: str) -> list[str]:
    """The lines up to the one in which the last of these words appears."""
    lines, missing = [], {*words}
    for line in process.stdout:
        lines.append(line)
        missing -= {each for each in missing if each in line}
        if not missing:
            return lines
    raise AssertionError("".join(lines))


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("folds/demo/fold_*/*.safetensors"))}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_told_to_stop_saves_and_goes_on_bit_for_bit(untrained, tmp_path, number):
    straight = replace(untrained, out=shutil.copytree(untrained.out, tmp_path / "straight"))
    straight(train, extra=FLAGS)
    with start(untrained, *FLAGS) as process:
        wait_for(process, "epoch  2/40")
        process.send_signal(number)
        said = process.stdout.read()
        assert process.wait() == 128 + number
    assert "stopping after this step" in said and "32.resume.pt has epoch" in said, said
    assert "the same command goes on from there" in said and "Traceback" not in said
    assert not weights(untrained.out) and not list(untrained.out.rglob(".tmp*"))
    assert "\nfold 0  32 px  epoch  2/40" not in untrained(train, extra=FLAGS), "what was done is not done again"
    assert weights(untrained.out) == weights(straight.out) and not list(untrained.out.rglob("*.resume.pt"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "batches", [1, 5, 10, 11]
)  # of the training tiles, of the test tiles, the last, none that is left
def test_a_prediction_that_is_told_to_stop_goes_on_where_it_was(tiny, monkeypatch, handlers, number, batches):
    names = ("folds/demo/oof.npy", "submissions/demo/test.npy", "submissions/demo/disagreement.csv")
    before = {name: (tiny.out / name).read_bytes() for name in names}
    done, tile_logits, to_csv = [], inference.tile_logits, pd.DataFrame.to_csv

    def count() -> None:
        done.append(True)
        if len(done) == batches:
            signal.raise_signal(number)

    def counted(*args):
        for batch in tile_logits(*args):
            count()
            yield batch

    def written(*args, **settings) -> None:  # after the last batch
        count()
        to_csv(*args, **settings)

    monkeypatch.setattr(inference, "tile_logits", counted)
    monkeypatch.setattr(pd.DataFrame, "to_csv", written)
    with pytest.raises(Stopped, match="tiles.*; the same command goes on from there$") as e:
        tiny(predict, extra=("--force",))
    assert e.value.status == 128 + number and len(done) == batches
    tiny(predict, extra=("--force",) if batches < 11 else ())
    assert len(done) == 11 and {name: (tiny.out / name).read_bytes() for name in names} == before
    assert not [*tiny.out.rglob("*.resume*")]


@pytest.fixture
def handlers():
    """Ctrl-C as in a shell's foreground, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_ends_at_once(handlers):
    with pytest.raises(KeyboardInterrupt), stopping.noting() as stop:
        assert stop() == 0
        signal.raise_signal(signal.SIGINT)
        assert stop() == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_error_that_c_code_makes_of_a_signal_is_taken_for_it(handlers, number):
    """torch raises one when asked for a length; found by the soak test in safetensors' load_file."""
    with pytest.raises(KeyboardInterrupt) as e, stopping.terminating_like_ctrl_c():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")
    assert isinstance(e.value, stopping.Terminated) == (number == signal.SIGTERM)
    with pytest.raises(ValueError, match="ours"), stopping.terminating_like_ctrl_c():
        raise ValueError("ours")


def test_workers_finish_their_steps_too_and_the_command_ends_with_the_signal(untrained, tmp_path):
    straight = replace(untrained, out=shutil.copytree(untrained.out, tmp_path / "straight"))
    straight(train, extra=("--phase=32", MORE))
    with start(untrained, "--phase=32", MORE, "--workers=2") as process:
        wait_for(process, *(f"fold {fold}  32 px  epoch  2/40" for fold in (0, 1)))
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait() == 143
    assert "the same command does the rest" in said and "Traceback" not in said, said
    assert len([*untrained.out.rglob("*.resume.pt")]) == 2 and not list(untrained.out.rglob(".tmp*"))
    untrained(train, extra=("--phase=32", MORE))
    assert weights(untrained.out) == weights(straight.out)


def test_the_second_signal_that_a_launcher_hands_on_ends_nothing(handlers, monkeypatch, capfd):
    """torchrun passes on a Ctrl-C that its processes have already received from the terminal."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with stopping.noting() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop() == signal.SIGINT
    said = capfd.readouterr().err
    assert said.count("stopping after this step, which is saved") == 1 and "once more" not in said
    monkeypatch.setenv("RANK", "1")
    with stopping.noting() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop() == signal.SIGTERM
    assert not capfd.readouterr().err, "the first process says it"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_all_passes_the_signal_on_waits_and_begins_no_other_stage(tmp_path, number):
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    stage = tmp_path / "stage"  # as ours: it takes a moment to save, and ends with the signal's status
    stage.write_text(f"""#!{sys.executable}
import signal, sys, time
def stop(number, frame):
    time.sleep(0.5)
    print("saved", sys.argv[3], flush=True)
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, stop)
if sys.argv[3] == "pipeline.train":
    print("ready", flush=True)
    time.sleep(60)
""")
    stage.chmod(0o755)
    (tmp_path / "environment.sh").write_text(f"python={stage}\n")
    script = [tmp_path / "run_all.sh"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(process, "ready")
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        assert process.stdout.read() == "saved pipeline.train\n"
        assert process.wait() == 128 + number


def test_run_all_ends_with_the_status_of_the_stage_that_fails(tmp_path):
    shutil.copy(ROOT / "run_all.sh", tmp_path)
    script = tmp_path / "run_all.sh"
    (tmp_path / "environment.sh").write_text("python=false\n")
    assert subprocess.run([script], check=False).returncode == 1
    # a busy machine: the stage has ended before the shell looks at it
    (tmp_path / "environment.sh").write_text('python=false\nkill() { sleep 0.2; command kill "$@"; }\n')
    assert subprocess.run([script], check=False).returncode == 1
    (tmp_path / "environment.sh").write_text("python=true\n")
    assert subprocess.run([tmp_path / "run_all.sh"], check=False).returncode == 0
