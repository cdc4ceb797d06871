"""Imports point downwards, and `--help` answers at once."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "pipeline").rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
SALT = "pipeline.salt."
STAGES = [name for name, path in MODULES.items() if path.parent == ROOT / "pipeline" and path.stem != "__init__"]
TOOLS = [name for name in MODULES if name.startswith("pipeline.tools.")]

# The rooms of pipeline/salt from the ground up: each stands on those that are named beside it, and on no other.
SCIENCE = {"errors"}
ROOMS = {
    "errors": set(),
    "progress": set(),
    "parts": set(),
    "rle": {"parts"},
    "metrics": SCIENCE,
    "losses": SCIENCE,
    "mosaic": set(),
    "folds": SCIENCE,
    "models": SCIENCE | {"models"},
    "config": {"errors"},
    "environment": set(),
    "disk": {"errors"},
    "artifacts": {"config", "disk", "environment", "errors"},
    "device": {"errors"},
    "door": {"artifacts", "disk", "errors"},
    "distributed": {"errors"},
    "overrides": {"config", "errors"},
    "stopping": {"distributed", "errors"},
    "run": {"config", "errors"},
    "tiles": {"parts", "artifacts", "config", "disk", "door", "errors", "rle", "run", "sections", "tiles"},
    "submission": {"parts", "config", "errors", "metrics", "rle"},
    "ensemble": {"parts", "config", "metrics", "progress", "submission"},
    "inspection": {"errors", "inspection", "models"},
    "reporting": {"parts", "config", "errors", "folds", "metrics", "reporting", "submission", "tiles"},
    "kaggle": {"artifacts", "disk", "errors", "run"},
    "product": {"artifacts", "disk", "errors", "run"},
    "stages": {"artifacts", "config", "disk", "errors", "product", "run", "tiles"},
    "published": {"artifacts", "config", "door", "product", "run", "stages", "tiles"},
    "checks": {"artifacts", "device", "disk", "distributed", "environment", "errors", "models", "run", "stages"}
    | {"product"},
    "logit_sums": {"parts", "artifacts", "disk", "environment"},
    "inference": {"artifacts", "config", "device", "errors", "logit_sums", "progress", "tiles"},
    "viewer": {"artifacts", "config", "door", "folds", "metrics", "progress", "run", "stages", "submission", "tiles"}
    | {"parts", "published", "viewer"},
    "launch": {"artifacts", "distributed", "errors", "launch", "progress", "run", "stopping"},
    "training": {"artifacts", "config", "device", "distributed", "door", "errors", "losses", "metrics", "models", "run"}
    | {"disk", "environment", "inference", "parts", "progress", "published", "stages", "tiles", "training"},
    "trained": {"artifacts", "config", "device", "errors", "inference", "logit_sums", "overrides", "run"}
    | {"disk", "tiles", "training"},
    "sections": {"disk", "errors", "parts", "sections"},
    "cli": {"config", "disk", "distributed", "errors", "kaggle", "launch", "models", "overrides", "run", "tiles"}
    | {"stopping"},
}
TORCH = {
    "device",
    "inference",
    "inspection",
    "logit_sums",
    "losses",
    "metrics",
    "models",
    "tiles",
    "trained",
    "training",
}  # takes seconds
FASTAI = {"models", "training", "tiles"}  # it takes more


def imports(name: str) -> Iterable[tuple[str, bool]]:
    """(full module name, whether it is imported together with this one) for every import in its source."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from pipeline.salt import rle` imports a module, `from ...errors import InputError` a name of one
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [module if module in MODULES else str(node.module) for module in full]
        else:
            continue
        yield from ((module, node in TREES[name].body) for module in modules)


def ours(name: str) -> set[str]:
    return {module for module, _ in imports(name) if module in MODULES} - {"pipeline", "pipeline.salt"}


def room(name: str) -> str:
    """Package of a module: 'tiles' for pipeline.salt.tiles.cache; '' outside pipeline/salt."""
    return name.removeprefix(SALT).split(".")[0] if name.startswith(SALT) else ""


def at_the_top(name: str, packages: set[str]) -> set[str]:
    """Those of the packages that are imported with the module, directly or indirectly."""
    seen, queue, reached = set(), [name], set()
    while queue:
        current = queue.pop()
        if current not in seen and current in MODULES:
            seen.add(current)
            modules = {module for module, top in imports(current) if top}
            reached |= {module.split(".")[0] for module in modules} & packages
            queue += [module for module in modules if module in MODULES]
            queue += [".".join(current.split(".")[:i]) for i in range(1, current.count(".") + 1)]  # its packages
    return reached


def test_the_files_are_where_they_are_looked_for():
    assert {"pipeline.prepare", "pipeline.train", "pipeline.submit", "pipeline.__main__"} <= set(STAGES)
    assert "pipeline.tools.lr_find" in TOOLS and "pipeline.salt.tiles" in MODULES
    assert "pipeline.salt.artifacts" in ours("pipeline.train") and room("pipeline.salt.tiles.cache") == "tiles"
    assert at_the_top("pipeline.salt.training.fold", {"torch", "fastai"}) == {"torch", "fastai"}


def test_no_import_is_relative_or_of_everything():
    violations = [
        f"{name}: {ast.unparse(node)}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or any(alias.name == "*" for alias in node.names))
    ]
    assert not violations


def test_a_new_file_is_placed_in_a_room():
    rooms = {room(name) for name in MODULES} - {""}
    assert rooms == ROOMS.keys(), "name its room here, and what it may stand on"


def test_nothing_in_salt_imports_a_stage_or_a_tool_and_no_stage_imports_another():
    violations = []
    for name in MODULES:
        verbs = {module for module in ours(name) if not room(module)} - {name}
        if name in TOOLS:  # tools may lean on one another, on no stage
            verbs -= set(TOOLS)
        violations += [
            f"{name} imports {verb}; what two stages need belongs in pipeline/salt" for verb in sorted(verbs)
        ]
    assert not violations


def test_stages_and_tools_import_the_command_line_and_nothing_in_salt_does():
    users = {name for name in MODULES if SALT + "cli" in ours(name)}
    assert users == {*STAGES, *TOOLS}


def test_every_room_stands_on_those_below_it_alone():
    violations = [
        f"{name} imports {module}"
        for name in MODULES
        if room(name)
        for module in sorted(ours(name))
        if room(module)
        and room(module) not in ROOMS[room(name)] | {room(name)} & {"models", "sections", "tiles", "training"}
        if module != name
    ]
    assert not violations


def test_the_rooms_stand_on_one_another_and_not_in_a_circle():
    floors = {}
    while len(floors) < len(ROOMS):
        ready = {name for name, below in ROOMS.items() if name not in floors and below - {name} <= floors.keys()}
        assert ready, f"each of {sorted(ROOMS.keys() - floors.keys())} stands on another of them"
        floors |= dict.fromkeys(ready, len(floors))
    assert not any("models" in ROOMS[name] for name in ("tiles", "artifacts", "run", "stages")), "tiles know no model"
    knowing = {name for name, below in ROOMS.items() if below & {"artifacts", "run", "stages"}}
    assert not knowing & {"models", "losses", "metrics", "rle", "folds", "config", "submission"}, "they know no files"


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


def test_torch_and_fastai_stay_where_they_are_worth_their_seconds():
    """Only these packages import them at module level; a stage imports such a package once it has work to do."""
    torch = {name for name in MODULES if at_the_top(name, {"torch"})}
    fastai = {name for name in MODULES if "fastai" in {module.split(".")[0] for module, top in imports(name) if top}}
    assert {room(name) for name in torch} <= TORCH and {room(name) for name in fastai} == FASTAI
    assert not [name for name in MODULES if at_the_top(name, {"ray", "accelerate"})], "they may not be installed"
    web = {name for name in MODULES if at_the_top(name, {"starlette", "uvicorn"})}
    assert web == {SALT + "viewer.app"}, "they may not be installed"


def test_one_module_alone_renames_files_into_place():
    """Anywhere else, a killed stage could leave half a result."""
    calls = {
        name: {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for name, tree in TREES.items()
    }
    renaming = [
        name
        for name, called in calls.items()
        if called & {"os.replace", "shutil.move"} or any(call.endswith(".rename") for call in called)
    ]
    assert renaming == [SALT + "disk", SALT + "tiles.synthetic"]  # the sample is a folder, renamed whole


def test_no_callback_names_another_but_by_its_order():
    """Callbacks share only `learn.epoch_row`; what one keeps is in its `state_dict`."""
    trees = [TREES[SALT + "training." + name] for name in ("callbacks", "resume")]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {"Stateful", "Autocast", "EpochLog", "KeepBest", "RandomState", "Resume"} <= set(classes)
    violations = []
    for name, node in classes.items():
        orders = {id(n.value) for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr == "order"}
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in orders}
        violations += [f"{name} uses {other}" for other in used & classes.keys() - {"Stateful"}]
        assigned = {
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
        }
        snake = {"".join(f"_{c.lower()}" if c.isupper() else c for c in other).lstrip("_") for other in classes}
        violations += [
            f"{name} asks for self.{other}" for other in assigned & snake
        ]  # as fastai's learner would give it
    assert not violations


def test_help_answers_before_torch_is_imported():
    program = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(name).main(["--help"])
    text = out.getvalue()
    assert "--help" in text and f"python -m {name.removesuffix('.__main__')}" in text, name
    late = {"torch", "fastai", "timm", "torchvision", "matplotlib.pyplot", "sklearn"} & set(sys.modules)
    assert not late, (name, late)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, *STAGES, *TOOLS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
