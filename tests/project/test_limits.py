"""The size of modules and functions: what is past the limits answers more than one question."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES = 400
FUNCTION_LINES = 50
MODULES = sorted(path for package in ("connectors", "flows") for path in (ROOT / package).rglob("*.py"))


def excess(source: str, module_lines: int = MODULE_LINES) -> Iterator[str]:
    """Yield what is longer than allowed in a module."""
    if (lines := len(source.splitlines())) > module_lines:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    """A module has 400 lines at most, and a function 50."""
    assert list(excess(path.read_text())) == []


def test_the_limits_are_found() -> None:
    """The last allowed line is allowed, the next one is reported, in functions of classes too."""
    body = "class C:\n    async def f(self):\n" + "        x = 1\n" * (FUNCTION_LINES - 1)
    assert list(excess(body)) == []
    assert list(excess(body + "        x = 1\n")) == ["f: 51 lines"]
    assert list(excess("x = 1\n" * MODULE_LINES)) == []
    assert list(excess("x = 1\n" * (MODULE_LINES + 1))) == ["401 lines"]
