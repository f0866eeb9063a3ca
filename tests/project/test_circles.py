"""Modules import each other in one direction only; imports for type checkers and inside functions count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

import grimp


def circle(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the modules of one import circle, the first again at the end; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """The modules of connectors and flows can be ordered so that each imports only those before it."""
    graph = grimp.build_graph("connectors", "flows", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    assert circle(imports) == []


def test_a_circle_is_found() -> None:
    """A circle of three modules is reported; the same three in a line are not."""
    assert set(circle({"a": ["b"], "b": ["c"], "c": ["a"]})) == {"a", "b", "c"}
    assert circle({"a": ["b", "c"], "b": ["c"]}) == []
