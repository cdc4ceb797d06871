"""mkdocs hooks: the pages of the site that come from other files, and the tables of docs/reference, from the code.

`<!-- generated: NAME -->` in a page is replaced by what the function NAME of TABLES gives. README.md is the home page,
EXPERIMENTS.md a page, a notebook becomes a page. Links that leave docs/ lead to a page where there is one; else only
their text stays.
"""

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline import __main__ as overview  # noqa: E402
from pipeline.salt import cli, config, overrides, stages  # noqa: E402
from pipeline.salt.config import PROFILES  # noqa: E402
from pipeline.salt.product import Product  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "EXPERIMENTS.md": "experiments.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # outside docs/, and what they are called inside
NOUNS = (
    "trained",
    "losses",
    "metrics",
    "rle",
    "folds",
    "submission",
)  # modules of pure functions, for whoever wants one of them


# ---- mkdocs calls these


def on_config(config):
    for title, pages in {"Tutorial": _tutorial(), "How-to": _how_to()}.items():
        next(entry for entry in config.nav if title in entry)[title] = pages
    return config


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for notebook in (ROOT / "docs").glob("*.ipynb"):
        files.append(File.generated(config, f"{notebook.stem}_notebook.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown, page, config, files):
    markdown = re.sub(r"<!-- generated: (\w+) -->", lambda match: TABLES[match[1]](), markdown)
    outside = "" if page.file.src_uri in PAGES.values() else "../" * (1 + page.file.src_uri.count("/"))
    return re.sub(
        r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)",
        lambda match: _link(match, outside, page, files),
        markdown,
    )


def _link(match: re.Match, outside: str, page, files) -> str:
    """A link as the site needs it; `outside` leads from the page's folder to the repository."""
    picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if not target.startswith(outside) or (outside and target.removeprefix(outside).startswith("../")):
        return match[0].replace(".ipynb)", "_notebook.md)")  # within docs/
    target = target.removeprefix(outside)
    if target.startswith("docs/"):  # of the home page
        return f"{picture}[{text}]({target.removeprefix('docs/')}{anchor})"
    if target in PAGES:
        up = "../" * page.file.src_uri.count("/")
        return f"[{text}]({up}{PAGES[target]}{anchor})"
    return text if text.startswith("`") else f"`{text}`"


def _tutorial() -> list[str]:
    return ["tutorial.md", *sorted(f"{path.stem}_notebook.md" for path in (ROOT / "docs").glob("*.ipynb"))]


def _how_to() -> list[str]:
    """The pages of docs/how-to, in the order of the README's links; one that it does not name comes last."""
    named = re.findall(r"docs/how-to/([\w-]+\.md)", (ROOT / "README.md").read_text().partition("## Documentation")[2])
    pages = sorted(path.name for path in (ROOT / "docs/how-to").glob("*.md"))
    pages.sort(key=lambda name: named.index(name) if name in named else len(named))
    return [*(f"how-to/{name}" for name in pages), "scaling.md"]


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text, its code, what the code printed and drew."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "image/png" in data:
                parts.append(f"![Output](data:image/png;base64,{''.join(data['image/png']).strip()})")
            elif printed := "".join(out.get("text") or data.get("text/plain", "")).rstrip():
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts)


# ---- the tables of docs/reference


def flags() -> str:
    """The flags that all stages share."""
    rows = [[f"`--{name}{_value(options)}`", options["help"]] for name, options in _public_flags().items()]
    return _table(["flag", "what it does"], rows)


def _public_flags() -> dict[str, dict]:
    return {name: options for name, options in cli.FLAGS.items() if options["help"] != argparse.SUPPRESS}


def commands() -> str:
    """A section for each stage and tool: its docstring, and the flags it adds."""
    sections = []
    order = dict.fromkeys([*(command.split()[0] for command in overview.ALL), *sorted(overview.commands())])
    for name in order:
        module = importlib.import_module(overview.commands()[name])
        first, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
        rows, shared = _own_flags(module)
        taken = [flag for flag in _public_flags() if flag in shared]
        section = f"## {name}\n\n{first}\n\n```text\n{textwrap.dedent(rest).strip()}\n```\n"
        if 0 < len(taken) < len(_public_flags()):
            section += f"\nOf the common flags it takes {', '.join(f'`--{flag}`' for flag in taken)}.\n"
        sections.append(section + (f"\n{_table(['its own flag', 'what it does'], rows)}" if rows else ""))
    return "\n\n".join(sections)


def _own_flags(module) -> tuple[list[list[str]], tuple[str, ...]]:
    """Rows of the flags that a command adds, and the names of those of cli.FLAGS that it takes."""
    parser, shared = argparse.ArgumentParser(add_help=False), []

    def parse(doc, argv, add=lambda p: None, flags=tuple(cli.FLAGS), **_):
        add(parser)
        shared.extend(flags)
        raise SystemExit

    with (
        mock.patch.object(cli, "parse", parse),
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        module.main(["--help"])
    rows = []
    for action in parser._actions:
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        rows.append([f"`{', '.join(action.option_strings) or action.dest}{value}`", action.help or ""])
    return rows, tuple(shared)


def settings() -> str:
    """Every name that --set takes, section by section, with its value in `blog` and its comment in config.py."""
    comments = dict(_comments(Path(config.__file__).read_text()))
    rows: dict[str, list[list[str]]] = {}
    for line in overrides.describe(PROFILES["blog"]).splitlines():
        name, value, kind = re.split(r" {2,}", line.strip(), maxsplit=2)
        path = re.sub(r"^train\.\d+\.", "train.PHASE.", name)
        section, _, key = path.rpartition(".")
        row = [f"`{path}`", f"`{value}`", kind, comments.get((_section(section), key), "")]
        known = [row[0] for row in rows.setdefault(section, [])]
        if row[0] in known:  # the second phase
            before = rows[section][known.index(row[0])]
            before[1] = before[1] if before[1].endswith(row[1]) else f"{before[1]}, then {row[1]}"
        else:
            rows[section].append(row)
    return "\n\n".join(
        f"## {section or 'profile'}\n\n{_table(['--set', 'in `blog`', 'values', 'meaning'], rows[section])}"
        for section in rows
    )


def _section(path: str) -> str:
    """Name of the dataclass of a section."""
    profile = PROFILES["blog"]
    if path == "train.PHASE":
        return type(profile.train.last).__name__
    return type(getattr(profile, path)).__name__ if path else type(profile).__name__


def _comments(source: str) -> Iterator[tuple[tuple[str, str], str]]:
    """((class, field), the comment at the end of its line) of every field that has one."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        for field in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(field, ast.AnnAssign) and field.end_lineno:
                _, mark, comment = lines[field.end_lineno - 1].partition("  # ")
                if mark:
                    yield (node.name, ast.unparse(field.target)), comment


def profiles() -> str:
    """What each profile is, costs and scored, and where their numbers differ."""
    text = []
    for name in PROFILES:
        first, _, rest = inspect.cleandoc(getattr(config, name).__doc__ or "").partition("\n")
        command, *remarks = [line.strip() for line in rest.strip().splitlines()]
        text.append(f"**{name}**: {first} {' '.join(remarks)}\n\n```text\n{command}\n```")
    values = {name: overrides.named_settings(profile) for name, profile in PROFILES.items()}
    keys = dict.fromkeys(key for named in values.values() for key in named)
    rows = []
    for key in keys:
        row = [values[name].get(key, "") for name in PROFILES]
        if len({repr(value) for value in row}) > 1 and not re.match(r"train\.\d+\.(name|size)", key):
            rows.append([f"`{key}`", *(f"`{value}`" if value != "" else "" for value in row)])
    table = _table(["setting", *PROFILES], rows)
    return "\n\n".join(text) + f"\n\n## Where they differ\n\n{table}"


def artifacts() -> str:
    """Path, maker, inputs and settings of every artifact of a run."""
    run = cli.parse("", ["--data=sample", "--out=OUT", "--profile=blog", "--add-phase=pseudo=true,epochs=20"])[0]
    products, queue = {}, [*stages.report(run)]
    while queue:
        product = queue.pop(0)
        if product.name not in products:
            products[product.name] = product
            queue += product.inputs
    products = dict(sorted(products.items(), key=lambda item: len(_ancestors(item[1]))))
    rows: dict[str, list[str]] = {}
    for product in products.values():
        path = str(product.path.relative_to(run.files.out)).replace("/blog/", "/RUN/").replace("/sample/", "/DATA/")
        path = re.sub(r"fold_\d+", "fold_K", path)
        inputs = dict.fromkeys(re.sub(r"fold_\d+", "fold_K", product.name) for product in product.inputs)
        maker = re.sub(r" --fold \d+", "", product.maker)
        settings = ", ".join(f"`{key}`" for key in product.settings())
        rows.setdefault(path, [f"`{path}`", f"`{maker}`", settings, ", ".join(f"`{name}`" for name in inputs)])
    return _table(["file", "made by", "from the settings", "from"], [*rows.values()])


def _ancestors(product: Product) -> set[str]:
    return {product.name}.union(*(_ancestors(before) for before in product.inputs))


def functions() -> str:
    """Signature and docstring of what the package gives to `import`, and of the modules of pure functions."""
    parts = []
    for noun in NOUNS:
        tree = ast.parse((ROOT / f"pipeline/salt/{noun}.py").read_text())
        parts.append(f"## pipeline.salt.{noun}\n\n```text\n{ast.get_docstring(tree)}\n```")
        parts += [_function(node, "###") for node in _public(tree)]
    return "\n\n".join(parts)


def _public(tree: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    nodes = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [node for node in nodes if not node.name.startswith("_") and ast.get_docstring(node)]


def _function(node: ast.FunctionDef | ast.ClassDef, level: str) -> str:
    """A function, or a class with its methods."""
    methods, head = [], f"class {node.name}"
    if isinstance(node, ast.ClassDef):
        methods = [_function(method, f"{level}#") for method in _public(node)]
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        head = f"{node.name}({ast.unparse(node.args)}){returns}"
    text = f"{level} {node.name}\n\n```python\n{head}\n```\n\n```text\n{ast.get_docstring(node)}\n```"
    return "\n\n".join([text, *methods])


TABLES: dict[str, Any] = {
    table.__name__: table for table in (flags, commands, settings, profiles, artifacts, functions)
}


def _value(options: dict) -> str:
    if options.get("action") == "store_true":
        return ""
    return f" {options.get('metavar') or '{' + ','.join(options['choices']) + '}'}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
