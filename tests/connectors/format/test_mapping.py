"""Mapping of other shapes to frames, and the names of lines."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.format.kinds import kind_of_line
from connectors.format.mapping import FIELDS, guessed_input, parse_input

AT = 1767225600.25


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("", AT),
        ("", AT * 1000),
        ("", "1767225600250"),
        ("", "2026-01-01T00:00:00.25Z"),
        ("", "2026-01-01 01:00:00.250+01:00"),
        (":s", str(AT)),
        (":ms", AT * 1e3),
        (":us", AT * 1e6),
        (":ns", AT * 1e9),
        (":iso", " 2026-01-01T00:00:00.250Z "),
    ],
)
def test_times(unit: str, value: Any) -> None:
    """Times come as numbers or texts, in a unit that is named or follows from the value."""
    frame = parse_input(f"conversation=id,timestamp=at{unit}").frame({"id": 7, "at": value})
    assert frame == {"event": "conversation.updated", "entity": {"id": "7"}, "timestamp": AT}


def test_paths_and_figures() -> None:
    """Fields may be nested, in lists, or have dots in their names; a latency gives the other time."""
    input_map = parse_input("conversation=call.id,event=e,timestamp=t.at,latency=legs.1.rtt:s,loss=l,jitter=j:ms")
    record = {"call": {"id": "c"}, "e": "x", "t.at": 5, "legs": [{}, {"rtt": 0.5}], "l": "0.25", "j": 20}
    assert input_map.frame(record) == {
        "event": "x",
        "entity": {"id": "c"},
        "timestamp": 5.0,
        "receivedAt": 5.5,
        "metrics": {"packetLoss": 0.25, "jitter": 20.0},
    }
    assert parse_input("conversation=c,received=r,latency=l").frame({"c": "c", "r": 6, "l": 500})["timestamp"] == 5.5


def test_what_is_missing_is_left_out() -> None:
    """Values that are missing or not readable leave the frame incomplete, for its reader to reject."""
    input_map = parse_input("conversation=c.0.x,event=e,timestamp=t,loss=l")
    records: tuple[dict[str, object], ...] = (
        {},
        {"c": [], "e": None, "t": "soon", "l": "low"},
        {"c": [1], "t": True, "l": [], "e": {}},
    )
    for record in records:
        assert input_map.frame(record) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "conversation is missing"),
        ("call=x", "call is not one of"),
        ("conversation", "needs the path"),
        ("conversation=c,conversation=d,timestamp=t", "there twice"),
        ("conversation=c,timestamp=t:weeks", "the unit must be one of auto, iso, s, ms, us, ns"),
        ("conversation=c:s,timestamp=t", "without a unit"),
        ("conversation=c,received=t", "timestamp is missing"),
    ],
)
def test_mistakes(text: str, reason: str) -> None:
    """A mapping that is incomplete or misspelt is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        parse_input(text)


def test_guesses() -> None:
    """A mapping is guessed where the names tell enough, and can be parsed."""
    keys = {"ConversationId": "c", "receivedAt": 1, "RTT": 2, "loss": 0, "noise": 1}
    assert guessed_input(keys) == "conversation=ConversationId,received=receivedAt,latency=RTT,loss=loss"
    assert guessed_input({"a": 1}) is guessed_input({"id": 1}) is None
    assert set(FIELDS) >= set(parse_input(guessed_input(keys) or "").sources)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b'{"event":"x","entity":{"id":"c"},"timestamp":1}', "frame (bare)"),
        (b'{"received_at":1,"frame":{"event":"x","entity":{"id":"c"},"timestamp":1}}', "frame (record)"),
        (b'{"received_at":1,"frame":{"topicName":"t","eventBody":{}}}', "notification (record)"),
        (b'{"topicName":"t","eventBody":{},"timestamp":1}', "notification (bare)"),
        (b'{"Body":"{\\"detail-type\\":\\"t\\",\\"detail\\":{}}"}', "EventBridge event (in Body)"),
        (b'{"received_at":1,"clock":{"step_s":1,"reason":"r"}}', "clock record"),
        (b'{"conversation_id":"c","latency_ms":null,"packet_loss":null}', "a window (a result, not an input)"),
        (b"[1]", "not an object"),
        (b"{", "not JSON"),
    ],
)
def test_names_of_lines(line: bytes, name: str) -> None:
    """Each line has a name, and a fault if a replay would reject it."""
    kind = kind_of_line(line)
    assert kind.name == name
    assert (kind.fault is None) == ("record" in name or "bare" in name or "in Body" in name)
