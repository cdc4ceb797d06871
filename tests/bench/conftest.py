"""Fixtures for the tests of the benches: few tiles, no warm-up, a separate results folder."""

import pytest

from bench import __main__ as main
from bench.harness.tiles import load_tiles


@pytest.fixture
def few(made_once, monkeypatch):
    """24 generated tiles in Kaggle's layout in place of the benches' own."""
    monkeypatch.setenv("SALT_TILES", str(made_once))
    load_tiles.cache_clear()
    yield load_tiles()
    load_tiles.cache_clear()


@pytest.fixture
def once(monkeypatch):
    """No warm-up runs."""
    monkeypatch.setattr("bench.harness.compare.WARM_UP", 0)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder, next to the page that shows it."""
    monkeypatch.setattr(main, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(main, "PAGE", tmp_path / "speed.md")
    return tmp_path / "results"
