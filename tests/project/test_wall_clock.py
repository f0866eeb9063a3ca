"""Every use of the wall clock is on the list of `docs/architecture.md`, with what a step of it does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLS = {("time", "time"), ("time", "time_ns"), ("date", "today")} | {
    ("datetime", name) for name in ("now", "today", "utcnow")
}
FILE_TIMES = {"st_atime", "st_ctime", "st_mtime", "st_atime_ns", "st_ctime_ns", "st_mtime_ns"}
COPIES = {"connectors/journal/segments.py"}
"""Modules that hand the times of a file on to another one, without a look at them."""


def reads_wall_clock(text: str) -> bool:
    """Tell whether a module reads the wall clock, or takes it as a function, or the times of files."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "time" and any("time" in one.name for one in node.names):
            return True
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in FILE_TIMES or (owner, node.attr) in CALLS:
            return True
    return False


def test_every_module_that_reads_the_wall_clock_is_on_the_list() -> None:
    """And no other one is."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("\n## The wall clock\n")[2].partition("\n## ")[0]
    firsts = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
    listed = {name for first in firsts for name in re.findall(r"`([\w/.]+)`", first)}
    found = {
        str(path.relative_to(ROOT))
        for folder in ("connectors", "flows")
        for path in (ROOT / folder).rglob("*.py")
        if reads_wall_clock(path.read_text())
    } - COPIES
    simulator = "connectors/genesys/simulator/"
    assert {simulator if name.startswith(simulator) else name for name in found} == listed


def test_uses_are_recognised() -> None:
    """Calls, functions as arguments, imports and times of files; the monotonic clock does not count."""
    for text in (
        "time.time()",
        "f(now=time.time)",
        "datetime.now(UTC)",
        "path.stat().st_mtime",
        "from time import time",
    ):
        assert reads_wall_clock(text), text
    assert not reads_wall_clock("time.monotonic()\ntime.sleep(1)\ndatetime.fromtimestamp(at, UTC)")
