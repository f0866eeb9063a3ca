"""Standard output that cannot be written, and colours that are not wanted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.cli import DEADLINE_S, ROOT, command, environ
from tests.support.state_dirs import StateDir
from tests.support.terminal import on_terminal

RECORDING = ROOT / "tests" / "data" / "three-minutes.jsonl"
LOG = """
from flows.cli.common import configure_logging
from connectors.runtime.logs import get_logger
configure_logging(as_json=False)
get_logger("test").warning("disk_full", conversation="call-1")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", RECORDING, "--out", "out"),
        ("backtest", RECORDING, "--sweep", "alerts.max_latency_ms=100:150:50"),
        ("report", "state", "--out", "report.html"),
        ("top", "state"),
        ("audit", "show", "state/audit.jsonl"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_full_disk_is_one_line(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    """A command whose standard output is full says so in one line, and exits with 1."""
    state = StateDir(tmp_path / "state")
    state.watch(0, "a")
    state.window(0, "a")
    state.attempt(1, state.alert(1, "a", "raised", 1), "CALLBACK_DELIVERED", "200")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environ({}),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 1
    assert done.stderr == "voicewatch: standard output cannot be written: No space left on device\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The report's own file may be on a full disk; the advice names the option."""
    state = StateDir(tmp_path / "state")
    state.window(0, "a")
    done = subprocess.run(
        command("report", state.dir, "--out", "/dev/full"),
        env=environ({}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "writing /dev/full failed" in done.stderr
    assert "--out" in done.stderr


def test_logs_have_colours_unless_they_are_not_wanted() -> None:
    """On a terminal log lines are coloured; with NO_COLOR they hold no escape sequence."""
    with on_terminal(columns=80, script=LOG) as coloured:
        assert coloured.ended() == 0
    assert "\x1b[" in coloured.shown
    with on_terminal(columns=80, script=LOG, NO_COLOR="1") as plain:
        assert plain.ended() == 0
    assert "\x1b" not in plain.shown
    assert "disk_full" in plain.shown
