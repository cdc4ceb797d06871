"""Fixtures for the benches' tests: a few tiles, no warm-up runs, a results folder of their own."""

import pytest

from bench import __main__ as main
from bench.harness.tiles import load_tiles


@pytest.fixture
def few(made_once, monkeypatch):
    """The benches' tiles: 24 generated ones, in Kaggle's layout."""
    monkeypatch.setenv("SALT_TILES", str(made_once))
    load_tiles.cache_clear()
    yield load_tiles()
    load_tiles.cache_clear()


@pytest.fixture
def once(monkeypatch):
    """Nothing is warmed up."""
    monkeypatch.setattr("bench.harness.compare.WARM_UP", 0)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty results folder, and beside it the page that shows it."""
    monkeypatch.setattr(main, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(main, "PAGE", tmp_path / "speed.md")
    return tmp_path / "results"
