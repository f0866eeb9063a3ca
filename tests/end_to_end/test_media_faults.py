"""Faults of the media that the simulator plays, found by the sweep and by media statistics, and judged by the rules."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from connectors.genesys.client import RequestBudget
from connectors.genesys.simulator.faults import parse_faults
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from flows.analytics.precedence import Overrides
from tests.connectors.genesys.feeds.notifications.test_statistics import polling
from tests.connectors.genesys.feeds.notifications.test_sweep import NOW, ends, sweeping
from tests.support.recordings import Replayed, replay_blocks
from tests.support.tape import Tape

PLAYED_S = 400
FAULTS = """
[[fault]]
on = "edge"
name = "edge-frankfurt-1"
do = "low-mos"
mos = 2.82

[[fault]]
on = "edge"
name = "edge-frankfurt-2"
do = "codec"

[[fault]]
on = "edge"
name = "edge-dublin-1"
do = "one-way-loss"
loss = 0.05
"""


def played(simulator: NotificationsSimulator) -> None:
    """Let the calls of some minutes happen at once."""
    rate, calls = 1, 6
    for _ in itertools.islice(simulator.traffic.frames(NOW), PLAYED_S * rate * calls):
        pass


def judged(tape: Tape) -> Replayed:
    """Replay what a worker recorded, a record a second, in pieces with a restart behind each."""
    lines = [
        json.dumps({"received_at": NOW + number, kind: record}).encode()
        for number, (kind, record) in enumerate(tape.records)
        if kind in ("watch", "frame")
    ]
    cuts = [[line] for line in lines]
    settings = Overrides({"alerts": {"genesys_mos_below": 3.5}})
    return replay_blocks(cuts, 3, settings, frozenset(range(len(cuts))))


def legs_of(found: Replayed) -> list[tuple[str, dict[str, Any]]]:
    """Return the legs of all windows, each with the edge of its conversation."""
    return [(window["labels"]["edge"], leg) for window in found.windows for leg in window.get("legs", [])]


def test_the_sweep_finds_the_faults_of_each_edge(tmp_path: Path) -> None:
    """One edge has a low MOS although packets are well, one another codec, one loses packets to the agents only."""
    options: dict[str, Any] = {"conversations": 6, "rate": 1, "now": lambda: NOW + PLAYED_S, "analytics_after_s": 0.0}
    tape = Tape()
    with running(NotificationsSimulator(faults=parse_faults(FAULTS), **options)) as simulator:
        played(simulator)
        over = {call.id: call.story.edge.name for call in simulator.traffic.book.calls if call.ended_at is not None}
        names = {edge.id: edge.name for edge in simulator.traffic.book.organisation.edges}
        with sweeping(simulator, tape, tmp_path / "sweep.sqlite3", now=lambda: NOW + PLAYED_S):
            tape.wait_for(lambda tape: len(ends(tape)) == len(over))
    assert set(over.values()) == {"edge-frankfurt-1", "edge-frankfurt-2", "edge-dublin-1"}
    found = judged(tape)
    alerts = [json.loads(alert.body) for alert in found.alerts]
    low = {over[alert["conversationId"]] for alert in alerts if alert["alertType"] == "LOW_MOS"}
    lossy = {over[alert["conversationId"]] for alert in alerts if alert["alertType"] == "PACKET_LOSS_DETECTED"}
    assert (low, lossy) == ({"edge-frankfurt-1"}, {"edge-dublin-1"})
    legs = [(names.get(edge, edge), leg) for edge, leg in legs_of(found)]
    assert {leg["genesys_mos"]["min"] for edge, leg in legs if edge == "edge-frankfurt-1"} == {2.82}
    codecs = {(edge, tuple(leg["codecs"])) for edge, leg in legs if leg["purpose"] == "agent"}
    assert ("edge-frankfurt-2", ("audio/G729", "audio/opus")) in codecs
    assert ("edge-frankfurt-1", ("audio/opus",)) in codecs
    loss = {leg["purpose"] for edge, leg in legs if leg["packet_loss"] and leg["packet_loss"]["max"] > 0.03}
    assert loss == {"agent"}


def test_media_statistics_tell_which_direction_loses_packets() -> None:
    """The agent's softphone receives fewer packets than the server sends; the server receives all."""
    tape, clock = Tape(), itertools.count(NOW + 10.0, 10.0)
    faults = parse_faults('[[fault]]\non = "edge"\nname = "edge-dublin-1"\ndo = "one-way-loss"\nloss = 0.2')
    simulator = NotificationsSimulator(conversations=6, rate=1, faults=faults, now=lambda: next(clock))
    with running(simulator):
        for _ in itertools.islice(simulator.traffic.frames(NOW), 6):
            pass
        calls = [call for call in simulator.traffic.book.calls if call.story.edge.name == "edge-dublin-1"]
        for call in calls:
            tape.watch({"conversation_id": call.id, "feed": "calls"})
        with polling(simulator, tape, RequestBudget(100_000)):
            tape.wait_for(lambda tape: {source(one) for one in tape.of("frame")} >= {"client", "server"})
    received = {"client": 0, "server": 0}
    sent = dict(received)
    for one in tape.of("frame"):
        received[source(one)] += one["mediaStatistics"]["packetsReceived"]
        sent[source(one)] += one["mediaStatistics"]["packetsSent"]
    assert received["client"] == pytest.approx(sent["client"] * 0.8, rel=0.01)
    assert received["server"] == sent["server"] > 0


def source(record: dict[str, Any]) -> str:
    return str(record["source"])
