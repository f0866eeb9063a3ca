"""The architecture page agrees with the code: folders, threads, and the flow that it shows."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from connectors.callbacks.receiver import CallbackReceiver
from tests.support.pages import PAGES, ROOT, code_blocks

PAGE = PAGES["docs/architecture.md"]
SECRET = "whsec_" + "A" * 32
STARTERS = {"Thread", "Periodic", "FeedThread", "in_daemon_thread", "ThreadPoolExecutor"}


def test_every_folder_is_on_the_map() -> None:
    """Each folder of connectors and flows that holds modules has a row."""
    rows = set(re.findall(r"^\| `((?:connectors|flows)/[a-z_/]+/)`", PAGE, re.MULTILINE))
    folders = {
        path.parent.relative_to(ROOT).as_posix() + "/"
        for top in ("connectors", "flows")
        for path in (ROOT / top).glob("*/*.py")
    }
    assert folders <= rows, "describe the new folder in docs/architecture.md"


def test_every_path_on_the_page_exists() -> None:
    """Modules and folders that the page names are where it says."""
    paths = set(re.findall(r"`((?:connectors|flows|tests|docker)/[\w/.-]+)`", PAGE))
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def thread_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module gives to threads, `feed-` for `f"feed-{name}"`."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func).rpartition(".")[2]
        named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
        if function in STARTERS:
            named += call.args[:2]
        elif ast.unparse(call.func) != "super().__init__":
            continue
        for value in named:
            text = value.values[0] if isinstance(value, ast.JoinedStr) else value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield text.value


def test_every_thread_is_in_the_table() -> None:
    """The table has each thread that the code names, except for the simulator's and the demo's."""
    used = {
        name
        for top in ("connectors", "flows")
        for path in (ROOT / top).rglob("*.py")
        if "simulator" not in path.parts
        for name in thread_names(ast.parse(path.read_text()))
    }
    table = PAGE.partition("## Threads of a live process")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([a-zA-Z-]+)` \|", table, re.MULTILINE)
    assert used == {re.sub(r"[A-Z]+$", "", name) for name in listed}


def run_rooms(directory: Path, url: str) -> None:
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{directory}", "ROOMS_URL": url, "ROOMS_SECRET": SECRET}
    command = [sys.executable, "-m", "bytewax.run", "rooms"]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


def test_the_connectors_work_in_another_flow(tmp_path: Path) -> None:
    """The flow of the page sends a signed callback for each hot reading, and none again in a second run."""
    [code] = [text for page, _, text in code_blocks("python") if page == "docs/connectors.md"]
    assert len(code.splitlines()) <= 40
    (tmp_path / "rooms.py").write_text(code)
    readings = [
        {"id": "r1", "room": "kitchen", "celsius": 31.5},
        {"id": "r2", "room": "hall", "celsius": 19},
        {"id": "r3", "room": "kitchen", "celsius": 33},
    ]
    (tmp_path / "readings.jsonl").write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    with CallbackReceiver(secrets=[SECRET]) as receiver:
        run_rooms(tmp_path, receiver.url)
        first = receiver.received
        run_rooms(tmp_path, receiver.url)
        second = receiver.received
    assert [(got.id, got.verified, json.loads(got.body)) for got in first] == [
        ("r1", True, readings[0]),
        ("r3", True, readings[2]),
    ]
    assert second == first
