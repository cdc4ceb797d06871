"""Arrows of import point down, and `--help` answers at once."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "pipeline").rglob("*.py"))
}
SALT = "pipeline.salt."
STAGES = [name for name, path in MODULES.items() if path.parent == ROOT / "pipeline" and not path.stem.startswith("__")]
TOOLS = [name for name in MODULES if name.startswith("pipeline.tools.")]
PURE = ("losses", "metrics", "rle", "folds", "models")
FASTAI = ("models", "training", "tiles.loaders")  # it takes seconds to import


@cache
def imports(name: str) -> frozenset[str]:
    """Full names of all modules that a module imports anywhere in its text, but for those that only types need."""
    tree, found = ast.parse(MODULES[name].read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            assert all(alias.name != "*" for alias in node.names), f"{name}: a star import from {node.module}"
            # `from pipeline.salt import rle` imports a module, `from ...errors import InputError` a name of one
            found |= {
                full if (full := f"{node.module}.{alias.name}") in MODULES else node.module for alias in node.names
            }
    return frozenset(found)


def ours(name: str) -> set[str]:
    return {module for module in imports(name) if module in MODULES and module not in ("pipeline", "pipeline.salt")}


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == SALT + room or name.startswith(f"{SALT}{room}.") for room in rooms)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_reads_and_has_no_star_import(name):
    imports(name)


def test_the_rooms_are_where_they_are_looked_for():
    assert {"pipeline.prepare", "pipeline.train", "pipeline.submit"} <= set(STAGES)
    assert all(any(is_in(name, (room,)) for name in MODULES) for room in (*PURE, *FASTAI))


@pytest.mark.parametrize("name", MODULES)
def test_verbs_know_nouns_and_nouns_know_no_verbs(name):
    verbs = [module for module in ours(name) if not module.startswith(SALT)]
    if name in TOOLS:  # tools may lean on one another, on no stage
        verbs = [module for module in verbs if not module.startswith("pipeline.tools")]
    assert not verbs, f"{name} imports {', '.join(verbs)}; what two stages need belongs in pipeline/salt"


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, PURE)])
def test_science_knows_no_files_stages_or_profiles(name):
    allowed = ("errors", *(room for room in PURE if is_in(name, (room,))))
    strange = [module for module in ours(name) if not is_in(module, allowed)]
    assert not strange, f"{name} imports {', '.join(strange)}"


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, ("tiles",))])
def test_tiles_know_no_network(name):
    assert not [
        module for module in ours(name) if not is_in(module, ("tiles", "artifacts", "config", "errors", "rle", "folds"))
    ], name


@pytest.mark.parametrize("name", [name for name in MODULES if is_in(name, ("errors", "config", "artifacts"))])
def test_the_ground_floor_stands_on_errors_alone(name):
    assert all(is_in(module, ("errors",)) for module in ours(name)), name


def test_fastai_stays_where_it_is_worth_its_seconds():
    """At the top of a module, that is; a stage or a tool may import it where it has something to do."""

    def at_the_top(path: Path) -> bool:
        names = [
            getattr(node, "module", None) or node.names[0].name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        return any(name.split(".")[0] == "fastai" for name in names)

    users = [name for name, path in MODULES.items() if at_the_top(path)]
    assert users and not [name for name in users if not is_in(name, FASTAI)]


def test_no_import_runs_in_a_circle():
    done, path = set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for module in ours(name) - {name}:
                visit(module)
            path.pop()
            done.add(name)

    for name in MODULES:
        visit(name)


def test_only_artifacts_publishes():
    """Nobody else renames a file into place: a killed stage would leave half a result."""
    for name, path in MODULES.items():
        if name not in (SALT + "artifacts", SALT + "tiles.synthetic"):  # the sample is a folder, renamed whole
            calls = {
                ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            }
            assert not calls & {"os.replace", "os.rename", "shutil.move"}, name


def test_help_answers_before_torch_is_imported():
    program = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(name).main(["--help"])
    text = out.getvalue()
    assert "--profile" in text and f"python -m {name}" in text.replace("pipeline.__main__", "pipeline"), name
    late = {"torch", "fastai", "timm", "torchvision", "matplotlib.pyplot"} & set(sys.modules)
    assert not late, (name, late)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *STAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert ended.returncode == 0, ended.stderr
