"""Captures: what others write that is not a recording yet, and how it becomes one. Pure.

A line may wrap a message: a collector's `rawEvent`, the `Body` of an SQS message, the `Message` of an SNS notification.
A file may be a JSON array, what `conversations/details/query` of analytics returned, or what tools of AWS print of a
queue; `as_lines` turns it into lines that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import orjson

from connectors.format.notifications import is_notification
from connectors.format.values import epoch_seconds

__all__ = ["as_lines", "description_of", "media_records", "unwrapped", "wrapping_of"]

_WRAPPINGS: Final = {
    "rawEvent": "a collector's rawEvent",
    "Body": "an SQS message (Body)",
    "body": "an SQS message (body)",
    "Message": "an SNS notification (Message)",
}
_LISTS: Final = ("conversations", "Messages", "Records")  # of analytics, `aws sqs receive-message`, a Lambda function
_MAX_WRAPPINGS: Final = 4
_CONVERT: Final = "see docs/replay-and-simulator.md#what-can-be-replayed"


def wrapping_of(record: Mapping[str, Any]) -> str | None:
    """Return the key that holds a wrapped message, None without one.

    >>> wrapping_of({"Type": "Notification", "Message": "{}"}), wrapping_of({"message": "hello"})
    ('Message', None)
    """
    return next((key for key in _WRAPPINGS if isinstance(record.get(key), str | dict)), None)


def unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """Return the message in a wrapping, or in several, with the `receivedAt` that stands beside it, in epoch seconds.

    What is not wrapped is returned as it is. Raises ValueError, which names the wrapping, if there is no message in it.

    >>> unwrapped({"receivedAt": "1970-01-01T00:00:05Z", "Body": '{"event":"x"}'})
    {'receivedAt': 5.0, 'event': 'x'}
    """
    message, key = record, None
    received_at = np.nan
    for _ in range(_MAX_WRAPPINGS):
        if "event" in message or "received_at" in message or is_notification(message):
            break
        if (inside := wrapping_of(message)) is None:
            break
        key = inside
        received_at = epoch_seconds(message.get("receivedAt")) if "receivedAt" in message else received_at
        message = _message_in(message[key], key)
    if key is None:
        return record
    if "event" not in message and not is_notification(message):
        raise ValueError(f"{_WRAPPINGS[key]} holds neither a notification nor a frame (event is missing)")
    if "receivedAt" in message or np.isnan(received_at):
        return message
    return {"receivedAt": received_at, **message}


def _message_in(content: Any, key: str) -> dict[str, Any]:
    if isinstance(content, str):
        try:
            content = orjson.loads(content)
        except orjson.JSONDecodeError:
            content = None
    if not isinstance(content, dict):
        raise ValueError(f"{_WRAPPINGS[key]} holds no JSON object")
    return content


def as_lines(text: bytes) -> bytes | None:
    """Turn a whole file into lines that can be read; None if it is neither a list nor a details export."""
    try:
        content = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _export_lines(text)
    items = content if isinstance(content, list) else None
    if isinstance(content, dict):
        items = next((content[key] for key in _LISTS if isinstance(content.get(key), list)), None)
    if items is None:
        return _export_lines(text)
    if items and all(map(_is_details, items)):
        return _lines_of_details(items)
    return b"".join(map(_line_of, items))


def _line_of(item: Any) -> bytes:
    """Return an item as a line; one that is nested more deeply than orjson writes as a line that is rejected."""
    try:
        return orjson.dumps(item) + b"\n"
    except TypeError:
        return b'"an item of the file that is nested too deeply"\n'


def description_of(head: bytes) -> str:
    r"""Say what the beginning of a file, none of whose lines is a record, looks like, and what to do with it.

    >>> description_of(b"conversation,latency\nc1,20\n").partition(":")[0]
    'it looks like CSV'
    """
    first = head.lstrip()[:1]
    line = next((line for line in head.split(b"\n") if line.strip()), b"").strip()
    if first == b"[":
        return "it looks like a JSON array that was cut or is not valid: write it out again, whole"
    if first == b"<":
        return "it looks like HTML or XML, perhaps the page of a proxy: fetch the data again"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        if first == b"{":
            return "it looks like JSON over several lines, or JSON that was cut: write one object a line (jq -c .)"
        if line.count(b",") or line.count(b";") or line.count(b"\t"):
            return f"it looks like CSV: map its columns with --input; {_CONVERT}"
        return f"it looks like plain text: a recording has one JSON object a line; {_CONVERT}"
    if isinstance(record, dict):
        if (key := wrapping_of(record)) is not None:
            return f"it looks like {_WRAPPINGS[key]} around something that is no Genesys event; {_CONVERT}"
        if "timestamp" in record or "received_at" in record:
            return f"it looks like frames in another form, which rejected.jsonl explains line by line; {_CONVERT}"
        keys = ", ".join(list(record)[:4])
        return f"it looks like JSON Lines of something else (keys: {keys}): map them with --input; {_CONVERT}"
    return f"it looks like JSON Lines, but not of objects; {_CONVERT}"


def media_records(conversation_id: str, details: Any) -> Iterator[dict[str, Any]]:
    """Yield a media record for each of the `mediaEndpointStats` in what analytics says, oldest first.

    >>> stats = {"maxLatencyMs": 30, "receivedPackets": 229}
    >>> session = {"sessionId": "s", "mediaType": "voice", "mediaEndpointStats": [stats]}
    >>> list(media_records("c", {"participants": [{"participantId": "p", "sessions": [session]}]}))[0]["sessionId"]
    's'
    """
    found: list[dict[str, Any]] = []
    for participant in _objects(details, "participants"):
        for session in _objects(participant, "sessions"):
            if str(session.get("mediaType", "voice")).lower() != "voice":
                continue
            connected_after_s = _connected_after_s(session)
            found += [
                {
                    "conversationId": conversation_id,
                    "participantId": participant.get("participantId"),
                    "sessionId": session.get("sessionId"),
                    "purpose": participant.get("purpose"),
                    "direction": session.get("direction"),
                    **({} if connected_after_s is None else {"connectedAfterS": connected_after_s}),
                    "mediaEndpointStats": stats,
                }
                for stats in _objects(session, "mediaEndpointStats")
            ]
    yield from sorted(found, key=lambda record: str(record["mediaEndpointStats"].get("eventTime", "")))


def _connected_after_s(session: Mapping[str, Any]) -> float | None:
    """Return the seconds from the start of a session's alert to that of its first interaction, None without either."""
    alerts, interacts = (
        [
            epoch_seconds(segment.get("segmentStart"))
            for segment in _objects(session, "segments")
            if segment.get("segmentType") == kind
        ]
        for kind in ("alert", "interact")
    )
    if not alerts or not interacts:
        return None
    waited_s = min(interacts) - min(alerts)
    return round(waited_s, 3) if waited_s >= 0 else None


def _objects(value: Any, key: str) -> list[Mapping[str, Any]]:
    items = value.get(key) if isinstance(value, Mapping) else None
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _is_details(item: Any) -> bool:
    keys = ("conversationId", "conversationStart", "participants")
    return isinstance(item, dict) and all(key in item for key in keys)


def _export_lines(text: bytes) -> bytes | None:
    """Return the lines of a details export that has one conversation a line."""
    items = []
    for line in text.split(b"\n"):
        if line.strip():
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError:
                return None
            if not _is_details(item):
                return None
            items.append(item)
    return _lines_of_details(items) if items else None


def _lines_of_details(conversations: list[dict[str, Any]]) -> bytes:
    """Media records at the time of each conversation's end, and behind them one that ends the conversation."""
    timed: list[tuple[float, dict[str, Any]]] = []
    for conversation in conversations:
        ended_at = epoch_seconds(conversation.get("conversationEnd"))
        at = epoch_seconds(conversation.get("conversationStart")) if np.isnan(ended_at) else ended_at
        if np.isnan(at) or not isinstance(id_ := conversation["conversationId"], str):
            continue
        records = list(media_records(id_, conversation))
        if not np.isnan(ended_at) or not records:
            end = {"ended": True} if not np.isnan(ended_at) else {}
            records.append({"conversationId": id_, "mediaEndpointStats": None, **end})
        timed += [(at, {**record, "receivedAt": at}) for record in records]
    timed.sort(key=lambda one: one[0])
    return b"".join(_line_of(record) for _, record in timed)
