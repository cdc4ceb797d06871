"""The notebooks, executed in a made-up /kaggle, read-only and without network, in one session and in several.

Where things are mounted matters only to the first cells: they find the code, the preflight names what is there, and
`prepare` reads the tiles and links what earlier sessions made. These cells, the same in both notebooks, are executed in
each layout, from zips and from folders. The others see only /kaggle/working and the output of `prepare`; each notebook
is executed in full in one layout here, and in all of them by tests/soak/test_notebook_layouts.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from pipeline import make_folds, predict, prepare, train
from pipeline.salt.artifacts import CODE
from pipeline.salt.errors import InputError
from pipeline.tools import notebook

ROOT = CODE.parent
SLUG = "tgs-salt-identification-challenge"
LAYOUTS = {  # where the competition, the data set and an earlier session's output are mounted
    "plain": (SLUG, "tgs-salt-code", "tgs-salt"),
    "by kind and owner": (f"competitions/{SLUG}", "datasets/somebody/tgs-salt-code", "notebooks/somebody/tgs-salt"),
}
OFFLINE = """
import socket
connect = socket.socket.connect
def only_here(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open({log!r}, "a") as f:
            f.write(f"{{address}}\\n")
        raise OSError("there is no network here")
    return connect(self, address)
socket.socket.connect = only_here
"""
# In namespaces of its own a command has no network but the loopback, and for it a folder can only be read, by root too.
SEAL = 'ip link set lo up && mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
EXECUTE = """
import sys, nbclient, nbformat
cells = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(cells, timeout=600, allow_errors=True).execute()
nbformat.write(cells, sys.argv[1])
"""


@cache
def seal() -> tuple[str, ...]:
    """Prefix of a command that can then neither write to the folder nor reach the network; () if impossible here."""
    begin = ("unshare", "--net", "--mount", *["--map-root-user"] * (os.geteuid() != 0), "sh", "-c", SEAL)
    if shutil.which("unshare") is None:
        return ()
    return () if subprocess.run([*begin, "/mnt", "true"], check=False, capture_output=True).returncode else begin


@dataclass(frozen=True)
class Kaggle:
    """A made-up /kaggle. run(notebook, flags) executes a notebook there, in a new session."""

    root: Path
    offline: Path

    def sealed(self, *command: str) -> list[str]:
        return [*seal(), str(self.root / "input"), *command] if seal() else [*command]

    def execute(self, cells: nbformat.NotebookNode, **environment: str) -> nbformat.NotebookNode:
        """The executed notebook. Checks that /kaggle/input is unchanged and that nothing asked for the network."""
        path, before = self.root / "executed.ipynb", tree(self.root / "input")
        nbformat.write(cells, path)
        subprocess.run(
            self.sealed(sys.executable, "-c", EXECUTE, str(path)),
            env={k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "MPLBACKEND"}
            | {"PYTHONPATH": str(self.offline), "IPYTHONDIR": str(self.root / "ipython")}
            | environment,
            cwd=self.root / "working",
            check=True,
        )
        assert tree(self.root / "input") == before, "it is read-only"
        assert not (self.offline / "asked").exists(), (self.offline / "asked").read_text()
        return nbformat.read(path, as_version=4)

    def run(self, cells: nbformat.NotebookNode, flags: str) -> str:
        """What the notebook prints and shows, including errors."""
        cells = nbformat.from_dict(json.loads(json.dumps(cells).replace("/kaggle/", f"{self.root}/")))
        setup = cells.cells[1]
        setup.source = re.sub('^FLAGS = ".*"', f"FLAGS = {flags!r}", setup.source, flags=re.MULTILINE)
        executed = self.execute(
            cells,
            KAGGLE_KERNEL_RUN_TYPE="Batch",
            SALT_KAGGLE=str(self.root),
            PYTHONDONTWRITEBYTECODE="1",  # where root may write anywhere
        )
        outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
        return "".join(output.get("text", "") + str(output.get("evalue", "")) + text_of(output) for output in outputs)

    def next_session(self, mount: str) -> None:
        """Save the version, attach its output, open the notebook again."""
        target = self.root / "input" / mount
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.root / "working").rename(target)
        (self.root / "working").mkdir()


def text_of(output) -> str:
    data = output.get("data", {})
    return data.get("text/html", "") + "<picture>" * ("image/png" in data)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / name, as_version=4)


def first_cells(cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cells up to the stage prepare."""
    count = next(i for i, cell in enumerate(cells.cells) if cell.source.startswith('session.stage("prepare"')) + 1
    return nbformat.from_dict(cells | {"cells": cells.cells[:count]})


@pytest.fixture
def kaggle(tmp_path) -> Kaggle:
    offline = tmp_path / "offline"
    offline.mkdir()
    (offline / "sitecustomize.py").write_text(OFFLINE.format(log=str(offline / "asked")))
    for folder in ("input", "working"):
        (tmp_path / "kaggle" / folder).mkdir(parents=True)
    return Kaggle(tmp_path / "kaggle", offline)


@pytest.fixture
def flags(empty) -> str:
    """The tiny run's flags, as a notebook has them."""
    return "--profile demo " + " ".join(f"--set {setting}" for setting in empty.settings)


def attach(kaggle: Kaggle, competition: Path, layout: str, packed: bool) -> None:
    """Attach the competition's tiles and the code's data set; packed: as zips."""
    tiles, code, _ = (kaggle.root / "input" / mount for mount in LAYOUTS[layout])
    shutil.copytree(competition, tiles)
    (tiles / "test_truth.csv").unlink()  # Kaggle's tiles come without
    code.mkdir(parents=True)
    copied = code / "code"
    for name in notebook.CODE_FILES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copied.mkdir(exist_ok=True)
        copy(ROOT / name, copied / name)
    if packed:
        shutil.make_archive(str(code / "code"), "zip", copied)
        shutil.rmtree(copied)
    else:
        for split in ("train", "test"):
            shutil.unpack_archive(tiles / f"{split}.zip", tiles / split)
            (tiles / f"{split}.zip").unlink()


def artifacts_of(out: Path) -> dict[str, bytes]:
    files = (path for path in sorted(out.rglob("*")) if path.suffix in (".npy", ".safetensors"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_the_notebooks_are_what_the_builder_makes_of_the_stages(tmp_path, monkeypatch):
    """To fix a failure: python -m pipeline.tools.notebook."""
    committed = {name: (ROOT / "kaggle" / name).read_bytes() for name in NOTEBOOK_FILES}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook.shutil, "which", lambda name: None)
    notebook.main([])
    assert {name: (tmp_path / "kaggle" / name).read_bytes() for name in NOTEBOOK_FILES} == committed
    assert (tmp_path / "kaggle/dataset/code/pipeline/salt/reporting/report.html.jinja").exists()
    for name in NOTEBOOK_FILES[::2]:
        nbformat.validate(nbformat.read(ROOT / "kaggle" / name, as_version=4))
    said = re.findall(r'^stage (.+?) +"\$@"', (ROOT / "run_all.sh").read_text(), re.MULTILINE)
    assert [" ".join([name, *flags]) for name, flags, _ in notebook.stages()] == said and len(said) == 8


@pytest.fixture
def client(tmp_path, monkeypatch) -> Path:
    """A fake kaggle client that is logged in and records its arguments; the notebooks are written below tmp_path."""
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "kaggle"
    program.write_text(f"""#!/bin/sh
echo "$@" >> {asked}
case "$*" in
"config view") echo "- username: somebody" ;;
"datasets status"*) # unpacked when it is asked for the third time
    [ -e {tmp_path}/created ] || exit ${{NEW:-0}}
    [ "$(grep -c "datasets status" {asked})" -gt 2 ] && echo ready || echo pending ;;
"datasets create"* | "datasets version"*) touch {tmp_path}/created ;;
esac
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize("new", [True, False])
def test_push_hands_data_set_and_notebook_to_the_client(client, tmp_path, monkeypatch, new):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet34-b627a593.pth").write_bytes(b"of ImageNet")
    monkeypatch.setenv("NEW", str(int(new)))
    monkeypatch.setattr(notebook, "POLL", 0)
    notebook.main(["--push", "--weights", str(tmp_path / "weights"), "--profile", "attention"])
    *_, known, dataset, pending, ready, kernel = client.read_text().splitlines()
    assert known == pending == ready == "datasets status somebody/tgs-salt-code"
    assert re.fullmatch(
        "datasets create --dir-mode zip -p kaggle/dataset"
        if new
        else r"datasets version -m \w+ --dir-mode zip -p kaggle/dataset",
        dataset,
    )
    assert kernel == "kernels push -p kaggle"
    metadata = json.loads((tmp_path / "kaggle/kernel-metadata.json").read_text())
    assert metadata["id"] == "somebody/tgs-salt" and metadata["dataset_sources"] == ["somebody/tgs-salt-code"]
    assert json.loads((tmp_path / "kaggle/dataset/dataset-metadata.json").read_text())["id"] == "somebody/tgs-salt-code"
    built = tmp_path / "kaggle/dataset/weights/resnet34-b627a593.pth"
    assert built.read_bytes() == b"of ImageNet"
    built.with_name("other.pth").write_bytes(b"of an earlier profile")
    notebook.main(["--weights", str(built), "--profile", "attention"])  # built again, from its own copy
    assert [file.read_bytes() for file in built.parent.iterdir()] == [b"of ImageNet"]
    assert "--profile attention" in (tmp_path / "kaggle/tgs_salt.ipynb").read_text()


def test_a_data_set_that_kaggle_does_not_unpack_is_said_and_the_notebook_not_started(client, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "POLL", 0)
    monkeypatch.setattr(notebook, "WAIT", -1)
    with pytest.raises(InputError, match=r"when `kaggle datasets status .*` says ready, run `kaggle kernels push"):
        notebook.main(["--push", "--weights", "none"])
    assert "kernels push" not in client.read_text()


def test_without_a_client_the_two_commands_are_printed_and_push_says_what_it_needs(
    client, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(notebook.shutil, "which", lambda name: None)
    notebook.main([])
    said = capsys.readouterr().out
    assert "kaggle datasets create --dir-mode zip -p kaggle/dataset" in said and "kaggle kernels push -p kaggle" in said
    assert "INSERT_USERNAME" in said and not client.exists()
    with pytest.raises(InputError, match="--push needs the kaggle client .* && kaggle kernels push -p kaggle"):
        notebook.main(["--push"])


NOTEBOOK_FILES = [
    "tgs_salt.ipynb",
    "kernel-metadata.json",
    "inference/tgs_salt_inference.ipynb",
    "inference/kernel-metadata.json",
]


@pytest.mark.skipif(not seal(), reason="this machine lets nobody make namespaces: input is compared before and after")
def test_the_sessions_cannot_write_their_input_and_have_no_network(kaggle):
    (kaggle.root / "input/file").touch()
    connect = 'import socket; socket.create_connection(("192.0.2.1", 80), 9)'  # an address that is nobody's
    for forbidden in (
        f"touch {kaggle.root}/input/new",
        f"echo 1 > {kaggle.root}/input/file",
        f"rm {kaggle.root}/input/file",
        f"{sys.executable} -c '{connect}'",
    ):
        done = subprocess.run(kaggle.sealed("sh", "-c", forbidden), check=False, capture_output=True, text=True)
        assert done.returncode and re.search("Read-only file system|Network is unreachable", done.stderr), done.stderr
    subprocess.run(kaggle.sealed("touch", f"{kaggle.root}/working/new"), check=True)
    assert (kaggle.root / "working/new").exists()


def train_in_two_sessions(kaggle: Kaggle, competition: Path, empty, flags: str, layout: str, packed: bool) -> None:
    """One epoch in the first session, the others in the second: bit for bit as in one session."""
    attach(kaggle, competition, layout, packed)
    cells, mount = read("kaggle/tgs_salt.ipynb"), LAYOUTS[layout][2]
    first = kaggle.run(cells, f"--max-hours 0 {flags}")
    assert "stopped  fold 0  32 px, after epoch 1 of 8" in first and "waits    predict" in first, first
    assert "Add Input > Your Work > this notebook's output" in first and "error:" not in first
    working = kaggle.root / "working"
    assert (working / "folds/demo/fold_0/32.resume.pt").exists() and not (working / "submission.csv").exists()

    kaggle.next_session(mount)
    second = kaggle.run(cells, f"--max-hours 9 {flags}")
    assert f"earlier  {kaggle.root / 'input' / mount}: run demo, 0 trainings finished, 1 under way" in second, second
    assert "epoch  1/8" not in second.split("fold 1")[0] and "fold 0  32 px  epoch  2/8" in second
    assert "<iframe" in second and f"ready    {working}/submission.csv" in second and "error:" not in second
    assert not [path for path in working.rglob("*") if path.is_symlink()], "its output alone has the whole run"
    submission = pd.read_csv(working / "submission.csv", dtype=str, keep_default_na=False)
    sample = pd.read_csv(competition / "sample_submission.csv", dtype=str)
    assert submission["id"].tolist() == sample["id"].tolist() and list(submission) == ["id", "rle_mask"]

    straight = replace(empty, data=competition)
    straight(prepare, make_folds, train, predict)
    ours, theirs = artifacts_of(working), artifacts_of(straight.out)
    assert {name.replace(SLUG, "tiny"): content for name, content in ours.items()} == {
        name: content for name, content in theirs.items() if not name.endswith("truth.npy")
    }


def infer(kaggle: Kaggle, competition: Path, empty, flags: str, layout: str, packed: bool) -> None:
    """From attached folds: the same predictions as the stages', also with load_run."""
    attach(kaggle, competition, layout, packed)
    trained = replace(empty, data=competition)
    trained(prepare, make_folds, train)
    shutil.copytree(trained.out / "folds", kaggle.root / "input" / LAYOUTS[layout][2] / "folds")
    trained(predict)
    cells, working = read("kaggle/inference/tgs_salt_inference.ipynb"), kaggle.root / "working"
    save = "import numpy as np; np.savez('/kaggle/working/shown.npz', images=images, masks=masks, probs=probs)"
    cells.cells.append(nbformat.v4.new_code_cell(save))
    said = kaggle.run(cells, flags)
    assert "epoch" not in said and "error:" not in said and (working / "submission.csv").exists(), said
    assert "<picture>" in said
    ours, theirs = (np.load(out / "submissions/demo/test.npy") for out in (working, trained.out))
    assert np.array_equal(ours, theirs)
    images = np.load(working / f"data/cache/{SLUG}/test.npy")
    rows = np.flatnonzero(images.any(axis=(1, 2)))[:4]
    with np.load(working / "shown.npz") as shown:
        assert np.array_equal(shown["images"], images[rows]) and np.array_equal(shown["probs"], ours[rows])
        assert np.array_equal(shown["masks"], ours[rows] > 0.5)


def test_the_training_notebook_is_stopped_by_its_budget_and_the_next_session_goes_on(kaggle, made_once, empty, flags):
    train_in_two_sessions(kaggle, made_once, empty, flags, "by kind and owner", packed=False)


def test_the_inference_notebook_predicts_with_attached_folds_from_zips(kaggle, made_once, empty, flags):
    infer(kaggle, made_once, empty, flags, "plain", packed=True)


def test_the_first_cells_are_those_of_both_notebooks():
    """Except for the flags, which Kaggle.run inserts."""
    training, inference = (
        [re.sub('FLAGS = ".*"', "", cell.source) for cell in first_cells(read(name)).cells if cell.cell_type == "code"]
        for name in ("kaggle/tgs_salt.ipynb", "kaggle/inference/tgs_salt_inference.ipynb")
    )
    assert training == inference and len(training) == 3, "setup, preflight, prepare"


@pytest.mark.parametrize(("layout", "packed"), [("plain", False), ("by kind and owner", True)])
def test_what_is_mounted_is_found_in_the_layouts_that_no_whole_notebook_has_here(
    kaggle, made_once, finished, flags, layout, packed
):
    attach(kaggle, made_once, layout, packed)
    tiles, code, earlier = (kaggle.root / "input" / mount for mount in LAYOUTS[layout])
    shutil.copytree(finished[0].out / "folds", earlier / "folds")
    said = kaggle.run(first_cells(read("kaggle/tgs_salt.ipynb")), flags)
    working = kaggle.root / "working"
    assert f"tiles    {tiles}" in said and f"earlier  {earlier}: run demo, 4 trainings finished, 0 under way" in said
    assert (f"code     {code / 'code'}" in said) != packed  # zips are unpacked first
    assert f"data/cache/{SLUG}: 24 tiles with a mask, 8 to predict" in said
    assert (working / "folds/demo/fold_1/48.safetensors").resolve().is_relative_to(earlier)


def test_what_is_missing_is_said_in_plain_words_and_the_notebook_ends_well(kaggle, made_once):
    """Wrong flags: the stage's sentence appears once, and later stages do not run."""
    attach(kaggle, made_once, "plain", packed=True)
    shutil.rmtree(kaggle.root / "input" / SLUG)
    said = kaggle.run(read("kaggle/inference/tgs_salt_inference.ipynb"), "--profile demo")
    assert "attach   Add Input > Competitions > TGS Salt Identification Challenge" in said, said
    assert "GPU T4 x2" in said and "GB free" in said and "this one begins it" in said
    assert "error: " in said and "make_folds first" in said and "waits    submit: predict has failed" in said
    assert "fix it, and run the notebook again" in said and "Traceback" not in said


def test_the_tutorial_runs(kaggle):
    """At a smaller scale than for readers, whose committed pictures show generated tiles only."""
    cells = read("docs/tutorial.ipynb")
    text = json.dumps(cells)
    small = text.replace("sample.train=240", "sample.train=60").replace("fit_one_cycle(20", "fit_one_cycle(2")
    small = small.replace("epochs=12", "epochs=1")
    assert small != text and len(text) < 500_000
    pictures = [
        output for cell in cells.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 5, "show_batch, lr_find, show_results, the prediction, those of load_run"
    executed = kaggle.execute(nbformat.from_dict(json.loads(small)), PYTHONPATH=f"{kaggle.offline}{os.pathsep}{ROOT}")
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == len(pictures)
