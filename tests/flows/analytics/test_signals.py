"""Signals raise one alert each, whatever the cut, the shards and the stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.analytics.precedence import Overrides
from tests.support.recordings import blocks_of, replay_blocks
from tests.support.replay_groups import replay_groups

CODE = "error.ininedgecontrol.connection.webrtc.endpoint.disconnect.iceIdleDetection"
SETTINGS = {
    "alerts": {
        "mos_below": 3.5,
        "genesys_mos_below": 4.0,
        "trunk_mismatch_above": 5,
        "platform_callback_url": "https://qa.example.com/platform",
    }
}


def record(at: float, **keys: Any) -> bytes:
    return json.dumps({"received_at": at, **keys}).encode()


def watch(at: float, conversation_id: str = "c", **labels: str) -> bytes:
    url = "https://qa.example.com/alerts"
    value = {"conversation_id": conversation_id, "leg_id": "leg", "qa_callback_url": url, "labels": labels}
    return record(at, watch=value)


def failure(at: float, *, conversation_id: str = "c", state: str = "terminated", over: bool = False) -> bytes:
    leg = {"id": "p", "purpose": "agent", "state": state, "user": {"id": "u"}, "errorInfo": {"code": CODE}}
    body = {"id": conversation_id, "participants": [leg, {"id": "q", "purpose": "customer", "state": "connected"}]}
    message: dict[str, Any] = {"topicName": "v2.users.u.conversations.calls", "eventBody": body}
    return record(at, frame={**message, **({"over": True} if over else {})})


def mos(at: float, value: float, session: str = "s") -> bytes:
    stats = {"minMos": value, "receivedPackets": 100}
    leg = {"conversationId": "c", "participantId": "p", "sessionId": session, "mediaEndpointStats": stats}
    return record(at, frame=leg)


def loss(at: float, discarded: int, session: str) -> bytes:
    stats = {"receivedPackets": 100, "discardedPackets": discarded}
    leg = {"conversationId": "c", "participantId": "p", "sessionId": session, "mediaEndpointStats": stats}
    return record(at, frame=leg)


def platform(at: float, event: str = "e1") -> bytes:
    body = {"id": event, "eventEntity": {"id": "AUDIOHOOK-0001"}, "entityId": "i"}
    return record(at, frame={"topicName": "v2.operations.events.o", "eventBody": body})


def trunk(at: float, mismatches: int) -> bytes:
    body = {"trunk": {"id": "t"}, "qos": {"mismatchCount": mismatches}}
    return record(at, frame={"topicName": "v2.telephony.providers.edges.trunks.t.metrics", "eventBody": body})


def edge(at: float, status: str, edge_id: str = "g") -> bytes:
    body = {"id": edge_id, "onlineStatus": status}
    return record(at, frame={"topicName": f"v2.telephony.providers.edges.{edge_id}", "eventBody": body})


def audio(at: float, state: str, rule: str = "ONE_WAY_AUDIO", conversation_id: str = "c") -> bytes:
    level = {"session": "s", "rule": rule, "channel": "internal", "state": state, "dbfs": -70, "limit": -60}
    return record(at, frame={"conversationId": conversation_id, "audioLevel": level})


def frame(at: float, event: str = "conversation.updated", conversation_id: str = "c") -> bytes:
    return record(at, frame={"event": event, "entity": {"id": conversation_id}, "timestamp": at})


def alerts_of(*lines: bytes, overrides: Overrides | None = None) -> list[dict[str, Any]]:
    found = replay_blocks([list(lines)], 3, overrides or Overrides(SETTINGS)).alerts
    return [json.loads(alert.body) for alert in found]


def test_a_failed_leg_raises_one_alert_with_its_agent() -> None:
    """The code is evidence, the agent a label, and a repeated message raises nothing."""
    alerts = alerts_of(watch(1, queue="support"), frame(2), failure(3), failure(4), failure(5, over=True))
    [alert] = alerts
    assert (alert["alertType"], alert["state"], alert["timestamp"]) == ("CALL_FAILED", "raised", 3.0)
    assert alert["evidence"] == {"code": CODE, "disconnectType": None}
    assert alert["labels"] == {"agent": "u", "queue": "support"}
    assert (alert["metricValue"], alert["threshold"], alert["legId"]) == (None, None, "p")


def test_a_failure_that_ends_the_conversation_counts() -> None:
    """The message that ends the watch raises its alert first."""
    [alert] = alerts_of(watch(1), frame(2), failure(3, over=True))
    assert alert["alertType"] == "CALL_FAILED"


def test_a_later_watch_of_the_conversation_is_another_one() -> None:
    """After its end and a new watch, the same failure raises an alert of its own, with another id."""
    lines = [watch(1), failure(3), frame(4, "conversation.ended"), record(40, tick=True), watch(41), failure(43)]
    alerts = alerts_of(*lines)
    assert [alert["timestamp"] for alert in alerts] == [3.0, 43.0]
    assert len({alert["alertId"] for alert in alerts}) == 2


def test_unwatched_conversations_raise_nothing() -> None:
    """Neither before their watch nor after their end."""
    ended = [watch(1, "d"), frame(2, "conversation.ended", "d"), failure(3, conversation_id="d")]
    assert alerts_of(failure(0), *ended) == []


def test_genesys_mos_is_held_to_its_own_limit_for_each_leg() -> None:
    """The value below `genesys_mos_below` raises LOW_MOS with its scale; legs are distinguished."""
    alerts = alerts_of(watch(1), frame(2), mos(3, 4.0), mos(4, 3.99), mos(5, 2.82, "t"))
    assert [(alert["metricValue"], alert["threshold"]) for alert in alerts] == [(3.99, 4.0), (2.82, 4.0)]
    assert {alert["evidence"]["scale"] for alert in alerts} == {"genesys-5"}
    assert [alert["evidence"]["sessionId"] for alert in alerts] == ["s", "t"]


@pytest.mark.parametrize(
    ("limits", "raised"),
    [({}, 0), ({"mos_below": 3.5}, 1), ({"mos_below": 2.5}, 0), ({"mos_below": 2.5, "genesys_mos_below": 3}, 1)],
)
def test_without_a_limit_of_its_own_that_of_the_model_holds(limits: dict[str, float], raised: int) -> None:
    """`mos_below` stands in for `genesys_mos_below`; without both the rule is off."""
    assert len(alerts_of(watch(1), mos(3, 2.82), overrides=Overrides({"alerts": limits}))) == raised


def test_platform_events_belong_to_no_conversation() -> None:
    """Each raises one alert, which goes to its own address; a trunk's mismatches are held to their limit."""
    lines = [platform(1), platform(2), platform(3, "e2"), trunk(4, 5), trunk(5, 6)]
    found = replay_blocks([lines], 3, Overrides(SETTINGS)).alerts
    alerts = [json.loads(alert.body) for alert in found]
    assert [alert["alertType"] for alert in alerts] == ["PLATFORM_EVENT"] * 3
    assert [alert["conversationId"] for alert in alerts] == [None] * 3
    assert (alerts[2]["metricValue"], alerts[2]["threshold"], alerts[2]["labels"]) == (6.0, 5.0, {"trunk": "t"})
    assert {alert.url for alert in found} == {"https://qa.example.com/platform"}


def groups_of(lines: list[bytes], cuts: list[int], shards: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the lines of groups and their alerts, with a stop at each cut."""
    blocks = blocks_of(lines, cuts)
    found, alerts = replay_groups(blocks, shards, frozenset(range(len(blocks))))
    bodies = [json.loads(alert.body) for alert in alerts if alert.rule == "GROUP_DEGRADED"]
    return [json.loads(line) for line in found], bodies


@pytest.mark.parametrize("rule", ["ONE_WAY_AUDIO", "DEAD_AIR"])
@pytest.mark.parametrize("policy", ["incident", "frame"])
@pytest.mark.parametrize("shards", [1, 4])
def test_an_open_fault_of_the_audio_makes_its_conversation_a_breaching_one(rule: str, policy: str, shards: int) -> None:
    """From the end after it is raised until that after it is resolved, or its conversation ends, however cut."""
    ids = [f"c{number}" for number in range(6)]
    groups = {"by": ["edge"], "clear_after_s": 0}
    lines = [record(0.0, settings={"groups": groups, "alerts": {"policy": policy}})]
    lines += [watch(0.0, one, edge="e") for one in ids]
    for at in range(1, 40):
        time = float(at)
        last = "conversation.ended" if at == 33 else "conversation.updated"
        lines += [frame(time, last if one == "c1" else "conversation.updated", one) for one in ids]
        if time == 12:
            lines += [audio(time, "raised", rule, one) for one in ("c0", "c0", "c1", "c1")]  # twice is once
        if time == 27:
            lines.append(audio(time, "resolved", rule, "c0"))
    lines.append(record(60.0, tick=True))
    whole, alerts = groups_of(lines, [], shards)
    assert {one["end"]: one["breaching"] for one in whole} == {
        end: {15.0: 2, 20.0: 2, 25.0: 2, 30.0: 1}.get(end, 0) for end in map(float, range(5, 50, 5))
    }
    assert [(one["state"], one["timestamp"]) for one in alerts] == [("raised", 15.0), ("resolved", 35.0)]
    assert groups_of(lines, list(range(0, len(lines), 7)), shards) == (whole, alerts)


def test_an_edge_that_is_offline_is_an_incident_until_it_is_online() -> None:
    """A repeated status changes nothing; each time offline is an incident of its own, with the label `edge`."""
    lines = [edge(1, "ONLINE"), edge(2, "OFFLINE"), edge(3, "OFFLINE"), edge(4, "OFFLINE", "h"), edge(5, "ONLINE")]
    alerts = alerts_of(*lines, edge(6, "OFFLINE"))
    assert [(alert["timestamp"], alert["state"], alert["reason"]) for alert in alerts] == [
        (2.0, "raised", None),
        (4.0, "raised", None),
        (5.0, "resolved", "recovered"),
        (6.0, "raised", None),
    ]
    assert [alert["labels"]["edge"] for alert in alerts] == ["g", "h", "g", "g"]
    first, other, resolved, again = (alert["incidentId"] for alert in alerts)
    assert first == resolved
    assert len({first, other, again}) == 3
    assert alerts[0]["evidence"] == {
        "event": "edge.onlineStatus",
        "status": "OFFLINE",
        "entityId": "g",
        "entityType": "edge",
    }


def test_a_trunk_is_an_incident_while_its_mismatches_are_above_the_limit() -> None:
    """With a limit of 5 it is raised by 6, resolved at 4.5 or below, and raised again: the documentation's example."""
    alerts = alerts_of(*(trunk(at, count) for at, count in enumerate([5, 6, 9, 5, 4, 0, 7])))
    assert [(alert["state"], alert["metricValue"], alert["timestamp"]) for alert in alerts] == [
        ("raised", 6.0, 1.0),
        ("resolved", 4.0, 4.0),
        ("raised", 7.0, 6.0),
    ]


def test_a_trunk_whose_limit_is_taken_away_is_resolved_by_its_next_metrics() -> None:
    """Settings that change while the incident is open do not leave it open without end."""
    lines = [record(at, settings={"alerts": limits}) for at, limits in ((0, {"trunk_mismatch_above": 5}), (2, {}))]
    found = replay_blocks([[lines[0], trunk(1, 6), lines[1], trunk(3, 9)]], 3).alerts
    alerts = [json.loads(alert.body) for alert in found]
    assert [(alert["state"], alert["threshold"]) for alert in alerts] == [("raised", 5.0), ("resolved", None)]


MESSAGES = st.sampled_from(
    [
        *("watch", "failure", "over", "mos", "loss", "platform", "trunk", "edge", "frame", "ended", "tick", "late"),
        *("silent", "loud"),
    ]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(MESSAGES, max_size=25), st.lists(st.integers(0, 25), max_size=5), st.sampled_from([1, 3, 4]))
def test_cuts_shards_and_stops_change_nothing(kinds: list[str], cuts: list[int], shards: int) -> None:
    """The alerts of any recording are those of one block in one shard, with the same ids, in the same order."""
    make: dict[str, Callable[[float], Any]] = {
        "watch": watch,
        "failure": failure,
        "over": lambda at: failure(at, over=True),
        "mos": lambda at: mos(at, 3 + at % 2, f"s{int(at) % 3}"),
        "loss": lambda at: loss(at, int(at) % 4, f"s{int(at) % 3}"),
        "platform": lambda at: platform(at, f"e{int(at) % 3}"),
        "trunk": lambda at: trunk(at, int(at) % 9),
        "edge": lambda at: edge(at, "OFFLINE" if int(at) % 2 else "ONLINE"),
        "frame": frame,
        "ended": lambda at: frame(at, "conversation.ended"),
        "silent": lambda at: audio(at, "raised"),
        "loud": lambda at: audio(at, "resolved"),
        "tick": lambda at: record(at, tick=True),
    }
    at, lines = 0.0, []
    for kind in kinds:
        at += 30 if kind == "late" else 1.5
        if kind != "late":
            lines.append(make[kind](at))
    overrides = Overrides(SETTINGS)
    whole = replay_blocks([lines], 1, overrides).alerts
    blocks = blocks_of(lines, [min(place, len(lines)) for place in cuts])
    parts = replay_blocks(blocks, shards, overrides, frozenset(range(len(blocks)))).alerts
    assert [alert.body for alert in parts] == [alert.body for alert in whole]
