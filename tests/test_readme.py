"""The README's tree names every file it should, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"[\w.]+(?:/|\.py|\.sh|\.md)")
LISTED = ("pipeline", "pipeline/tools", "pipeline/salt", "pipeline/salt/launch", "pipeline/salt/training")


def tree() -> set[str]:
    """Paths in the README's tree; folders end in a slash."""
    text = (ROOT / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    paths, folders = set(), {0: ""}
    for line in text.strip().splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.split(r" {3,}", line.strip())[0].split() if indent < 20 else []
        for name in names:
            assert NAME.fullmatch(name), f"{name!r} in the README's tree: is it a name, or too near to one?"
            paths.add(folders[indent] + name)
            if name.endswith("/"):
                folders[indent + 2] = folders[indent] + name
    return paths


def test_every_name_in_the_tree_is_there():
    missing = [path for path in tree() if not (ROOT / path).exists()]
    assert not missing


def test_the_tree_names_every_module_and_folder():
    folders = [ROOT / folder for folder in LISTED]
    there = {
        f"{path.relative_to(ROOT)}{'/' * path.is_dir()}"
        for folder in folders
        for path in folder.iterdir()
        if not path.name.startswith(("__init__", "__pycache__", "."))
    }
    models = ROOT / "pipeline/salt/models"
    there |= {str(path.relative_to(ROOT)) for path in models.glob("*.py") if path.name != "__init__.py"}
    assert there - tree() == set()
