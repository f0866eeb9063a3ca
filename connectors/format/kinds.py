"""Say what a line of a recording is, in words for `voicewatch inspect`. The kinds are those of `records.py`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from connectors.format.captures import wrapping_of
from connectors.format.lines import read_line, time_of
from connectors.format.notifications import is_notification
from connectors.format.records import CLOCK, BareFrame, FrameLine, InvalidFrameError

__all__ = ["LineKind", "kind_of_line"]

_RESULTS: Final = {
    "a window": ("conversation_id", "latency_ms", "packet_loss"),
    "a group's window": ("group", "breaching", "conversations"),
    "an alert": ("alertId", "alertType", "incidentId"),
    "a line of an audit log": ("action", "outcome", "prev"),
}


class LineKind(NamedTuple):
    """What a line is; its time and conversation, if it has them; `fault` says why it would be rejected."""

    name: str
    at: float | None = None
    conversation: str | None = None
    is_step: bool = False
    fault: str | None = None


def kind_of_line(line: bytes) -> LineKind:
    """Return what a line is.

    >>> kind_of_line(b'{"received_at":5.0,"tick":true}')[:2], kind_of_line(b"{}").fault is None
    (('tick record', 5.0), False)
    """
    try:
        record = read_line(line)
    except InvalidFrameError as error:
        return LineKind(_rejected(line), fault=str(error))
    if isinstance(record, FrameLine | BareFrame):
        return LineKind(
            _message(line),
            time_of(record),
            record.frame.entity.id if isinstance(record, FrameLine) else record.entity.id,
        )
    if record.kind in ("watch", "feed", "tick", "settings", "invalid", CLOCK):
        conversation = record.value.conversation_id if record.kind == "watch" else None
        return LineKind(f"{record.kind} record", time_of(record), conversation, record.kind == CLOCK)
    return LineKind(_message(line), time_of(record))


def _message(line: bytes) -> str:
    """Name the message in a line, by its keys."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:  # for a number that no float64 holds
        return "frame"
    where = "record"
    if not isinstance(record.get("frame"), Mapping) or "event" in record:
        where = f"in {key}" if "event" not in record and (key := wrapping_of(record)) is not None else "bare"
        message = _innermost(record)
    else:
        message = record["frame"]
    return f"{_name(message)} ({where})"


def _innermost(record: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(4):
        if "event" in record or is_notification(record) or (key := wrapping_of(record)) is None:
            break
        inside = record[key]
        record = orjson.loads(inside) if isinstance(inside, str) else inside
    return record


def _name(message: Mapping[str, Any]) -> str:
    if "detail-type" in message and "topicName" not in message:
        return "EventBridge event"
    if "mediaEndpointStats" in message:
        return "media record"
    if "audioLevel" in message:
        return "audio record"
    return "notification" if "topicName" in message else "frame"


def _rejected(line: bytes) -> str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "not JSON"
    if not isinstance(value, Mapping):
        return "not an object"
    named = next((name for name, keys in _RESULTS.items() if all(key in value for key in keys)), None)
    return f"{named} (a result, not an input)" if named else "another object"
