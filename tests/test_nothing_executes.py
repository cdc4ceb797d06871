"""No file can run code: malicious ones are refused wherever files are read, and no module can load a pickle."""

import ast
import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from pipeline.salt import artifacts, door
from pipeline.salt.artifacts import Origin, publish
from pipeline.salt.errors import InputError
from pipeline.salt.models import build_model
from pipeline.salt.sections.reading import open_picture
from pipeline.salt.tiles.folder import read_image
from pipeline.salt.training import checkpoints
from pipeline.salt.training.resume import Resume
from tests.bad.builders import Bomb

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "bench").rglob("*.py"), *(ROOT / "docs").rglob("*.py")])
SAFE = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}  # with which keyword each may be called
UNSAFE = {
    *("eval", "exec", "compile", "os.system", "os.popen", "load_learner", "torch.hub.load", "torch.package"),
    *("pd.read_pickle", "pd.read_hdf", "joblib.load", "yaml.load", "marshal.loads", "shelve.open", "runpy.run_path"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
}
ITS_OWN = {"pipeline/salt/models/__init__.py": {"eval"}}  # of annotations in this package's own text


def test_no_module_can_load_a_pickle_or_run_a_text():
    loads = dict.fromkeys(SAFE, 0)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, place = ast.unparse(node.func), f"{path.relative_to(ROOT)}:{node.lineno}"
            assert called not in UNSAFE - ITS_OWN.get(str(path.relative_to(ROOT)), set()), place
            assert not any(ast.unparse(keyword) == "shell=True" for keyword in node.keywords), place
            assert "yaml" not in called and not called.endswith(("learn.load", "learner.load")), place
            if called in SAFE:
                loads[called] += 1
                assert SAFE[called] in map(ast.unparse, node.keywords), place
    assert all(loads.values()), "they are still called by these names"


def test_the_samples_would_run():
    with pytest.raises(pytest.fail.Exception, match="code in a file was run"):
        pickle.loads(pickle.dumps(Bomb()))


def test_a_state_of_a_training(tmp_path, capsys):
    path = tmp_path / "32.resume.pt"
    torch.save({"settings": {}, "inputs": {}, "epochs": 1, "model": Bomb()}, path)
    assert Resume(path, Origin({}, {})).load() == 0
    assert "32.resume.pt is damaged (UnpicklingError): this training starts over" in capsys.readouterr().out


@pytest.mark.parametrize(
    "write", [lambda path: torch.save(Bomb(), path), lambda path: path.write_bytes(pickle.dumps(Bomb()))]
)
def test_weights_of_a_run(tmp_path, write):
    write(path := tmp_path / "128.safetensors")
    with pytest.raises(InputError, match="128.safetensors cannot be read"):
        checkpoints.load(path, build_model("unet_resnext50", "test_resnet", {"width": 8}))


def test_an_artifact_that_its_own_sidecar_vouches_for(tmp_path):
    path = tmp_path / "oof.npy"
    with publish(path, Origin({}, {})) as tmp:
        np.save(tmp, np.array([[[Bomb()]]], dtype=object), allow_pickle=True)
    artifacts.check(path, "predict")
    with pytest.raises(InputError, match="oof.npy cannot be read as an array"):
        door.array(path, "predict", np.float16, (1, 1, 1))


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tif", "a.jpg"])
def test_a_picture(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        np.save(file, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=f"{name} (is not a PNG|cannot be decoded)"), open_picture(tmp_path / name):
        pass


def test_a_picture_that_says_it_is_a_program_for_ghostscript(tmp_path, monkeypatch):
    """Pillow opens EPS by calling Ghostscript, whatever the file's name."""
    called = tmp_path / "called"
    (gs := tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {called}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # is remembered once it was looked for
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "eps").write_bytes(eps)
    with contextlib.suppress(OSError), Image.open(tmp_path / "eps") as image:
        image.load()
    assert called.exists(), "it would run"
    called.unlink()
    for name in ("a.png", "a.jpg", "a.tif"):
        (tmp_path / name).write_bytes(eps)
        with pytest.raises(InputError, match=f"{name} (is not a PNG|cannot be decoded)"), open_picture(tmp_path / name):
            pass
        with pytest.raises(InputError, match=f"{name} (is not a PNG|cannot be decoded)"):
            read_image(tmp_path / name)
    assert not called.exists()
