"""The events that voicewatch logs are those of the table in docs/operations.md, each at its level."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest

from tests.support.pages import PAGES, ROOT

LEVELS = {name: name for name in ("debug", "info", "warning", "error", "critical")} | {"exception": "error"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
MODULES = {
    str(path.relative_to(ROOT)): path.read_text()
    for package in ("connectors", "flows")
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| .*\w.* \|$", re.MULTILINE)


def literals(node: ast.expr) -> list[str]:
    """Return the texts that an expression may be; raise ValueError unless they stand there."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=other):
            return literals(body) + literals(other)
    raise ValueError(f"line {node.lineno}: the name of an event must stand there: {ast.unparse(node)}")


def named(node: ast.Call) -> str:
    """Return the name of the function or method that a call is of."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def logged(tree: ast.AST, within: Function | None = None) -> Iterator[tuple[Function | None, str, ast.expr]]:
    """Yield the calls that log: the function that they are in, the level, and what names the event."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            level = LEVELS.get(node.func.attr)
            if level is not None and node.args:
                yield within, level, node.args[0]
        yield from logged(node, node if isinstance(node, Function) else within)


def events(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the levels of each event of some modules; a function may log the event that its callers name."""
    trees = {name: ast.parse(source) for name, source in modules.items()}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for function, level, event in logged(tree):
            parameters = [] if function is None else [one.arg for one in function.args.args if one.arg != "self"]
            if function is None or not (isinstance(event, ast.Name) and event.id in parameters):
                names = literals(event)
            else:  # a private function is called in its own module only
                callers = [tree] if function.name.startswith("_") else trees.values()
                calls = [node for caller in callers for node in ast.walk(caller) if isinstance(node, ast.Call)]
                arguments = [node.args[parameters.index(event.id)] for node in calls if named(node) == function.name]
                assert arguments, f"{module}: nothing calls {function.name}"
                names = [name for argument in arguments for name in literals(argument)]
            for name in names:
                found[name].add(level)
    return dict(found)


def test_the_table_lists_the_events() -> None:
    """Every event of the sources has one row, and every row an event, at the level of its row."""
    section = PAGES["docs/operations.md"].partition("\n### Log events\n")[2].partition("\n## ")[0]
    rows = ROW.findall(section)
    assert len({name for name, _ in rows}) == len(rows)
    assert {name: {level} for name, level in rows} == events(MODULES)


def test_names_are_found_wherever_they_stand() -> None:
    """Names are found in conditions, and in the calls of functions that log what they are given."""
    helper = "def failed(self, event, n):\n    log.error(event)\n    log.exception(event)\n"
    assert events({"a": helper, "b": "class C:\n    def f(self):\n        o.failed('x', 1)\n"}) == {"x": {"error"}}
    assert events({"a": "log.info('a' if ok else 'b')\nlog.warning('a')\ntask.exception()\n"}) == {
        "a": {"info", "warning"},
        "b": {"info"},
    }


@pytest.mark.parametrize("source", ["log.info(f'alert_{state}')", "def _f(e):\n    log.info(e)\n_f(1)\n"])
def test_a_name_that_is_put_together_is_refused(source: str) -> None:
    """The name of an event can be searched for in the sources: one that is put together is an error."""
    with pytest.raises(ValueError, match="must stand there"):
        events({"a": source})
