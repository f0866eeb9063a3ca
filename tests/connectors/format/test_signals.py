"""Signals: what messages report that no packet shows, and their place among the frames of a block."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.format.decode import decode_block
from connectors.format.privacy import redacted
from connectors.format.records import SIGNAL
from connectors.format.signals import Signal, signals_of

CODE = "error.ininedgecontrol.connection.webrtc.endpoint.disconnect.iceIdleDetection"


def snapshot(*participants: dict[str, Any], conversation_id: str = "c") -> dict[str, Any]:
    return {
        "topicName": "v2.users.u.conversations.calls",
        "eventBody": {"id": conversation_id, "participants": list(participants)},
    }


def failed_leg(**more: Any) -> dict[str, Any]:
    leg = {"id": "p", "purpose": "agent", "state": "terminated", "endTime": "2026-05-05T09:03:00Z"}
    return {**leg, "user": {"id": "u"}, **more}


def operational(**more: Any) -> dict[str, Any]:
    body = {"id": "e", "eventEntity": {"id": "AUDIOHOOK-0001", "description": "The URI is invalid."}, **more}
    return {"topicName": "v2.operations.events.o", "eventBody": body}


def trunk(mismatches: Any) -> dict[str, Any]:
    body = {"trunk": {"id": "t"}, "qos": {"mismatchCount": mismatches}}
    return {"topicName": "v2.telephony.providers.edges.trunks.t.metrics", "eventBody": body}


def edge(**body: Any) -> dict[str, Any]:
    return {"topicName": "v2.telephony.providers.edges.g", "eventBody": body}


def media(**stats: Any) -> dict[str, Any]:
    return {"conversationId": "c", "participantId": "p", "sessionId": "s", "mediaEndpointStats": stats}


@pytest.mark.parametrize(
    ("message", "rule", "value", "evidence"),
    [
        (snapshot(failed_leg(errorInfo={"code": CODE})), "CALL_FAILED", None, {"code": CODE, "disconnectType": None}),
        (
            snapshot(failed_leg(disconnectType="transport.failure")),
            "CALL_FAILED",
            None,
            {"code": None, "disconnectType": "transport.failure"},
        ),
        (operational(entityId="i", entityType="integration"), "PLATFORM_EVENT", None, {"event": "AUDIOHOOK-0001"}),
        (trunk(7), "PLATFORM_EVENT", 7.0, {"entityType": "trunk", "entityId": "t"}),
        (
            edge(id="g", onlineStatus="OFFLINE", name="Edge of A. Person"),
            "PLATFORM_EVENT",
            None,
            {"event": "edge.onlineStatus", "status": "OFFLINE", "entityId": "g", "entityType": "edge"},
        ),
        (media(minMos=2.82), "LOW_MOS", 2.82, {"scale": "genesys-5", "sessionId": "s"}),
        (media(receivedPackets=50, discardedPackets=2), "PACKET_LOSS_DETECTED", 0.04, {"discardedPackets": 2.0}),
        (media(maxLatencyMs=230), "LATENCY_THRESHOLD_EXCEEDED", 230.0, {"sessionId": "s"}),
    ],
)
def test_what_messages_report(
    message: dict[str, Any], rule: str, value: float | None, evidence: dict[str, Any]
) -> None:
    """Each kind of message gives one signal, as it is and with its personal data removed."""
    [signal] = signals_of(message)
    assert (signal.rule, signal.value) == (rule, value)
    assert evidence.items() <= signal.evidence.items()
    if "topicName" in message:
        assert signals_of(redacted(message)) == [signal]


@pytest.mark.parametrize(
    "message",
    [
        snapshot(failed_leg(disconnectType="peer")),
        snapshot(failed_leg(errorInfo={"code": ""})),
        snapshot(failed_leg(errorInfo=None, disconnectType=None)),
        operational(eventEntity=None),
        edge(id="g", onlineStatus="OUTDATED"),
        edge(id=7, onlineStatus="OFFLINE"),
        trunk(None),
        trunk("7"),
        media(minMos=4.882, receivedPackets=0),
        media(receivedPackets="10"),
        {**media(), "mediaEndpointStats": None},
        {"topicName": "v2.detail.events.conversation.c.user.end", "eventBody": {"conversationId": "c"}},
        {"topicName": 5, "eventBody": 5},
    ],
)
def test_what_reports_nothing(message: dict[str, Any]) -> None:
    """Ordinary ends, legs without a packet, missing and strange values."""
    assert signals_of(message) == []


def test_the_same_failure_has_one_key() -> None:
    """The snapshot, its repetition and the analytics metric tell of one failure of one agent."""
    metric = {"conversationId": "c", "errorCode": CODE, "userId": "u", "disconnectType": "error", "edgeId": "e"}
    topic = "v2.analytics.conversation.c.metrics"
    [first] = signals_of(snapshot(failed_leg(errorInfo={"code": CODE}, disconnectType="transport.failure")))
    [second] = signals_of({"topicName": topic, "eventBody": metric})
    assert first.key == second.key
    assert (first.labels, second.labels) == ({"agent": "u"}, {"edge": "e", "agent": "u"})


def test_a_signal_is_placed_while_its_conversation_is_watched() -> None:
    """It comes before the frame that ends the conversation, and behind any other frame of its message."""
    alive = {"id": "q", "purpose": "customer", "state": "connected"}
    messages = [snapshot(failed_leg(errorInfo={"code": CODE}), alive), snapshot(failed_leg(errorInfo={"code": CODE}))]
    messages[1]["over"] = True
    messages.append(operational())
    data = b"".join(json.dumps({"received_at": 5.0, "frame": message}).encode() + b"\n" for message in messages)
    decoded = decode_block(data)
    assert decoded.ended.tolist() == [False, True]
    assert [control.kind for control in decoded.controls] == [SIGNAL] * 3
    assert [control.frames_before for control in decoded.controls] == [1, 1, 2]
    assert all(isinstance(control.value, Signal) for control in decoded.controls)
