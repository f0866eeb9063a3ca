"""Files of results of past days, which may have been compressed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.errors import StateError
from connectors.state.results import reading_results
from tests.support.cli import voicewatch
from tests.support.state_dirs import BEGAN, StateDir


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: data[:10] + b"\xff" + data[11:], lambda data: data[1:]]
)
def test_a_damaged_day_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A packed file may be cut, changed inside, or not packed at all: commands name it in one line."""
    state = StateDir(tmp_path / "state")
    for number in range(50):
        state.window(number, "c", p95=100.0 + number)
        state.alert(number, "c", "raised", number)
    for kind in ("windows", "alerts"):
        path = state.dir / f"{kind}.jsonl"
        path.with_name(f"{kind}-2026-11-20.jsonl.gz").write_bytes(damage(gzip.compress(path.read_bytes())))
        path.unlink()
    with (
        pytest.raises(StateError, match="alerts-2026-11-20"),
        reading_results(state.dir / "alerts-2026-11-20.jsonl.gz") as file,
    ):
        file.read()
    for command in (
        ["status", state.dir],
        ["merge", state.dir, "--out", tmp_path / "out"],
        ["report", state.dir, "--from", str(BEGAN), "--out", tmp_path / "report.html"],
    ):
        done = voicewatch(*command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "-2026-11-20.jsonl.gz" in done.stderr


@pytest.mark.parametrize("line", [b"no JSON", b"[]", b'{"alertId":"\xff"}'])
def test_a_damaged_line_is_reported(line: bytes, tmp_path: Path) -> None:
    """The disk has damaged it: commands that read all lines say so in one line."""
    state = StateDir(tmp_path / "state")
    state.alert(1, "c", "raised", 1)
    with (state.dir / "alerts.jsonl").open("ab") as file:
        file.write(line + b"\n")
    for command in (["status", state.dir], ["merge", state.dir, "--out", tmp_path / "out"]):
        done = voicewatch(*command)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "a line of the alerts" in done.stderr
