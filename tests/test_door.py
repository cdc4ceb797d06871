"""Nothing is used unchecked: every artifact, with every kind of damage, before every stage that uses it."""

import ast
import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_imports import TREES
from test_pipeline import tree

from pipeline import __main__ as overview
from pipeline import load_run, make_folds, predict, prepare, pseudo_label, report, submit, train
from pipeline.salt import artifacts, cli, disk, door, published, stages
from pipeline.salt.artifacts import sidecar_of
from pipeline.salt.errors import InputError
from pipeline.salt.viewer import gallery
from pipeline.tools import compare, export, lr_find, picture

LABELS = ("--add-phase=pseudo=true,epochs=1", "--set=pseudo.share=0.0")  # all: so little training is sure of none
PSEUDO = ("--pseudo", *LABELS)
SECOND = ("--phase=48",)

# artifact -> the command that makes it, the stages and tools that use it, and another artifact of the same kind
ARTIFACTS: dict[str, tuple[str, list, str]] = {
    "data/cache/sample/images.npy": ("prepare", [train, predict, report], "data/cache/sample/test.npy"),
    "data/cache/sample/masks.npy": ("prepare", [train, submit, report], "data/cache/sample/truth.npy"),
    "data/cache/sample/test.npy": ("prepare", [predict, submit, report], "data/cache/sample/images.npy"),
    "data/cache/sample/truth.npy": ("prepare", [report], "data/cache/sample/masks.npy"),
    "data/cache/sample/tiles.csv": ("prepare", [make_folds, train, predict, submit, report], "folds/demo/folds.csv"),
    "folds/demo/folds.csv": ("make_folds", [train, predict, submit, report], "data/cache/sample/tiles.csv"),
    "folds/demo/fold_0/32.safetensors": (
        "train --fold 0 --phase 32",
        [(train, SECOND), predict, (lr_find, SECOND)],
        "folds/demo/fold_1/32.safetensors",
    ),
    "folds/demo/fold_0/48.last.safetensors": (
        "train --fold 0 --phase 48",
        [predict, submit, report, export, (pseudo_label, LABELS)],
        "folds/demo/fold_1/48.last.safetensors",
    ),
    "folds/demo/fold_1/48.csv": ("train --fold 1 --phase 48", [report], "folds/demo/fold_0/48.csv"),
    "folds/demo/fold_0/pseudo_tiles.csv": ("pseudo_label --fold 0", [(train, PSEUDO)], "folds/demo/folds.csv"),
    "folds/demo/fold_0/pseudo_masks.npy": (
        "pseudo_label --fold 0",
        [(train, PSEUDO)],
        "folds/demo/fold_1/pseudo_masks.npy",
    ),
    "folds/demo/oof.npy": ("predict", [submit, report], "submissions/demo/test.npy"),
    "submissions/demo/test.npy": ("predict", [submit, report], "folds/demo/oof.npy"),
    "submissions/demo/submission.csv.gz": ("submit", [report], "submissions/demo/test.npy"),
}


# ---- damage, done to the file at `path`; `other` is an artifact of the same kind


def missing(path: Path, other: Path) -> None:
    path.unlink()


def a_link_to_nowhere(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def a_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def too_long(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def one_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


def zeros(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def another_s_bytes(path: Path, other: Path) -> None:
    shutil.copy2(other, path)


def another_s_bytes_and_sidecar(path: Path, other: Path) -> None:
    shutil.copy2(other, path)
    shutil.copy2(sidecar_of(other), sidecar_of(path))


def another_s_sidecar(path: Path, other: Path) -> None:
    shutil.copy2(sidecar_of(other), sidecar_of(path))


def no_sidecar(path: Path, other: Path) -> None:
    sidecar_of(path).unlink()


def sidecar(change: Callable[[dict], object]) -> Callable[[Path, Path], None]:
    def damage(path: Path, other: Path) -> None:
        content = json.loads(sidecar_of(path).read_text())
        changed = change(content)
        text = changed if isinstance(changed, bytes) else json.dumps(content if changed is None else changed).encode()
        sidecar_of(path).write_bytes(text)

    return damage


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    damage.__name__: damage
    for damage in (
        missing,
        a_link_to_nowhere,
        a_folder,
        empty,
        cut_short,
        too_long,
        one_bit,
        zeros,
        another_s_bytes,
        another_s_bytes_and_sidecar,
        another_s_sidecar,
        no_sidecar,
    )
} | {
    "sidecar empty": sidecar(lambda content: b""),
    "sidecar garbage": sidecar(lambda content: b"\xff\x00{"),
    "sidecar cut short": sidecar(lambda content: json.dumps(content)[:-20].encode()),
    "sidecar a list": sidecar(lambda content: [content]),
    "sidecar null": sidecar(lambda content: b"null"),
    "sidecar nested": sidecar(lambda content: b"[" * 100_000),
    "sidecar without its hash": sidecar(lambda content: content.pop("sha256") and None),
    "sidecar without its inputs": sidecar(lambda content: content.pop("inputs") and None),
    "sidecar with another hash": sidecar(lambda content: content.update(sha256="0" * 16)),
    "sidecar with another setting": sidecar(lambda content: content["settings"].update(more=1)),
    "sidecar with another time": sidecar(lambda content: content.update(time=0)),
    "sidecar with a hash that is a number": sidecar(lambda content: content.update(sha256=1)),
}


@pytest.fixture(scope="module")
def labelled(finished, tmp_path_factory):
    """A finished run with pseudo-labels. Read-only."""
    run = replace(finished[0], out=shutil.copytree(finished[0].out, tmp_path_factory.mktemp("labelled") / "out"))
    run(pseudo_label, extra=LABELS)
    return run


def sentence(run, stage, extra: tuple[str, ...] = ()) -> str:
    """What the command prints as it ends with status 1; checks that nothing below --out has changed."""
    before = tree(run.out)
    with contextlib.redirect_stdout(None), pytest.raises(SystemExit) as e:
        cli.start(lambda _: stage.main(run.flags(*extra)))
    assert isinstance(e.value.code, str), "a text makes Python print it to stderr and exit with 1"
    assert tree(run.out) == before
    return e.value.code


def republish(path: Path, change: Callable[[Path], None]) -> None:
    """Write other content with a matching sidecar, as a faulty stage would."""
    known = artifacts.read_sidecar(path) or {}
    extra = {name: known[name] for name in known.keys() & {"truth", "threshold", "empty", "profile"}}
    copy = shutil.copy(path, path.with_name("copy"))
    change(Path(copy))
    with artifacts.publish(path, artifacts.Origin(known["settings"], known["inputs"]), **extra) as tmp:
        shutil.move(copy, tmp)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ARTIFACTS)
def test_what_is_damaged_is_one_sentence_of_each_stage_that_uses_it(labelled, tmp_path, name, damage):
    maker, users, other = ARTIFACTS[name]
    run = replace(labelled, out=shutil.copytree(labelled.out, tmp_path / "out"))
    path = run.out / name
    DAMAGE[damage](path, run.out / other)
    for user in users:
        stage, extra = user if isinstance(user, tuple) else (user, ())
        said = sentence(run, stage, extra)
        assert said.startswith("error: ") and "\n" not in said, said
        assert path.name in said and f"python -m pipeline.{maker}" in said, said


SHOWN = [  # (what a person looks at a run with, the artifacts that it shows)
    (
        lambda run: gallery.load(run.parse()),
        (*(f"data/cache/sample/{name}" for name in ("tiles.csv", "images.npy", "masks.npy")), "folds/demo/folds.csv")
        + ("folds/demo/oof.npy", "submissions/demo/test.npy", "submissions/demo/disagreement.csv"),
    ),
    (
        lambda run: picture.main(run.flags("--tiles=2", f"--to={run.out}/submissions/tiles.png")),
        ("data/cache/sample/images.npy", "folds/demo/oof.npy", "submissions/demo/submission.csv.gz"),
    ),
    (
        lambda run: compare.main(["demo", "twin", "--data=sample", f"--out={run.out}"]),
        ("folds/demo/folds.csv", "folds/demo/oof.npy", "submissions/demo/scores.json"),
    ),
    (
        lambda run: load_run(run.out / "folds/demo"),
        ("folds/demo/fold_0/48.last.safetensors", "folds/demo/fold_1/48.last.safetensors"),
    ),
]


@pytest.mark.parametrize("damage", ["missing", "one_bit", "zeros", "sidecar null", "sidecar with another hash"])
@pytest.mark.parametrize("show, names", SHOWN, ids=["view", "picture", "compare", "load_run"])
def test_what_is_damaged_is_a_sentence_of_what_shows_it(tiny, show, names, damage):
    for folder in ("folds", "submissions"):
        shutil.copytree(tiny.out / folder / "demo", tiny.out / folder / "twin")
    with contextlib.redirect_stdout(None):
        show(tiny)
    for name in names:
        path = tiny.out / name
        kept = [path.read_bytes(), sidecar_of(path).read_bytes()]
        DAMAGE[damage](path, tiny.out / "folds/demo/folds.csv")
        before = {name: content for name, (_, content) in tree(tiny.out).items()}
        with contextlib.redirect_stdout(None), pytest.raises(InputError) as e:
            show(tiny)
        assert path.name in str(e.value) or "run demo has no report" in str(e.value)
        assert "\n" not in str(e.value)
        assert {name: content for name, (_, content) in tree(tiny.out).items()} == before
        path.write_bytes(kept[0]), sidecar_of(path).write_bytes(kept[1])


@pytest.mark.parametrize("name", [name for name in ARTIFACTS if "pseudo" not in name])
def test_the_overview_says_what_is_damaged(tiny, name):
    one_bit(tiny.out / name, tiny.out)
    command = ARTIFACTS[name][0].replace("--fold 0 ", "").replace("--fold 1 ", "")
    row = next(line for line in tiny(overview).splitlines() if line.startswith(command))
    # of a phase the overview looks at the histories, which are written last; weights show in the stages that wait
    assert "damaged" in row or name.endswith(".safetensors")


# ---- what is as it was published, and yet not what its reader needs


def array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with open(path, "rb") as f:
            values = np.load(f)
        with open(path, "wb") as f:
            np.save(f, change(values))

    return write


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)

    return write


def put(values: np.ndarray, value: float) -> np.ndarray:
    values[1, 2, 3] = value
    return values


CACHE, FOLDS, OOF, TEST = "data/cache/sample", "folds/demo/folds.csv", "folds/demo/oof.npy", "submissions/demo/test.npy"


@pytest.mark.parametrize(
    "name, change, stage, words",
    [
        (f"{CACHE}/images.npy", array(lambda a: a.astype(float)), make_folds, "holds 25 x 101 x 101 float64, where"),
        (f"{CACHE}/images.npy", array(lambda a: a[1:]), make_folds, "where 25 x any x any uint8 belongs"),
        (f"{CACHE}/masks.npy", array(lambda a: a[:, 1:]), make_folds, "where 25 x 101 x 101 bool belongs"),
        (f"{CACHE}/masks.npy", array(lambda a: a.astype(np.uint8)), make_folds, "101 uint8, where"),
        (f"{CACHE}/test.npy", array(lambda a: a[..., 1:]), make_folds, "where 8 x 101 x 101 uint8 belongs"),
        (f"{CACHE}/test.npy", array(lambda a: np.array([None, {}])), make_folds, "cannot be read as an array"),
        (f"{CACHE}/truth.npy", array(lambda a: a[1:]), make_folds, "where 8 x 101 x 101 bool belongs"),
        (f"{CACHE}/tiles.csv", table(lambda t: t.drop(columns="black")), make_folds, "has no column black"),
        (f"{CACHE}/tiles.csv", table(lambda t: t.assign(coverage="x")), make_folds, "cannot be read as a table"),
        (f"{CACHE}/tiles.csv", table(lambda t: t.assign(id="x")), make_folds, "listed twice"),
        (f"{CACHE}/tiles.csv", lambda path: path.write_bytes(b""), make_folds, "cannot be read as a table"),
        (FOLDS, table(lambda t: t[::-1]), train, "does not have the tiles' ids, each once, in their order"),
        (FOLDS, table(lambda t: t[1:]), train, "does not have the tiles' ids"),
        (FOLDS, table(lambda t: pd.concat([t[:1], t[:-1]])), train, "does not have the tiles' ids"),
        (FOLDS, table(lambda t: t.assign(fold=7)), train, "has folds other than 0 to 1"),
        (FOLDS, table(lambda t: t.assign(fold="a")), train, "cannot be read as a table"),
        (FOLDS, table(lambda t: t.drop(columns="fold")), train, "has no column fold"),
        (OOF, array(lambda a: put(a, np.nan)), submit, "values that are no probabilities for tile 1 "),
        (OOF, array(lambda a: put(a, -0.5)), submit, "values that are no probabilities for tile 1 "),
        (OOF, array(lambda a: a.astype(np.float32)), submit, "float32, where 25 x 101 x 101 float16 belongs"),
        (TEST, array(lambda a: put(a, 1.01)), submit, "values that are no probabilities for tile 1 "),
        (TEST, array(lambda a: put(a, np.inf)), submit, "values that are no probabilities for tile 1 "),
        (TEST, array(lambda a: a[1:]), submit, "where 8 x 101 x 101 float16 belongs"),
        ("folds/demo/fold_0/32.csv", table(lambda t: t[:0]), report, "does not have a row for each epoch"),
        ("folds/demo/fold_0/32.csv", table(lambda t: t[1:]), report, "does not have a row for each epoch"),
        ("folds/demo/fold_0/48.csv", table(lambda t: t.drop(columns="meanap")), report, "has no column meanap"),
    ],
)
def test_a_content_that_its_reader_cannot_use_is_said(tiny, untrained_copy, name, change, stage, words):
    run = untrained_copy if stage is train else tiny
    if stage is make_folds:
        for file in run.out.glob("folds/demo/folds.csv*"):
            file.unlink()
    republish(run.out / name, change)
    said = sentence(run, stage)
    assert words in said and name.rpartition("/")[2] in said and "\n" not in said and "--force to make it again" in said


@pytest.fixture
def untrained_copy(finished, tmp_path):
    """A copy with tiles and folds, but without weights."""
    out = shutil.copytree(finished[0].out, tmp_path / "untrained")
    for folder in (out / "submissions", *out.glob("folds/demo/fold_*")):
        shutil.rmtree(folder)
    return replace(finished[0], out=out)


def test_a_model_that_gives_nan_is_said_and_nothing_is_written(tiny):
    from safetensors.torch import load_file, save_file

    def spoil(path: Path) -> None:
        weights = load_file(path)
        next(w for name, w in weights.items() if name.endswith("bias"))[:] = float("nan")
        save_file(weights, path)

    republish(tiny.out / "folds/demo/fold_1/48.last.safetensors", spoil)
    assert "a model gives NaN or inf for tile" in sentence(tiny, predict)


# ---- other tiles under the same name


def test_tiles_of_another_folder_of_the_same_name_are_noticed(empty, tiny_competition, tmp_path):
    run = replace(empty, data=tiny_competition)
    run(prepare, make_folds)
    other = shutil.copytree(tiny_competition, tmp_path / "elsewhere" / tiny_competition.name)
    assert "fresh" in replace(run, data=other)(prepare), "the same tiles in another place"
    (other / "train.csv").write_text((other / "train.csv").read_text() + "\n")
    for stage in (make_folds, train):  # nothing has been made for the others
        said = sentence(replace(run, data=other), stage)
        assert "tiny/" in said and "was made from other tiles than this command's (files " in said
        assert "run python -m pipeline.prepare first" in said


def test_a_sample_of_another_size_is_noticed(tiny):
    for stage in (make_folds, train, predict, submit, report):
        said = sentence(tiny, stage, ("--set=sample.train=30",))
        assert "was made from other tiles than this command's (sample.train 25 -> 30)" in said


# ---- making it again


@pytest.mark.parametrize(
    "name, stage",
    [
        (f"{CACHE}/images.npy", prepare),
        (f"{CACHE}/truth.npy", prepare),
        (OOF, predict),
        ("submissions/demo/disagreement.csv", predict),
        ("submissions/demo/submission.csv.gz", submit),
        ("submissions/demo/report.html", report),
        ("submissions/demo/scores.json", report),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "one_bit", "no_sidecar", "sidecar empty"])
def test_what_costs_little_is_made_again_by_its_stage(tiny, name, stage, damage):
    before = (tiny.out / name).read_bytes()
    DAMAGE[damage](tiny.out / name, tiny.out)
    printed = tiny(stage)
    assert ("damaged " in printed) == (damage in ("one_bit", "sidecar empty"))
    assert (tiny.out / name).read_bytes() == before or stage is report
    assert tiny(prepare, make_folds, train, predict, submit, report).count("fresh") >= 8


@pytest.mark.parametrize("name, stage", [(FOLDS, make_folds), ("folds/demo/fold_0/32.safetensors", train)])
@pytest.mark.parametrize("damage", ["one_bit", "sidecar empty", "another_s_sidecar"])
def test_what_costs_much_is_made_again_when_it_is_asked_for(tiny, name, stage, damage):
    """Even if only the sidecar is damaged and the weights are good."""
    maker, _, other = ARTIFACTS[name]
    before = tree(tiny.out)
    DAMAGE[damage](tiny.out / name, tiny.out / other)
    assert f"run python -m pipeline.{maker} --force to make it again" in sentence(tiny, stage)
    tiny(stage, extra=("--force", *maker.split()[1:]))
    assert (tiny.out / name).read_bytes() == before[name][1]
    assert tiny(prepare, make_folds, train, predict, submit, report).count("fresh") >= 8, "the seconds are others"


@pytest.mark.parametrize(
    "stage, path",
    [
        (prepare, "data/sample"),
        (make_folds, FOLDS),
        (train, "folds/demo/fold_0/32.csv"),
        (predict, TEST),
        (submit, "submissions/demo/submission.csv.gz"),
        (report, "submissions/demo/report.html"),
    ],
)
def test_two_commands_never_make_the_same_artifact(tiny, stage, path):
    with disk.making(tiny.out / path):
        assert f"{Path(path).name} is being made by process {os.getpid()} on " in sentence(tiny, stage, ("--force",))
    assert tiny(prepare, make_folds, train, predict, submit, report).count("fresh") == 9


# ---- the price


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are hashed from now on."""
    names, hash_file = [], artifacts._hash_file
    artifacts._hash_version.cache_clear()

    def counted(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(artifacts, "_hash_file", counted)
    return names


STAGES = (prepare, make_folds, train, predict, submit, report, overview)


def artifacts_of(run) -> list[str]:
    return sorted(path.name for path in run.out.rglob("*") if sidecar_of(path).exists())


def test_what_has_not_changed_is_not_hashed_and_a_copy_once(tiny, hashed):
    tiny(*STAGES)
    assert not hashed
    for path in tiny.out.rglob("*.*"):
        os.utime(path)  # as `cp -r` and unzip leave it
    tiny(*STAGES)
    assert sorted(hashed) == artifacts_of(tiny)
    hashed.clear()
    artifacts._hash_version.cache_clear()  # another command
    tiny(*STAGES)
    assert not hashed


def test_a_copy_that_can_only_be_read_is_used_and_hashed_once_a_command(tiny, hashed, monkeypatch):
    def refuse(*args, **kwargs) -> None:
        raise PermissionError

    for path in tiny.out.rglob("*.*"):
        os.utime(path, (0, 0))
    monkeypatch.setattr(os, "utime", refuse)
    assert tiny(*STAGES).count("fresh") == 9
    assert sorted(hashed) == artifacts_of(tiny)


def test_weights_are_hashed_when_they_are_loaded_though_their_time_says_that_nothing_changed(tiny):
    """A disk may lose a bit silently."""
    path = tiny.out / "folds/demo/fold_0/48.last.safetensors"
    stat = path.stat()
    one_bit(path, path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "48.last.safetensors is damaged: its bytes are not" in sentence(tiny, predict, ("--force",))


# ---- one door


# What reads files, and the modules that may: an artifact is read by door, by artifacts (sidecars, hashes) and, from a
# checked path, by checkpoints.
OPENING = {
    *("np.load", "np.fromfile", "np.memmap", "pd.read_csv", "json.load", "json.loads", "torch.load", "load_file"),
    *("safe_open", "open", "gzip.open", "zipfile.ZipFile", "Image.open", "pickle.load", "joblib.load"),
}
METHODS = {"read_text", "read_bytes", "open"}
READERS = {
    "artifacts": {"open", "json.loads", "read_text", "read_bytes"},
    "disk": {"np.memmap", "open", "read_text"},  # arrays without a name, locks and who holds them
    "door": {"np.load", "pd.read_csv", "json.loads", "read_text"},
    "training.checkpoints": {"load_file", "torch.load", "zipfile.ZipFile"},  # the state of a training under way
    "training.resume": {"open"},  # that state, written
    "checks": {"read_text"},  # pyproject.toml
    "logit_sums": {"open"},  # what it is writing, and the state of a prediction under way
    "submission": {"pd.read_csv", "read_bytes", "open", "zipfile.ZipFile"},  # what it is writing, and has just written
    "sections.reading": {"np.load", "Image.open", "open"},  # sections, which come in
    "sections.writing": {"open"},  # written
    "viewer.app": {"read_bytes"},  # its page
    "distributed": {"open"},  # /dev/null
    "cli": {"open"},  # /dev/null
    "models": {"read_text"},  # docstrings
    "models.encoders.weights": {"load_file", "torch.load", "open"},  # ImageNet's, through a door of their own
    "tiles.files": {"zipfile.ZipFile", "read_bytes", "open"},  # what comes in
    "tiles.competition": {"Image.open"},
    "tiles.folder": {"Image.open", "np.load", "open"},
    "stages": {"read_bytes"},  # the csv that folds.file names
    "training.tracking": {"open"},  # its log, written
    "tiles.synthetic": {"zipfile.ZipFile"},  # written
}
VERBS = {
    "pipeline.pseudo_label": {"np.load"},  # what it has just predicted
    "pipeline.tools.notebook": {"read_text"},  # run_all.sh
    "pipeline.tools.session": {"read_text", "read_bytes"},  # the report and the submission, through Product.file
}


def test_no_artifact_is_read_by_another_way():
    allowed = {f"pipeline.salt.{name}": calls for name, calls in READERS.items()} | VERBS
    found: dict[str, set[str]] = {}
    for name, module in TREES.items():
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and called not in OPENING:
                    called = node.func.attr
                if called in OPENING | METHODS:
                    found.setdefault(name, set()).add(called)
    strange = {name: calls - allowed.get(name, set()) for name, calls in found.items()}
    assert not {name: calls for name, calls in strange.items() if calls}, "read it through door or Product.file"


def test_weights_are_loaded_from_a_checked_path():
    users = {name for name, module in TREES.items() if "checkpoints.load(" in ast.unparse(module)}
    assert users >= {
        "pipeline.predict",
        "pipeline.pseudo_label",
        "pipeline.salt.training.fold",
        "pipeline.tools.export",
    }
    for name in users:
        text = ast.unparse(TREES[name])
        assert ".file()" in text or "published.trained_file(" in text or "hashed=True" in text, name
        assert "files.weights(" not in text, name


def test_no_module_but_the_table_of_products_names_the_path_of_an_artifact():
    """Other modules get paths from a Product; only those of tiles and labels read and write such files."""
    names = {"weights", "history", "pseudo", "cache", "result", "folds", "oof"}
    users = {
        name
        for name, module in TREES.items()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value).endswith("files")
    }
    # the runs below --out; the last lines of a run; a folder beside the run's results
    printing = {"pipeline.__main__", "pipeline.report", "pipeline.tools.segment"}
    own = {"pipeline.salt.stages", "pipeline.salt.tiles.cache", "pipeline.salt.training.pseudo"}
    assert own <= users <= own | printing, "take its Product from stages"


def test_a_table_s_text_is_taken_as_it_stands(tmp_path):
    path = tmp_path / "x.csv"
    with artifacts.publish(path, artifacts.Origin({}, {})) as tmp:
        tmp.write_text("id,z,share\n0000000002,1,\n12345e6789,2,0.5\nNA,3,inf\n")
    read = door.table(path, "prepare", {"id": str, "share": float})
    assert read["id"].tolist() == ["0000000002", "12345e6789", "NA"]
    np.testing.assert_array_equal(read["share"], [np.nan, 0.5, np.inf])
    with pytest.raises(InputError, match="x.csv has no column fold"):
        door.table(path, "prepare", {"fold": int})


def test_a_number_is_read_as_it_was_written_to_its_last_bit(tmp_path):
    path, shares = tmp_path / "x.csv", np.random.default_rng(0).random(1000)
    shares[0] = 0.030193118321733162  # older releases of pandas make ...331 of it
    with artifacts.publish(path, artifacts.Origin({}, {})) as tmp:
        pd.DataFrame({"share": shares}).to_csv(tmp, index=False)
    np.testing.assert_array_equal(door.table(path, "prepare", {"share": float})["share"], shares)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"a": 1', '{"b": {}}', '{"a": 2}', "[" * 100_000])
def test_a_json_file_is_an_object_with_the_keys_that_are_needed(tmp_path, content):
    path = tmp_path / "x.json"
    with artifacts.publish(path, artifacts.Origin({}, {})) as tmp:
        tmp.write_text(content)
    with pytest.raises(
        InputError, match=r"x\.json (cannot be read as JSON|is not a JSON object with a).*pipeline\.report"
    ):
        door.values(path, "report", {"a": dict})


def test_weights_of_another_fold_are_noticed_by_a_tool_that_takes_any_settings(tiny):
    run = tiny.parse("--set=train.48.lr=1e-3")
    last = run.profile.train.last
    assert published.trained_file(run, 0, last, "last").name == "48.last.safetensors"
    another_s_bytes_and_sidecar(*(stages.trained(run, fold, last)["last"].path for fold in (0, 1)))
    with pytest.raises(InputError, match="48.last.safetensors holds the weights of fold 1, phase 48"):
        published.trained_file(run, 0, last, "last")
