"""What notifications, EventBridge records and media records amount to, and how journals and captures of them replay."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from connectors.format.decode import decode_block, ended_conversation
from connectors.format.media import LegMedia, leg_media
from connectors.format.notifications import is_notification, read_notification, topic_of
from connectors.format.records import (
    BareFrame,
    Control,
    FrameLine,
    InvalidFrameError,
    Signalled,
    parse_frame,
    parse_line,
)

DETAIL = "v2.detail.events.conversation.c1."
QUEUE = "v2.routing.queues.q1.conversations.calls"
STARTED, UPDATED, ENDED = "conversation.started", "conversation.updated", "conversation.ended"


NO_TIMES: list[object] = [None, True, "soon", "2026-13-20T21:58:32Z", [], 1e300, -(10**400), {}]


def said(topic: str, **body: Any) -> dict[str, Any]:
    """A notification."""
    return {"topicName": topic, "version": "2", "eventBody": body, "metadata": {"CorrelationId": "x"}}


def detail(event: str, **body: Any) -> dict[str, Any]:
    """A detail event, with the body of a real one."""
    usual = {"eventTime": 1765551750107, "conversationId": "c1", "participantId": "p1", "mediaType": "VOICE"}
    return said(DETAIL + event, **{**usual, **body})


def leg(purpose: str, state: str | None, **more: Any) -> dict[str, Any]:
    """A participant of a call snapshot."""
    return {"id": f"{purpose}-{state}", "purpose": purpose, **({"state": state} if state else {}), **more}


def snapshot(*participants: Any, topic: str = QUEUE) -> dict[str, Any]:
    """A call snapshot."""
    return said(topic, id="c1", participants=list(participants), recordingState="none")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("customer.start", STARTED),
        ("customer.end", ENDED),
        *((event, UPDATED) for event in ("user.start", "user.end", "acd.start", "flow.end", "acw", "wrapup")),
        ("flow.outcome", UPDATED),
        ("an.event.of.tomorrow", UPDATED),
    ],
)
def test_detail_events(event: str, expected: str) -> None:
    """A detail event has its time in milliseconds; the customer's leg is the conversation."""
    heard = read_notification(detail(event))
    assert heard is not None
    assert (heard.event, heard.conversation_id, heard.leg_id) == (expected, "c1", "p1")
    assert heard.timestamp == 1765551750.107
    assert heard.begins == (event not in ("customer.end", "acw", "wrapup"))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1765551750107, 1765551750.107),
        (1765551750.107, 1765551750.107),
        ("2026-03-20T21:58:32.417Z", 1774043912.417),
        ("2026-03-20T21:58:32", 1774043912.0),
        ("2026-03-20T23:58:32.417+02:00", 1774043912.417),
        ("2026-03-20T16:28:32.417-0530", 1774043912.417),
        *((value, math.nan) for value in NO_TIMES),
    ],
)
def test_event_times(time: Any, expected: float) -> None:
    """An invalid time leaves the latency unknown, and the event what it is."""
    heard = read_notification(detail("customer.end", eventTime=time))
    assert heard is not None
    assert heard.ended
    assert heard.timestamp == expected or (math.isnan(expected) and math.isnan(heard.timestamp))


def test_transcription_events() -> None:
    """A transcription event tells that the conversation goes on, with or without transcripts in it."""
    topic = "v2.conversations.c1.transcription"
    heard = read_notification(said(topic, eventTime="2026-03-20T21:58:32.417Z", conversationId="c1", status={}))
    assert heard is not None
    assert (heard.event, heard.timestamp) == (UPDATED, 1774043912.417)


@pytest.mark.parametrize(
    ("participants", "expected", "leg_id"),
    [
        ([leg("customer", "alerting")], STARTED, "customer-alerting"),
        ([leg("customer", "connected"), leg("acd", "connected")], STARTED, "customer-connected"),
        ([leg("customer", "connected"), leg("agent", "alerting")], STARTED, "agent-alerting"),
        ([leg("customer", "connected"), leg("agent", "connected")], UPDATED, "agent-connected"),
        # Routed again: the agents that did not answer come first.
        (
            [leg("customer", "connected"), leg("agent", "terminated"), leg("agent", "alerting")],
            STARTED,
            "agent-alerting",
        ),
        (
            [leg("agent", "disconnected"), leg("agent", "terminated"), leg("agent", "connected")],
            UPDATED,
            "agent-connected",
        ),
        (
            [leg("agent", "disconnected", connectedTime="x"), leg("customer", "connected")],
            UPDATED,
            "customer-connected",
        ),
        ([leg("customer", "disconnected"), leg("agent", "connected")], UPDATED, "agent-connected"),
        ([leg("customer", "disconnected"), leg("agent", "terminated")], ENDED, "agent-terminated"),
        ([leg("customer", "CONNECTED", endTime="2026-03-20T21:58:32Z")], ENDED, "customer-CONNECTED"),
        ([leg("customer", "Disconnected"), leg("user", "connected", monitoredParticipantId="x")], ENDED, None),
        # Of all media, with calls below the participants; a chat is not a call.
        ([leg("customer", None, calls=[{"state": "disconnected"}, {"state": "connected"}])], STARTED, "customer-None"),
        ([leg("customer", None, calls=[{"state": "terminated"}])], ENDED, "customer-None"),
        ([leg("customer", None, chats=[{"state": "connected"}])], None, None),
        ([], None, None),
        ([None, 7, {}, leg("agent", None, calls=7)], None, None),
    ],
)
def test_call_snapshots(participants: list[Any], expected: str | None, leg_id: str | None) -> None:
    """A call is over when no leg of it is alive, wherever the living one stands; its latency is unknown."""
    heard = read_notification(snapshot(*participants))
    if expected is None:
        assert heard is None
        return
    assert heard is not None
    assert heard.event == expected
    assert math.isnan(heard.timestamp)
    assert leg_id in (None, heard.leg_id)


@pytest.mark.parametrize(
    "record",
    [
        said("channel.metadata", message="WebSocket Heartbeat"),
        said("v2.system.socket_closing", systemTopicType="x"),
        said("v2.users.u.presence", id="u"),
        said("v2.users.u.conversationsummary", call={}),
        said("v2.routing.queues.q1.conversations.chats", id="c1", participants=[leg("customer", "connected")]),
        said(QUEUE),
        said(QUEUE, id=7, participants=[leg("customer", "connected")]),
        said(QUEUE, id="c1", participants="none"),
        detail("customer.start", mediaType="CHAT"),
        detail("customer.start", mediaType=None),
        detail("customer.start", conversationId=None),
        {"topicName": DETAIL + "customer.start", "eventBody": "text"},
        {"topicName": DETAIL + "customer.start"},
        {"topicName": 7, "eventBody": {}},
        {"detail-type": "v2.detail.events.conversation.{id}.acw", "detail": None},
        {"detail-type": 7, "detail": {"eventBody": {}}},
        {"mediaEndpointStats": {"maxLatencyMs": 3}},
        {"mediaEndpointStats": None, "conversationId": "c1"},
    ],
)
def test_what_tells_nothing(record: dict[str, Any]) -> None:
    """Unknown topics and bodies are ignored, in the journal as in a capture; never refused."""
    assert is_notification(record)
    assert read_notification(record) is None
    message = json.dumps(record).encode()
    control = parse_line(b'{"received_at":5,"frame":%b}' % message)
    assert control == Control(0, 5.0, "ignored", topic_of(record))
    bare = parse_line(message)
    assert isinstance(bare, Control)
    assert bare.kind == "ignored"
    assert parse_frame(message).event == "ignored"
    assert ended_conversation(message) is None
    decoded = decode_block(b'{"received_at":5,"frame":%b}\n%b\n' % (message, message))
    assert (len(decoded.arrival), decoded.rejected, len(decoded.controls), decoded.torn) == (0, [], 2, 0)


def test_media_records() -> None:
    """The figures are the leg's and not the conversation's, to which the record is a sign of life, or the end."""
    stats = {"maxLatencyMs": 80, "receivedPackets": 200, "discardedPackets": 5, "minMos": 4.2, "codecs": ["audio/opus"]}
    media = {"conversationId": "c1", "participantId": "p", "mediaEndpointStats": stats}
    heard = read_notification(media)
    assert heard is not None
    assert (heard.event, heard.leg_id, heard.begins) == (UPDATED, "p", False)
    message = parse_line(json.dumps({"received_at": 1000.0, "frame": media}).encode())
    assert isinstance(message, Signalled)
    line, leg = message.record, message.signals[0]
    assert isinstance(line, FrameLine)
    assert math.isnan(line.frame.timestamp)
    assert isinstance(leg, LegMedia)
    assert (leg.leg_id, leg.latency_ms, leg.packet_loss, leg.codecs) == ("p", 80.0, 0.025, ("audio/opus",))
    last = read_notification({**media, "ended": True, "mediaEndpointStats": None})
    assert last is not None
    assert last.ended
    assert math.isnan(last.timestamp)


@pytest.mark.parametrize(
    ("stats", "loss"),
    [
        ({"receivedPackets": 10}, 0.0),
        ({"receivedPackets": 10, "discardedPackets": 30}, 1.0),
        ({"receivedPackets": 10, "discardedPackets": -1}, None),
        ({"receivedPackets": "10", "discardedPackets": 1, "maxLatencyMs": 1}, None),
        ({"receivedPackets": 10, "discardedPackets": None}, None),
    ],
)
def test_media_of_odd_counts(stats: dict[str, Any], loss: float | None) -> None:
    """Counts that make no ratio give no loss; more discarded than received is all of it."""
    leg = leg_media({"conversationId": "c1", "mediaEndpointStats": stats})
    assert leg is not None
    assert leg.packet_loss == loss


def test_a_leg_without_a_packet_has_no_media() -> None:
    """Whatever else Genesys says of it."""
    stats = {"receivedPackets": 0, "discardedPackets": 0, "maxLatencyMs": 1, "minMos": 4.88}
    assert leg_media({"conversationId": "c1", "mediaEndpointStats": stats}) is None


def test_an_end_that_waits_for_the_media() -> None:
    """A message that says that its conversation will be enriched does not end it."""
    for end in (detail("customer.end"), snapshot(leg("customer", "terminated"))):
        message = json.dumps({"enrich": True, **end}).encode()
        assert ended_conversation(json.dumps(end).encode()) == "c1"
        assert ended_conversation(message) is None
        assert parse_frame(message).event == UPDATED


def test_a_journal_of_notifications() -> None:
    """Frames that hold notifications are rows like all others; without a time of their own they have no latency."""
    records: list[dict[str, Any]] = [
        {"received_at": 1765551750.4, "via": "n", "frame": detail("customer.start")},
        {"received_at": 1765551750.5, "frame": snapshot(leg("agent", "connected"))},
        {"received_at": 1765551750.6, "frame": said("v2.users.u.presence")},
        {"received_at": 1765551751, "frame": {"event": UPDATED, "entity": {"id": "v"}, "timestamp": 1765551750.9}},
        {"received_at": 1765551752, "frame": detail("customer.end", eventTime=1765551751800)},
    ]
    decoded = decode_block(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    assert decoded.latency_us.tolist()[0::2] == [293_000.0, 100_000.0]
    assert decoded.latency_us.tolist()[3] == 200_000.0
    assert math.isnan(decoded.latency_us.tolist()[1])
    assert decoded.arrival.tolist() == [1765551750.4, 1765551750.5, 1765551751.0, 1765551752.0]
    assert decoded.ended.tolist() == [False, False, False, True]
    assert decoded.ids.texts() == ["c1", "c1", "v", "c1"]
    assert [(control.kind, control.frames_before) for control in decoded.controls] == [("ignored", 2)]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("arrival", "latency_ms"),
    [
        ({"receivedAt": 1765551750.407}, 300.0),
        ({"receivedAt": 1765551750407}, 300.0),
        ({"receivedAt": "2025-12-12T15:02:30.407Z"}, 300.0),
        ({"received_at": 1765551750.407}, 300.0),
        ({}, None),
    ],
)
def test_captured_notifications(wrapped: bool, arrival: dict[str, Any], latency_ms: float | None) -> None:
    """A captured message is placed when it arrived, as far as the capture tells, and else when it was sent."""
    message = detail("user.start")
    record = {"version": "0", "detail-type": "x", "source": "aws", "detail": message} if wrapped else message
    line = parse_line(json.dumps({**record, **arrival}).encode())
    assert isinstance(line, BareFrame)
    assert (line.event, line.entity.id, line.timestamp) == (UPDATED, "c1", 1765551750.107)
    assert (None if line.receivedAt is None else round((line.receivedAt - line.timestamp) * 1000)) == latency_ms


def test_captured_snapshots() -> None:
    """A snapshot without an arrival gets the newest time in it, or none if it has no time."""
    with_times = snapshot(leg("customer", "connected", connectedTime="2026-03-20T21:58:32.000Z"))
    line = parse_line(json.dumps(with_times).encode())
    assert isinstance(line, BareFrame)
    assert (line.timestamp, line.receivedAt) == (1774043912.0, None)
    assert isinstance(parse_line(json.dumps(snapshot(leg("customer", "connected"))).encode()), Control)
    arrived = parse_line(json.dumps({**snapshot(leg("customer", "connected")), "receivedAt": 5}).encode())
    assert isinstance(arrived, BareFrame)
    assert arrived.receivedAt == 5.0
    assert math.isnan(arrived.timestamp)


def test_a_voice_event_stays_one() -> None:
    """Whatever else it holds, an object with `event` is a voice event, or refused as one."""
    assert not is_notification({"event": "x", "topicName": "y", "mediaEndpointStats": {}})
    with pytest.raises(InvalidFrameError, match=r"entity\.id is missing"):
        parse_frame(b'{"event":"x","topicName":"y"}')
    with pytest.raises(InvalidFrameError, match="event is missing"):
        parse_frame(b'{"topic":"y"}')
