"""The recording of AudioHook calls that the project ships, and what a replay makes of it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from connectors.journal.segments import segments
from flows.commands.replay import replay
from tests.support.audiohook import START, example_calls, record_calls

RECORDING = Path(__file__).parents[4] / "data" / "audiohook.jsonl"
LATE, LOSSY, PAUSED, CUT_OFF, WELL = (plan.conversation_id for _, plan in example_calls())
WINDOWS = [
    (LATE, -5.0, 6, 302.082, 0.0),
    (LOSSY, -5.0, 7, 36.151, 0.2),
    (CUT_OFF, -5.0, 5, 22.41, 0.0),
    (PAUSED, -5.0, 5, 54.34, 0.0),
    (LATE, 0.0, 12, 302.082, 0.0),
    (LOSSY, 0.0, 15, 36.151, 0.2),
    (CUT_OFF, 0.0, 11, 22.41, 0.0),
    (PAUSED, 0.0, 13, 54.34, 0.0),
    (WELL, 0.0, 5, 31.0, 0.0),
    (LATE, 5.0, 12, 302.082, 0.0),
    (LOSSY, 5.0, 14, 36.151, 0.2),
    (CUT_OFF, 5.0, 12, 22.41, 0.0),
    (PAUSED, 5.0, 13, 54.34, 0.0),
    (WELL, 5.0, 11, 31.0, 0.0),
    (LATE, 10.0, 11, 22.861, 0.0),
    (LOSSY, 10.0, 12, 36.151, 0.0),
    (CUT_OFF, 10.0, 6, 22.41, 0.0),
    (PAUSED, 10.0, 5, 54.34, 0.0),
    (WELL, 10.0, 12, 31.0, 0.0),
    (LATE, 15.0, 5, 22.861, 0.0),
    (LOSSY, 15.0, 6, 36.151, 0.0),
    (WELL, 15.0, 8, 31.0, 0.0),
    (WELL, 20.0, 2, 31.0, 0.0),
]
"""Conversation, start, frames, worst latency in ms, worst loss."""


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audiohook") / "out"
    replay([RECORDING], out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_the_recording_is_what_the_emulated_calls_give(tmp_path: Path) -> None:
    """Callers, sessions, measurements and journal, without a socket and on a made-up clock, give the same bytes."""
    record_calls(tmp_path / "journal", example_calls(), start=START)
    (segment,) = segments(tmp_path / "journal")
    assert segment.read_bytes() == RECORDING.read_bytes()
    assert len(RECORDING.read_bytes()) < 200_000


def test_the_replay_raises_what_was_late_and_lossy_and_nothing_else(replayed: Path) -> None:
    """One call is late and one loses audio for some seconds; a pause, a call cut off and a good one raise nothing."""
    alerts = [
        (alert["conversationId"], alert["alertType"], alert["state"], alert["reason"], alert["timestamp"] - START)
        for alert in lines(replayed / "alerts.jsonl")
    ]
    assert alerts == [
        (LATE, "LATENCY_THRESHOLD_EXCEEDED", "raised", None, 3.25),
        (LOSSY, "PACKET_LOSS_DETECTED", "raised", None, 4.5),
        (LATE, "LATENCY_THRESHOLD_EXCEEDED", "resolved", "recovered", 16.25),
        (LOSSY, "PACKET_LOSS_DETECTED", "resolved", "recovered", 16.5),
    ]
    values = [alert["metricValue"] for alert in lines(replayed / "alerts.jsonl")]
    assert values == pytest.approx([302.082, 0.2, 22.861, 0.0], abs=0.001)
    assert (replayed / "rejected.jsonl").read_bytes() == b""


def test_the_windows_of_the_replay_are_as_worked_out(replayed: Path) -> None:
    """Frames, worst latency and loss of every window."""
    windows = [
        (
            window["conversation_id"],
            window["start"] - START,
            window["frames"],
            window["latency_ms"]["max"],
            window["packet_loss"]["max"],
        )
        for window in lines(replayed / "windows.jsonl")
    ]
    assert sorted(windows) == sorted(WINDOWS)
