"""Captures that are not recordings yet: what is unwrapped, what is converted, and what is said of all others."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.captures import as_lines, description_of
from connectors.format.decode import decode_block
from connectors.format.records import MEDIA, BareFrame, Control, InvalidFrameError, parse_line

DETAIL = {
    "topicName": "v2.detail.events.conversation.{id}.customer.start",
    "eventBody": {"eventTime": 1757066419600, "conversationId": "c", "mediaType": "VOICE", "sessionId": "s"},
}
EVENT_BRIDGE = {"detail-type": DETAIL["topicName"], "time": "2025-09-05T10:00:19Z", "detail": DETAIL}
FRAME = {"event": "conversation.updated", "entity": {"id": "c"}, "timestamp": 1757066419.6}
SNS = {"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": json.dumps(EVENT_BRIDGE)}
STATS = {"codecs": ["audio/PCMU"], "maxLatencyMs": 41, "receivedPackets": 14900, "discardedPackets": 149}


def details(conversation_id: str, start: str, end: str | None, *stats: dict[str, Any]) -> dict[str, Any]:
    session = {"sessionId": "s", "mediaType": "voice", "mediaEndpointStats": list(stats)}
    return {
        "conversationId": conversation_id,
        "conversationStart": start,
        "participants": [{"participantId": "p", "purpose": "agent", "sessions": [session]}],
        **({} if end is None else {"conversationEnd": end}),
    }


EXPORT = [
    details("late", "2026-07-10T09:00:00.000Z", "2026-07-10T09:05:00.000Z", STATS, STATS),
    details("none", "2026-07-10T09:01:00.000Z", "2026-07-10T09:02:00.000Z"),
    details("on", "2026-07-10T09:03:00.000Z", None, STATS),
]


@pytest.mark.parametrize(
    "wrapped",
    [
        {"conversationId": "c", "receivedAt": 1757066420.0, "rawEvent": EVENT_BRIDGE},
        {"receivedAt": "2025-09-05T10:00:20.000Z", "rawEvent": json.dumps(EVENT_BRIDGE)},
        {"receivedAt": 1757066420000, "Body": json.dumps(EVENT_BRIDGE)},
        {"receivedAt": 1757066420.0, "messageId": "m", "body": json.dumps(SNS)},
        {"receivedAt": 1757066420.0, **SNS},
        {"receivedAt": 1757066420.0, "Body": json.dumps(FRAME)},
        {"Body": json.dumps({**FRAME, "receivedAt": 1757066420.0})},
    ],
)
def test_a_wrapped_message_is_read_as_the_message(wrapped: dict[str, Any]) -> None:
    """With the arrival that stands beside it, in seconds, milliseconds or ISO 8601."""
    frame = parse_line(json.dumps(wrapped).encode())
    assert isinstance(frame, BareFrame)
    assert (frame.entity.id, frame.timestamp, frame.receivedAt) == ("c", 1757066419.6, 1757066420.0)


def test_without_an_arrival_the_message_is_placed_at_its_own_time() -> None:
    """Its latency is unknown: when a queue sent it is not when it arrived."""
    frame = parse_line(json.dumps({"Attributes": {"SentTimestamp": "1"}, "Body": json.dumps(DETAIL)}).encode())
    assert isinstance(frame, BareFrame)
    assert (frame.timestamp, frame.receivedAt) == (1757066419.6, None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"Body": "my card number is 4111"}, "an SQS message (Body) holds no JSON object"),
        ({"Message": "[]"}, "an SNS notification (Message) holds no JSON object"),
        ({"rawEvent": {"x": 1}}, "a collector's rawEvent holds neither a notification nor a frame (event is missing)"),
        ({"Body": json.dumps({"event": "x"})}, "entity.id is missing"),
        ({"Body": 5}, "neither a record (received_at is missing) nor a frame (event is missing)"),
    ],
)
def test_what_a_wrapping_does_not_hold_is_a_reason(record: dict[str, Any], reason: str) -> None:
    """The reason names the wrapping, and quotes nothing of it."""
    with pytest.raises(InvalidFrameError) as error:
        parse_line(json.dumps(record).encode())
    assert str(error.value) == reason


def test_wrappings_in_wrappings_end() -> None:
    """A message that is wrapped again and again is given up, not followed without an end."""
    text = json.dumps(FRAME)
    for _ in range(10):
        text = json.dumps({"Body": text})
    with pytest.raises(InvalidFrameError, match="holds neither"):
        parse_line(text.encode())


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_becomes_lines(indent: int | None) -> None:
    """Of whatever is in it, in its order."""
    items = [{"received_at": 5.0, "tick": True}, FRAME, {"Body": json.dumps(FRAME)}, 7]
    lines = as_lines(json.dumps(items, indent=indent).encode())
    assert lines is not None
    assert list(map(json.loads, lines.splitlines())) == items
    assert [rejected.line for rejected in decode_block(lines).rejected] == [3]


@pytest.mark.parametrize("levels", [260, 900])
def test_an_item_that_is_nested_too_deeply_is_rejected(levels: int) -> None:
    """In its place among the others, which are read."""
    deep = json.dumps(FRAME)[:-1] + ',"x":' + "[" * levels + "]" * levels + "}"
    lines = as_lines(f"[{json.dumps(FRAME)},{deep},{json.dumps(FRAME)}]".encode())
    assert lines is not None
    decoded = decode_block(lines)
    assert [rejected.line for rejected in decoded.rejected] == [1]
    assert len(decoded.ids.texts()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, EXPORT)),
        json.dumps(EXPORT),
        json.dumps({"conversations": EXPORT, "totalHits": 3}, indent=2),
    ],
)
def test_a_details_export_becomes_media_records_in_order_of_time(text: str) -> None:
    """Each leg's media at the end of its conversation, which a further one ends; at the start of one without an end."""
    lines = as_lines(text.encode())
    assert lines is not None
    decoded = decode_block(lines)
    assert not decoded.rejected
    assert decoded.ids.texts() == ["none", "on", "late", "late", "late"]
    assert decoded.ended.tolist() == [True, False, False, False, True]
    legs = [control.value for control in decoded.controls if control.kind == MEDIA]
    assert [(leg.conversation_id, leg.latency_ms, leg.packet_loss) for leg in legs] == [
        ("on", 41.0, 0.01),
        ("late", 41.0, 0.01),
        ("late", 41.0, 0.01),
    ]
    assert (decoded.arrival - 1783674000.0).tolist() == [120.0, 180.0, 300.0, 300.0, 300.0]


@pytest.mark.parametrize("text", [b"", b"{}", b"[1,", b'{"conversations":5}', b'{"received_at":5.0,"tick":true}\n{}'])
def test_what_is_neither_stays_as_it_is(text: bytes) -> None:
    """No conversion, so that the lines are judged as they are."""
    assert as_lines(text) is None


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"conversation;latency\nc;20\n", "CSV"),
        (b"[1,2\n", "JSON array that was cut"),
        (b"<!doctype html>\n", "HTML or XML"),
        (b'{\n "a": 1,\n', "JSON over several lines"),
        (b'{"a":1,"b":2}\n', "JSON Lines of something else (keys: a, b): map them with --input"),
        (b'{"Body":"hello"}\n', "an SQS message (Body) around something that is no Genesys event"),
        (b'{"event":"x","timestamp":"5"}\n', "frames in another form"),
        (b"5\n", "JSON Lines, but not of objects"),
        (b"hello\n", "plain text"),
    ],
)
def test_a_file_that_cannot_be_read_is_described(head: bytes, said: str) -> None:
    """In one line, with what to do."""
    description = description_of(head)
    assert description.startswith("it looks like")
    assert said in description
    assert "\n" not in description


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Body", "Message", "rawEvent", "event", "conversations", "x"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_no_capture_is_more_than_a_reason(value: Any) -> None:
    """Whatever JSON it is, it is lines, a record or a reason, and can be described."""
    text = json.dumps(value)
    as_lines(text.encode())
    description_of(text.encode())
    with suppress(InvalidFrameError):
        assert isinstance(parse_line(text.encode()), BareFrame | Control)
