"""The recipes of the page on data give what the page shows, and the schema is one that editors accept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import ROOT, voicewatch
from tests.support.pages import PAGES

RECIPES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGES["docs/data.md"], re.DOTALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which the recipes find their results."""
    directory = tmp_path_factory.mktemp("data")
    recording = ROOT / "tests/data/three-minutes.jsonl"
    done = voicewatch("replay", recording, "--out", directory / "results", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    return directory


def test_each_library_has_a_recipe() -> None:
    """DuckDB, polars and pandas are shown."""
    assert [recipe.split()[1] for recipe, _ in RECIPES] == ["duckdb", "polars", "pandas"]


@pytest.mark.parametrize(("recipe", "shown"), RECIPES, ids=["duckdb", "polars", "pandas"])
def test_a_recipe_prints_what_the_page_shows(directory: Path, recipe: str, shown: str) -> None:
    """The code of the page, run beside the results."""
    done = subprocess.run([sys.executable, "-c", recipe], cwd=directory, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
