"""Recordings of notifications, replayed; and a live run on the emulated platform, which equals its own replay."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.genesys.simulator.calls import conversation_ids
from connectors.genesys.simulator.notifications import QUEUE_ID, NotificationsSimulator
from connectors.genesys.simulator.server import running
from connectors.journal.segments import segments
from connectors.runtime.shutdown import Shutdown
from connectors.state.audit import verify
from flows.commands.check import check_online
from flows.commands.replay import replay
from flows.commands.run import run_live
from flows.settings.loading import parse_settings
from flows.settings.models import Settings
from flows.state import StateLayout
from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, environ
from tests.support.cli import running as running_command
from tests.support.notification_recordings import CALL, DATA, OTHER_CALL, RECORDINGS, START, lines

LATENCY, LOSS = "LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED"


def replayed(path: Path, out: Path, settings: Settings | None = None) -> tuple[Any, list[Any], list[Any]]:
    """The counts, the windows and the alerts of a recording."""
    result = replay([path], out, settings=settings, environ={}, speed=None, deliver=False, stop=threading.Event())
    assert (out / "rejected.jsonl").read_bytes() == b""
    windows = [json.loads(line) for line in (out / "windows.jsonl").read_bytes().splitlines()]
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_bytes().splitlines()]
    return result.counts, windows, alerts


def latencies(windows: list[Any], call: str) -> list[Any]:
    """Of each window of a call: start, frames, frames with a latency, the largest latency."""
    rows = [(window, window["latency_ms"] or {}) for window in windows if window["conversation_id"] == call]
    return [
        (window["start"] - START, window["frames"], latency.get("count", 0), latency.get("max"))
        for window, latency in rows
    ]


def told(alerts: list[Any]) -> list[Any]:
    """What alerts say, with times since the start."""
    return [
        (
            alert["conversationId"],
            alert["alertType"],
            alert["state"],
            alert["reason"],
            alert["metricValue"],
            round(alert["timestamp"] - START, 3),
        )
        for alert in alerts
    ]


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_are_as_made(name: str) -> None:
    """The recordings in the repository are those that the code makes."""
    assert (DATA / name).read_bytes() == lines(name)


def test_a_recorded_journal(tmp_path: Path) -> None:
    """A bad spell, the media of an enriched end, snapshots without latency; what is of no use is not rejected."""
    counts, windows, alerts = replayed(DATA / "notifications.jsonl", tmp_path)
    assert (counts.frames, counts.unwatched, counts.invalid, counts.rejected, counts.conversations) == (63, 2, 0, 0, 2)
    assert latencies(windows, OTHER_CALL) == [(0, 5, 0, None), (5, 10, 0, None), (10, 6, 0, None), (15, 1, 0, None)]
    assert latencies(windows, CALL) == [
        (-5, 6, 5, 200.0),
        (0, 11, 10, 200.0),
        (5, 10, 10, 200.0),
        (10, 10, 10, 200.0),
        (15, 10, 10, 450.0),
        (20, 10, 10, 450.0),
        (25, 10, 10, 200.0),
        (30, 10, 10, 200.0),
        (35, 10, 10, 200.0),
        (40, 7, 6, 200.0),
        (45, 2, 1, 200.0),
        (50, 2, 0, None),
        (55, 2, 0, None),
    ]
    assert windows[-1]["packet_loss"] is None  # Genesys' figures are the leg's
    [leg] = windows[-1]["legs"]
    assert leg["packet_loss"] == {"count": 2, "mean": 0.025, "max": 0.05}
    assert leg["latency_ms"] == {"count": 2, "min": 40.0, "mean": 80.0, "max": 120.0}
    assert told(alerts) == [
        (CALL, LATENCY, "raised", None, 450.0, 20.25),
        (CALL, LATENCY, "resolved", "recovered", 200.0, 32.25),
        (CALL, LOSS, "raised", None, 0.05, 55.25),
        (CALL, LOSS, "resolved", "ended", 0.05, 55.25),
    ]


def test_captured_eventbridge_records(tmp_path: Path) -> None:
    """A file of EventBridge records replays as it is, once the configuration says what to watch."""
    settings = parse_settings({"alerts": {"unwatched": "default"}, "defaults": {"max_latency_ms": 300}}, "test")
    counts, windows, alerts = replayed(DATA / "eventbridge.jsonl", tmp_path, settings)
    assert (counts.frames, counts.unwatched, counts.rejected, counts.conversations) == (14, 1, 0, 2)
    assert latencies(windows, CALL) == [
        (-5, 3, 3, 238.0),
        (0, 5, 5, 238.0),
        (5, 5, 5, 700.0),
        (10, 5, 5, 700.0),
        (15, 4, 4, 238.0),
        (20, 2, 2, 238.0),
    ]
    assert latencies(windows, OTHER_CALL) == [(20, 1, 1, 300.0), (25, 1, 1, 300.0)]
    assert told(alerts) == [
        (CALL, LATENCY, "raised", None, 700.0, 12.7),
        (CALL, LATENCY, "resolved", "ended", 238.0, 22.238),
    ]


def test_a_live_run(tmp_path: Path) -> None:
    """A configuration of two named feeds runs without interceptors; its journal replays to the same windows."""
    with running(NotificationsSimulator(conversations=3, rate=20, seed=7)) as simulator:
        settings = parse_settings(
            {
                "genesys": {"base_url": simulator.base_url},
                "windows": {"length_s": 2, "slide_s": 1},
                "state": {"dir": str(tmp_path / "state")},
                "feed": [
                    {
                        "kind": "notifications",
                        "name": "queues",
                        "queues": [QUEUE_ID],
                        "enrich": True,
                        "defaults": {"max_latency_ms": 450},
                    },
                    {
                        "kind": "notifications",
                        "name": "calls",
                        "conversations": conversation_ids(7, 3),
                        "defaults": {"max_latency_ms": 60},
                    },
                ],
            },
            "test",
        )
        assert check_online(settings, environ({})) == ("online: token received, 1 queue(s) and user(s) found", [])
        shutdown = Shutdown()
        stopper = threading.Thread(target=_stop_after, args=(simulator, 120, shutdown))
        stopper.start()
        counts = run_live(settings, environ({}), shutdown, on_bootstrap=lambda _: pytest.fail("no bootstrap"))
        stopper.join()
    state = StateLayout(tmp_path / "state")
    records = [json.loads(line) for path in segments(state.journal) for line in path.read_bytes().splitlines()]
    assert counts.frames >= 90
    assert counts.rejected == counts.invalid == 0
    assert {record["via"] for record in records if "frame" in record} == {"queues", "calls"}
    feeds = [record["feed"] for record in records if "feed" in record]
    assert {(feed["name"], feed["state"]) for feed in feeds} == {
        (n, s) for n in ("queues", "calls") for s in ("up", "down")
    }
    watches: dict[str, dict[str, Any]] = {}
    for watch in (record["watch"] for record in records if "watch" in record):
        # A later record of the same conversation adds labels and leaves its limits as they are.
        watches[watch["conversation_id"]] = watches.get(watch["conversation_id"], {}) | watch
    assert len(watches) == 3
    assert all(watch["max_latency_ms"] == {"queues": 450, "calls": 60}[watch["feed"]] for watch in watches.values())
    audit = [json.loads(line) for line in state.audit.read_bytes().splitlines()]
    assert {(line["action"], line["feed"]) for line in audit if line["action"] == "FEED_UP"} == {
        ("FEED_UP", "queues"),
        ("FEED_UP", "calls"),
    }
    assert verify(state.audit).ok
    assert state.enrichment("queues").exists()
    assert not state.enrichment("calls").exists()
    assert not state.interceptors.exists()
    out = tmp_path / "out"
    replay(segments(state.journal), out, settings=None, environ={}, speed=None, deliver=False, stop=threading.Event())
    end = max(record["received_at"] for record in records)
    again = [line for line in (out / "windows.jsonl").read_bytes().splitlines() if json.loads(line)["end"] <= end]
    assert state.windows.read_bytes().splitlines() == again
    assert state.alerts.read_bytes() == (out / "alerts.jsonl").read_bytes()


def test_the_simulator_on_the_command_line(tmp_path: Path) -> None:
    """`voicewatch simulate --kind notifications` offers channels."""
    with running_command(tmp_path, "simulate", "--kind", "notifications", "--rate", "5") as process:
        eventually(lambda: process.output.endswith("\n"), DEADLINE_S)
        base_url = json.loads(process.output)["base_url"]
        token = httpx.post(
            f"{base_url}/oauth/token", data={"grant_type": "client_credentials"}, auth=("id", "secret")
        ).json()["access_token"]
        created = httpx.post(
            f"{base_url}/api/v2/notifications/channels", headers={"authorization": f"Bearer {token}"}
        ).json()
        assert process.stop() == 0
    assert created["connectUri"] == f"ws{base_url.removeprefix('http')}/channels/{created['id']}"


def _stop_after(simulator: NotificationsSimulator, frames: int, shutdown: Shutdown) -> None:
    try:
        simulator.wait_for(lambda s: s.frames_sent >= frames, 60)
    finally:
        shutdown.requested.set()
