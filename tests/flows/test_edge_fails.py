"""One of three edges fails: one incident of a group, its conversations inhibited, by whatever the recording is run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.receiver import CallbackReceiver
from connectors.genesys.simulator.voice_events import running_simulator
from tests.flows.commands.test_cluster import children
from tests.flows.test_dataflow import CutSource, cut, two_workers
from tests.flows.test_group_flow import RESULTS, executed
from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, several
from tests.support.edge_recording import CALLS, RECORDING, START, edge_fails
from tests.support.live import Live, feed_is_up

RAISED, RESOLVED = "raised", "resolved"
ALERTS = [
    (12.0625, "call-01", RAISED, False),
    (15.25, "call-04", RAISED, False),
    (20.0, None, RAISED, False),
    (21.4375, "call-07", RAISED, True),
    (23.625, "call-10", RAISED, True),
    (30.0, "call-00", RAISED, False),
    (35.0, "call-00", RESOLVED, False),
    (44.0625, "call-01", RESOLVED, True),
    (44.25, "call-04", RESOLVED, True),
    (44.4375, "call-07", RESOLVED, True),
    (44.625, "call-10", RESOLVED, True),
    (50.0, None, RESOLVED, False),
]
"""Time, conversation, state, and whether the group's incident inhibits it."""
BREACHING = {15: 1, 20: 2, 25: 4, 30: 4, 35: 4, 40: 4, 45: 4}
"""The breaching conversations of edge-b, by the end of the window."""
NOT_SENT = {"call-07", "call-10"}
"""Whose raised alert came after the group's; the resolve of an alert that was sent is sent."""


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command `replay` makes of the recording, by one process and by two."""
    outs = [tmp_path_factory.mktemp(f"by-{count}") for count in (1, 2)]
    done = several([["replay", RECORDING, "--out", out, "--processes", 1 + at] for at, out in enumerate(outs)])
    assert [one.returncode for one in done] == [0, 0], done
    one, two = ({name: (out / f"{name}.jsonl").read_bytes() for name in RESULTS} for out in outs)
    assert one == two
    return one


def told(alerts: bytes) -> list[tuple[float, Any, str, bool]]:
    """The alerts as `ALERTS` has them, whose marks all name the one incident of a group."""
    bodies = [json.loads(line) for line in alerts.splitlines()]
    [incident] = {one["incidentId"] for one in bodies if one["alertType"] == "GROUP_DEGRADED"}
    assert {one["inhibitedBy"] for one in bodies if "inhibitedBy" in one} == {incident}
    return [(one["timestamp"] - START, one["conversationId"], one["state"], "inhibitedBy" in one) for one in bodies]


def test_the_recording_is_what_its_code_makes() -> None:
    """Every byte of it."""
    assert RECORDING.read_bytes() == edge_fails()


def test_a_replay_shows_one_incident_and_the_calls_that_it_inhibits(replayed: dict[str, bytes]) -> None:
    """The shares of each window end, the incident at the end with half of the calls, six alerts inhibited."""
    assert told(replayed["alerts"]) == ALERTS
    lines = [json.loads(line) for line in replayed["groups"].splitlines()]
    assert all(line["conversations"] == 4 for line in lines)
    bad = {line["end"] - START: line["breaching"] for line in lines if line["group"] == {"edge": "edge-b"}}
    assert {end: count for end, count in bad.items() if count} == BREACHING
    degraded = [json.loads(line) for line in replayed["alerts"].splitlines() if b"GROUP_DEGRADED" in line]
    assert [(one["group"], one["conversations"], one["breaching"], one["metricValue"]) for one in degraded] == [
        ({"edge": "edge-b"}, 4, 2, 0.5),
        ({"edge": "edge-b"}, 4, 0, 0.0),
    ]


def test_crashes_and_two_workers_change_nothing(tmp_path: Path, replayed: dict[str, bytes]) -> None:
    """The same bytes when the dataflow fails in the middle of the incident, again and again."""
    blocks = cut(RECORDING.read_bytes().splitlines(keepends=True), range(0, 720, 40))
    crashes = [CutSource(blocks, until, crash=True) for until in (4, 7, 8, 13)]
    assert executed(tmp_path, [*crashes, CutSource(blocks)], two_workers) == [replayed[name] for name in RESULTS]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_live_run_that_is_killed_shows_the_same(tmp_path: Path, processes: int, replayed: dict[str, bytes]) -> None:
    """The journal holds the recording. After kill -9 nothing is repeated, and what is inhibited is not sent."""
    with running_simulator(conversations=1) as simulator, CallbackReceiver() as receiver:
        live = Live(tmp_path, simulator.base_url, receiver.url, conversations=1)
        live.state.journal.mkdir(mode=0o700, parents=True)
        ours = RECORDING.read_bytes().replace(b"https://qa.example.com/alerts", f"{receiver.url}/alerts".encode())
        (live.state.journal / f"{1:08}.jsonl").write_bytes(ours)
        if processes == 1:
            with live.running("run", "--no-bootstrap") as process:
                eventually(lambda: bool(alerts_in(live)), DEADLINE_S)
                assert process.stop(signal.SIGKILL) == -signal.SIGKILL, process.log
        command = ("run", "--no-bootstrap") if processes == 1 else ("cluster", "--processes", "2")
        with live.running(*command) as process:
            if processes == 2:
                eventually(lambda: bool(alerts_in(live)), DEADLINE_S)
                os.kill(children(process.process.pid)[0], signal.SIGKILL)
                process.wait_for_log("cluster_process_died")
            feed_is_up(simulator)
            eventually(lambda: len(alerts_in(live)) >= len(ALERTS), DEADLINE_S)
            eventually(lambda: {one.id for one in receiver.received} >= to_be_sent(live), DEADLINE_S)
            assert process.stop() == 0, process.log
        received = {one.id for one in receiver.received}
    live.assert_equals_its_replay()
    live.assert_audit_is_intact()
    audited = [json.loads(line) for line in live.state.audit.read_bytes().splitlines()]
    silent = [one["conversation"] for one in audited if one["action"] == "WATCH_ENDED"]  # months have passed
    assert sorted(silent) == [f"call-{number:02}" for number in range(CALLS)]
    assert told(b"".join(alerts_in(live))) == ALERTS
    assert live.state.groups.read_bytes() == replayed["groups"]
    ids = {json.loads(line)["alertId"] for line in alerts_in(live)}
    assert received & ids == to_be_sent(live)


def alerts_in(live: Live) -> list[bytes]:
    """The alerts of the recording that a run has written, without those of its own calls."""
    path = live.state.alerts
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n") and json.loads(line)["timestamp"] < START + 100]


def to_be_sent(live: Live) -> set[str]:
    """The ids of the recording's alerts that a receiver is to get; the group's own have no URL."""
    alerts = map(json.loads, alerts_in(live))
    return {one["alertId"] for one in alerts if one["conversationId"] not in {None, *NOT_SENT}}
