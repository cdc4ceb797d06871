"""The site builds without warnings, has no dead link or anchor and no page outside the menu, and works offline."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//[^"'> ]+""")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def test_every_page_is_there_and_asks_no_other_server(site):
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    for page in [*pages, Path("index.html"), Path("experiments.html")]:
        html = (site / page).read_text()
        outside = [link for link in ELSEWHERE.findall(html) if "rel=canonical" not in link]
        assert not outside, f"{page}: {outside}"


def test_the_reference_has_what_the_code_has(site):
    from pipeline.__main__ import commands
    from pipeline.salt import cli
    from pipeline.salt.config import PROFILES

    words = (site / "reference/commands.html").read_text()
    assert all(f"--{name}" in words for name, options in cli.FLAGS.items() if options["help"] != "==SUPPRESS==")
    assert all(f'id="{name}"' in words for name in commands())
    words = (site / "reference/settings.html").read_text()
    assert "train.PHASE.epochs" in words and "60</code>" in words and "peak of the schedule" in words
    words = (site / "reference/profiles.html").read_text()
    assert all(name in words for name in PROFILES)
    words = (site / "reference/artifacts.html").read_text()
    assert "folds/RUN/fold_K/pseudo_masks.npy" in words and "submissions/RUN/report.html" in words
    assert not re.search(r"generated: \w+", words)


def test_links_from_the_readme_to_files_work_on_github():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
