"""Modules that call themselves pure are held to it by an import contract."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Whole packages with contracts of their own.
PACKAGES = ("connectors.format", "flows.analytics")
# They import a type or a seeded generator from a module that the contract forbids.
OTHERS = {
    "connectors.genesys.feeds.notifications.waits",
    "connectors.genesys.simulator.media",
    "connectors.genesys.simulator.stories",
}


def test_every_module_that_is_called_pure_is_in_the_contract() -> None:
    """The docstrings and the contract name the same modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [contract] = [one for one in contracts if one["name"].startswith("Modules that say so are pure")]
    claims = set()
    for top in ("connectors", "flows"):
        for path in (ROOT / top).rglob("*.py"):
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if re.search(r"\bPure[.:;]", first) and not name.startswith(PACKAGES):
                claims.add(name)
    assert len(claims) > 10
    assert claims - OTHERS <= set(contract["source_modules"])
    assert claims >= OTHERS, "remove what is no longer an exception"
