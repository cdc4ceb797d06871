"""--out URL: two machines, each with a folder of its own, and one place between them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline import make_folds, predict, prepare, train
from pipeline.salt import artifacts, mirror
from pipeline.salt.artifacts import origin
from pipeline.salt.errors import InputError
from pipeline.salt.mirror import Mirror, folder_of, url_of

SMALL = [
    "sample.train=25",
    "sample.test=2",
    "run_folds=2",
    "folds.k=2",
    "train.64.size=32",
    "train.96.size=48",
    "train.batch=6",
    "train.epochs=1",
    "model.options.width=8",
    "train.precision=fp32",
]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def url(tmp_path) -> str:
    return f"file://{tmp_path}/bucket/a run"


@pytest.fixture
def there(tmp_path) -> Path:
    """What the URL has."""
    return tmp_path / "bucket/a run"


@pytest.fixture
def on(tmp_path, monkeypatch):
    """on("a"): from now on this is machine a."""

    def on(machine: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))

    on("a")
    return on


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(mirror, "EVERY", 0.05)


def make(folder: Path, name: str, text: str, made: str | None = None) -> Path:
    path = folder / name
    artifacts.publish(path, origin({"text": text}), lambda tmp: tmp.write_text(text))
    if made:
        notes = artifacts.sidecar_of(path)
        notes.write_text(json.dumps(json.loads(notes.read_text()) | {"made": made}))
    return path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".lock"}


def test_the_folder_is_named_after_the_url(on):
    for url in ("s3://bucket/run", "gs://b/a run/with:colon", "memory://x"):
        assert url_of(folder_of(url)) == url and folder_of(url) == folder_of(url + "/")
    assert url_of(Path("/home/me/run")) is None
    assert mirror.elsewhere(["--fold=3", f"--out={folder_of('s3://bucket/run')}"]) == [
        "--fold=3",
        "--out=s3://bucket/run",
    ]
    assert mirror.elsewhere(["--out=/home/me/run", "--force"]) == ["--out=/home/me/run", "--force"]


def test_flags_without_a_url_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(mirror, "Mirror", None)
    for argv in ([], ["--out", "folder", "--fold", "3"], ["--out=/a/b"], ["--out", "s3://b/run", "--help"], ["--out"]):
        with mirror.local(argv) as flags:
            assert flags is argv


def test_what_one_machine_makes_the_other_has(on, url, there):
    with mirror.local(["--out", url]) as flags:
        assert flags[:2] == ["--out", url] and flags[2] == f"--out={folder_of(url)}"
        for name in (
            "folds/demo/folds.csv",
            "folds/demo/fold_3/64.safetensors",
            "submissions/demo/test.npy",
            "data/cache/sample/images.npy",
        ):
            make(folder_of(url), name, name)
        (folder_of(url) / "data/sample").mkdir()
        (folder_of(url) / "data/sample/large.zip").touch()  # raw files are not results
        (folder_of(url) / "folds/demo/fold_3/half.npy").touch()  # nor is what has no notes
        (folder_of(url) / "folds/demo/.tmp-1-32.resume.pt").touch()
    assert len(files(there)) == 8
    ours = folder_of(url)
    on("b")
    with mirror.local([f"--out={url}"]):
        assert files(folder_of(url)) == files(there)
        assert all((folder_of(url) / name).read_bytes() == (ours / name).read_bytes() for name in files(there))


def test_a_fold_carries_its_own_weights_alone(on, url, there):
    for fold in (0, 1):
        make(there, f"folds/demo/fold_{fold}/64.npy", "weights")
    make(there, "folds/blog/fold_0/128.npy", "another profile's")
    make(there, "folds/demo/folds.csv", "ids")
    with mirror.local(["--out", url, "--profile", "demo", "--fold=1"]):
        assert {name for name in files(folder_of(url)) if not name.endswith(".json")} == {
            "folds/demo/fold_1/64.npy",
            "folds/demo/folds.csv",
        }
        make(folder_of(url), "folds/demo/fold_0/64.npy", "not asked for")
    assert (there / "folds/demo/fold_0/64.npy").read_text() == "weights"


@pytest.mark.parametrize(
    "here, there_, left",
    [
        ("2026-01-01T00:00:01+0000", "2026-01-01T00:00:02+0000", "theirs"),
        ("2026-01-01T00:00:02+0000", "2026-01-01T00:00:01+0000", "ours"),
        # clocks of two zones: the second is the later one
        ("2026-01-01T09:00:00+0900", "2026-01-01T01:00:00+0000", "theirs"),
    ],
)
def test_the_newer_one_wins_on_both_sides(on, url, there, here, there_, left):
    make(folder_of(url), "folds/demo/folds.csv", "ours", here)
    make(there, "folds/demo/folds.csv", "theirs", there_)
    with mirror.local(["--out", url]):
        pass
    for folder in (there, folder_of(url)):
        path = folder / "folds/demo/folds.csv"
        assert path.read_text() == left and artifacts.read_sidecar(path)["settings"] == {"text": left}


def test_a_half_put_file_is_not_fetched_and_is_put_again(on, url, there):
    there.joinpath("folds/demo").mkdir(parents=True)
    there.joinpath("folds/demo/folds.csv").write_text("ha")
    with mirror.local(["--out", url]):
        assert not files(folder_of(url))
        make(folder_of(url), "folds/demo/folds.csv", "half no more")
    assert (there / "folds/demo/folds.csv").read_text() == "half no more"


def test_states_follow_at_once_and_go_when_the_training_has_ended(on, url, there, quick):
    state = "folds/demo/fold_0/64.resume.pt"
    with mirror.local(["--out", url]):
        for text in ("epoch 1", "epoch 22"):
            artifacts.replace_file(folder_of(url) / state, lambda tmp, text=text: tmp.write_text(text))
            wait_for(lambda text=text: (there / state).exists() and (there / state).read_text() == text)
        on("b")
        with mirror.local(["--out", url, "--fold=0"]):
            assert (folder_of(url) / state).read_text() == "epoch 22"
        on("a")
        artifacts.discard(folder_of(url) / state)
        make(folder_of(url), "folds/demo/fold_0/64.csv", "history", "2099-01-01T00:00:00+0000")
        wait_for(lambda: not (there / state).exists() and (there / "folds/demo/fold_0/64.csv.json").exists())
    on("b")
    with mirror.local(["--out", url]):
        assert not (folder_of(url) / state).exists(), "another machine has ended this training"


def test_a_state_that_could_not_be_put_is_not_lost(on, url, there, monkeypatch):
    """The network was away, then the training was stopped: what is there is older, or nothing."""
    ours, theirs = (folder / "folds/demo/fold_0/64.resume.pt" for folder in (folder_of(url), there))
    artifacts.replace_file(ours, lambda tmp: tmp.write_text("epoch 22"))
    with mirror.local(["--out", url]):
        pass
    assert theirs.read_text() == ours.read_text() == "epoch 22"
    theirs.write_text("epoch 1")
    os.utime(theirs, (0, 0))
    with mirror.local(["--out", url]):
        pass
    assert theirs.read_text() == ours.read_text() == "epoch 22"


def test_nothing_is_taken_away_before_what_follows_it_is_there(on, url, there, monkeypatch):
    """A machine is lost while it puts the weights of a training that has just ended: the state is still there."""
    state = folder_of(url) / "folds/demo/fold_0/64.resume.pt"
    mirrored = Mirror(url)
    artifacts.replace_file(state, lambda tmp: tmp.write_text("epoch 59"))
    mirrored.put()
    make(folder_of(url), "folds/demo/fold_0/64.safetensors", "weights")
    artifacts.discard(state)
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(InputError):
            mirrored.put()
    assert (there / state.relative_to(folder_of(url))).read_text() == "epoch 59"
    mirrored.put()
    assert files(there) == {"folds/demo/fold_0/64.safetensors", "folds/demo/fold_0/64.safetensors.json"}


def test_what_is_made_anew_while_it_is_fetched_is_not_taken_for_the_old(on, url, there, monkeypatch):
    make(there, "folds/demo/folds.csv", "old", "2026-01-01T00:00:00+0000")
    get = LocalFileSystem.get_file

    def slow(self, *args, **kwargs):
        get(self, *args, **kwargs)
        make(there, "folds/demo/folds.csv", "new")

    monkeypatch.setattr(LocalFileSystem, "get_file", slow)
    Mirror(url).fetch()
    assert artifacts.read_sidecar(folder_of(url) / "folds/demo/folds.csv") is None
    monkeypatch.setattr(LocalFileSystem, "get_file", get)
    Mirror(url).fetch()
    assert (folder_of(url) / "folds/demo/folds.csv").read_text() == "new"


def test_what_goes_while_it_is_fetched_is_let_go(on, url, there, monkeypatch):
    for name in ("folds/demo/fold_0/64.resume.pt", "folds/demo/fold_0/64.csv"):
        make(there, name, "there for a moment")
    (there / "folds/demo/fold_0/64.resume.pt.json").unlink()

    def gone(self, path, *args, **kwargs):
        raise FileNotFoundError(path)

    monkeypatch.setattr(LocalFileSystem, "get_file", gone)
    Mirror(url).fetch()
    assert not files(folder_of(url))


def test_a_state_keeps_the_time_at_which_it_was_written(on, url, there):
    """So that of two machines the one that got furthest is gone on with."""
    state = there / "folds/demo/fold_0/64.resume.pt"
    artifacts.replace_file(state, lambda tmp: tmp.write_text("epoch 10"))
    os.utime(state, (1000, 1000))
    Mirror(url).fetch()
    ours = folder_of(url) / "folds/demo/fold_0/64.resume.pt"
    assert ours.stat().st_mtime == 1000
    state.write_text("epoch 20")
    os.utime(state, (2000, 2000))
    with mirror.local(["--out", url]):
        assert ours.read_text() == "epoch 20"


def test_what_ended_the_stage_is_what_is_said(on, url, monkeypatch):
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(KeyboardInterrupt), mirror.local(["--out", url]):
        make(folder_of(url), "folds/demo/folds.csv", "ids")
        raise KeyboardInterrupt


def test_a_training_begun_anew_is_not_taken_for_one_that_has_ended(on, url, there):
    """The history is of the settings before."""
    make(there, "folds/demo/fold_0/64.csv", "history", "2026-01-01T00:00:00+0000")
    state = folder_of(url) / "folds/demo/fold_0/64.resume.pt"
    artifacts.replace_file(state, lambda tmp: tmp.write_text("epoch 3 of 60"))
    with mirror.local(["--out", url]):
        assert state.read_text() == "epoch 3 of 60"


def test_notes_never_vouch_for_other_bytes(on, url, there, monkeypatch):
    """A stage makes a file anew while the old one is being put."""
    put, path = LocalFileSystem.put_file, make(folder_of(url), "folds/demo/folds.csv", "old")

    def slow(self, *args, **kwargs):
        put(self, *args, **kwargs)
        if path.read_text() == "old":
            make(folder_of(url), "folds/demo/folds.csv", "new")

    monkeypatch.setattr(LocalFileSystem, "put_file", slow)
    with mirror.local(["--out", url]):
        for _ in range(3):
            Mirror(url).put()
            notes = artifacts.read_sidecar(there / "folds/demo/folds.csv")
            assert notes is None or notes["settings"] == {"text": (there / "folds/demo/folds.csv").read_text()}
        assert notes["settings"] == {"text": "new"}


def wait_for(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_place_that_is_away_for_a_while_loses_nothing(on, url, there, quick, monkeypatch, capsys):
    put, failed = LocalFileSystem.put_file, []

    def failing(self, *args, **kwargs):
        if len(failed) < 2:
            failed.append(True)
            raise ConnectionResetError("the network is gone")
        return put(self, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "put_file", failing)
    with mirror.local(["--out", url]):
        make(folder_of(url), "folds/demo/folds.csv", "ids")
        wait_for((there / "folds/demo/folds.csv.json").exists)
    assert capsys.readouterr().out.count("the network is gone") == 2


def test_a_place_that_stays_away_is_one_sentence_and_the_next_call_puts_it(on, url, there, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", lambda *args, **kwargs: 1 / 0)
        with (
            pytest.raises(InputError, match=r"^--out file://.*division by zero \(what is done is kept in /"),
            mirror.local(["--out", url]),
        ):
            make(folder_of(url), "folds/demo/folds.csv", "ids")
    assert not files(there)
    with mirror.local(["--out", url]):
        pass
    assert files(there) == {"folds/demo/folds.csv", "folds/demo/folds.csv.json"}


@pytest.mark.parametrize(
    "url, words",
    [("nowhere://bucket/run", "Protocol not known: nowhere"), ("s3://bucket/run", "Install s3fs to access S3")],
)
def test_an_unknown_url_is_one_sentence(on, url, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.make_folds", "--out", url],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: --out {url}: {words}"), ended.stderr
    assert ended.stderr.count("\n") == 1 and not ended.stdout


def test_several_processes_of_one_fold_need_a_folder(on, url, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="need a folder that all of them see"), mirror.local(["--out", url]):
        pass


def test_a_memory_is_a_place_too(on):
    """A file system without folders, and with another idea of a root."""
    one = Mirror("memory://bucket/run")
    make(one.folder, "folds/demo/folds.csv", "ids")
    one.put()
    on("b")
    other = Mirror("memory://bucket/run")
    other.fetch()
    assert (other.folder / "folds/demo/folds.csv").read_text() == "ids"


def test_a_run_goes_from_machine_to_machine(on, url, there, tmp_path, capsys):
    """Tiles are decoded on a, each fold is trained on a machine of its own that has no tiles, and a predicts."""
    data = tmp_path / "tiles"

    def stage(stage, *more: str) -> str:
        flags = [f"--out={url}", f"--data={data}", "--profile=demo", *(f"--set={s}" for s in SMALL), *more]
        with mirror.local(flags) as local:
            stage.main(local)
        return capsys.readouterr().out

    prepare.main([f"--out={tmp_path}/elsewhere", "--data=sample", "--profile=demo", *(f"--set={s}" for s in SMALL)])
    shutil.copytree(tmp_path / "elsewhere/data/sample", data)
    stage(prepare)
    stage(make_folds)
    data.rename(tmp_path / "hidden")
    for fold in (0, 1):
        on(f"machine {fold}")
        assert "fresh" in stage(prepare)
        assert stage(train, f"--fold={fold}").count("trained") == 2
    on("a")
    (tmp_path / "hidden").rename(data)
    assert stage(train).count("fresh") == 4
    stage(predict)
    assert {"oof.npy", "test.npy"} <= {path.name for path in there.rglob("*.npy")}
    assert not [name for name in files(there) if ".tmp-" in name or name.startswith("data/sample")]
