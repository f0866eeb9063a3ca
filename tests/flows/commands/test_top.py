"""`voicewatch top`: the figures of the files, on terminals of two widths, and outside one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import voicewatch
from tests.support.state_dirs import BEGAN, HOSTILE, StateDir
from tests.support.terminal import on_terminal

ID = "3d9c3021-28c7-4473-ae64-73c8f544aef2"
OTHER = "7f7494d9-b7a6-4275-908c-73493c98dd22"


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """Two calls, one with an open incident, and a dead callback."""
    state = StateDir(tmp_path / "state")
    state.feed(0, "up")
    for id_ in (ID, OTHER):
        state.watch(0, id_)
    for start in range(0, 60, 5):
        state.window(start, ID, p95=300.0, queue="Support")
        state.window(start, OTHER, queue="Sales")
    state.alert(12, ID, "raised", 1)
    state.outbox(pending=2, dead=1, delivered=0)
    state.record(70, tick=True)
    return state


def test_outside_a_terminal_it_prints_once(state: StateDir) -> None:
    """Figures are those of the files; no escape sequence is written; rows are worst first."""
    done = voicewatch("top", state.dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for text in ("2 received", "50 % of windows in breach", "1 open incident |", "2 callbacks waiting, 1 dead"):
        assert text in done.stdout
    _, worst = done.stdout.split("Worst conversations (2)")
    assert 0 < worst.index(ID) < worst.index(OTHER)
    assert "By queue (2)" in worst


def test_calls_are_not_live_without_a_feed(state: StateDir) -> None:
    """It says how many there were when the feed ended, also long after, and counts one gap as one."""
    assert "2 at the last record, of 2 received" in voicewatch("top", state.dir).stdout  # which was long ago
    state.feed(72, "down", "stopped")
    state.record(500, tick=True)
    done = voicewatch("top", state.dir)
    assert "2 when the feed ended, of 2 received" in done.stdout
    assert "voice-events down (1 gap)" in done.stdout
    assert "live of" not in done.stdout
    figures = json.loads(voicewatch("top", state.dir, "--json").stdout)
    assert (figures["live"], figures["live_then"], figures["ended_at"]) == (0, 2, BEGAN + 72)
    state.feed(510, "up")
    assert "0 at the last record, of 2 received" in voicewatch("top", state.dir).stdout


def test_json_has_the_same_figures(state: StateDir) -> None:
    """Figures, rows worst first, and the values of a label, once."""
    done = voicewatch("top", state.dir, "--json", "--by", "queue")
    figures = json.loads(done.stdout)
    assert (figures["conversations"], figures["share"], figures["open"], figures["dead"]) == (2, 0.5, 1, 1)
    assert [row["id"] for row in figures["worst"]["rows"]] == [ID, OTHER]
    assert [(row["value"], row["breaching"]) for row in figures["groups"]] == [("Support", 12), ("Sales", 0)]


def test_a_label_that_no_conversation_has_is_refused(state: StateDir) -> None:
    """One line that names those there are, exit 2."""
    done = voicewatch("top", state.dir, "--by", "colour")
    assert done.returncode == 2
    assert (
        done.stderr == "voicewatch: --by colour: no conversation has this label; there are queue, conversation, all\n"
    )


@pytest.mark.parametrize("columns", [80, 40])
def test_no_id_is_broken_on_a_terminal(state: StateDir, columns: int) -> None:
    """With --once at 80 and at 40 columns, each id stands whole on a line, and no line is longer than the terminal."""
    with on_terminal("top", state.dir, "--once", columns=columns) as terminal:
        assert terminal.ended() == 0
    lines = terminal.shown.splitlines()
    assert sum(ID in line for line in lines) == 2
    assert sum(OTHER in line for line in lines) == 1


def test_it_follows_a_run_until_a_signal(state: StateDir) -> None:
    """A new window appears without a restart, on the alternate screen; SIGINT ends it with exit 0."""
    with on_terminal("top", state.dir, columns=80) as terminal:
        terminal.wait_for("2 received")
        state.window(60, "the-third")
        terminal.wait_for("3 received")
        terminal.wait_for("the-third")
        assert terminal.interrupt() == 0
    assert "\x1b[?1049l" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_hostile_ids_cannot_drive_the_terminal(tmp_path: Path) -> None:
    """An escape sequence in an id is shown, not obeyed."""
    state = StateDir(tmp_path / "state")
    state.window(0, f"\x1b[2J{HOSTILE}", p95=300.0, queue="\x1b]0;title\x07")
    done = voicewatch("top", state.dir)
    assert done.returncode == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)


def test_another_directory_is_refused(tmp_path: Path) -> None:
    """One line, exit 2."""
    done = voicewatch("top", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is neither a state directory nor the results of a replay" in done.stderr
