"""Keep what the dataflow needs of a notification, and nothing else. Pure.

Genesys' notifications carry numbers, names, attributes and the text of what was said. `redacted` copies ids, times,
states and measurements by an explicit list; whatever the list does not name, or has another form, is left out. So a new
key of Genesys' is private until it is added here. What `connectors.format.notifications` reads is on the list:
`read_notification` says the same of a message and of its redacted copy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["can_be_private", "fingerprint", "redacted", "redacted_frame"]

_MISSING: Final = object()
_MAX_ID: Final = 256
_MAX_ITEMS: Final = 200
_WORD: Final = re.compile(r"[A-Za-z0-9_{}][A-Za-z0-9_.:{}-]{0,127}")
_TOPIC: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.{}?&-]{0,255}")
_OF_CONVERSATION: Final = re.compile(
    r"v2\.(?:detail\.events\.conversation|conversations)\.[^.]{1,256}\.[a-zA-Z.]{1,64}"
)
_ISO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]{5,18}(?:Z|[+-]\d\d:?\d\d)?")

Shape = Callable[[Any], Any] | Mapping[str, Any] | list[Any]


def _id(value: Any) -> Any:
    """Keep an opaque id of a conversation, which nothing works without."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_ID else _MISSING


def _word(value: Any) -> Any:
    """Keep an id, a state or a name of Genesys' own; nothing with a space, a plus or an at sign."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else _MISSING


def _number(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else _MISSING


def _time(value: Any) -> Any:
    if isinstance(value, str):
        return value if _ISO_TIME.fullmatch(value) else _MISSING
    return _number(value)


def _topic(value: Any) -> Any:
    if isinstance(value, str) and (_TOPIC.fullmatch(value) or _OF_CONVERSATION.fullmatch(value)):
        return value
    return _MISSING


def _moment(value: Any) -> Any:
    """Keep a time; of anything else, only that something is there."""
    kept = _time(value)
    return (_MISSING if value is None else True) if kept is _MISSING else kept


def _state(value: Any) -> Any:
    """Keep a state; of any other text, only that something is there."""
    return "unknown" if (kept := _word(value)) is _MISSING and isinstance(value, str) else kept


def _reference(value: Any) -> Any:
    """Keep an id; of anything else, whether it is empty."""
    return bool(value) if (kept := _word(value)) is _MISSING else kept


def _media_type(value: Any) -> Any:
    return "" if (kept := _word(value)) is _MISSING else kept


_REFERENCE: Final[Shape] = {"id": _word}
_CALL: Final[dict[str, Any]] = {
    "id": _word,
    "state": _state,
    "direction": _word,
    "startTime": _time,
    "connectedTime": _moment,
    "endTime": _moment,
    "disconnectedTime": _moment,
    "startHoldTime": _time,
    "held": _number,
    "muted": _number,
    "disconnectType": _word,
    "provider": _word,
    "errorInfo": {"code": _word},
}
_PARTICIPANT: Final[Shape] = {
    **_CALL,
    "purpose": _word,
    "monitoredParticipantId": _reference,
    "coachedParticipantId": _reference,
    "user": _REFERENCE,
    "queue": _REFERENCE,
    "team": _REFERENCE,
    "division": _REFERENCE,
    "userId": _word,
    "queueId": _word,
    "teamId": _word,
    "calls": [_CALL],
}
_IDS: Final = (
    "participantId",
    "sessionId",
    "communicationId",
    "userId",
    "queueId",
    "divisionId",
    "teamId",
    "edgeId",
    "stationId",
    "trunkId",
    "flowId",
    "organizationId",
    "entityId",
)
_WORDS: Final = (
    "provider",
    "direction",
    "disconnectType",
    "errorCode",
    "metric",
    "entityType",
    "flowType",
    "onlineStatus",
)
_DURATIONS: Final = (
    "alertingDurationMs",
    "contactingDurationMs",
    "dialingDurationMs",
    "heldDurationMs",
    "interactingDurationMs",
    "acwDurationMs",
    "connectedDurationMs",
    "voicemailDurationMs",
)
_COUNTS: Final[Shape] = {"inboundCallCount": _number, "outboundCallCount": _number}
_BODY: Final[dict[str, Any]] = {
    "id": _id,
    "conversationId": _id,
    "eventTime": _time,
    "timestamp": _time,
    **dict.fromkeys(_IDS, _word),
    **dict.fromkeys(_WORDS, _word),
    **dict.fromkeys(_DURATIONS, _number),
    "mediaType": _media_type,
    "errorInfo": {"code": _word},
    "participants": [_PARTICIPANT],
    "eventEntity": {"id": _word},
    "edge": _REFERENCE,
    "trunk": _REFERENCE,
    "calls": _COUNTS,
    "qos": {"mismatchCount": _number},
}
_NOTIFICATION: Final[dict[str, Any]] = {"topicName": _topic, "timestamp": _time, "eventBody": _BODY}
_FRAME: Final[Shape] = {
    "event": _state,
    "entity": {"id": _id},
    "timestamp": _number,
    "metrics": {"packetLoss": _number, "jitter": _number},
}
_RECORD: Final[Shape] = {"id": _word, **_NOTIFICATION, "detail-type": _topic, "time": _time, "detail": _NOTIFICATION}


def redacted(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a notification or EventBridge record with ids, times, states and measurements only.

    >>> body = {"conversationId": "c", "eventTime": 1, "ani": "tel:+4930123", "participantName": "A. Person"}
    >>> redacted({"topicName": "v2.detail.events.conversation.c.customer.start", "eventBody": body})["eventBody"]
    {'conversationId': 'c', 'eventTime': 1}
    """
    kept = _kept(record, _RECORD)
    if "topicName" in record:
        kept.setdefault("topicName", "")  # so that it stays a notification
    return dict(kept)


def redacted_frame(frame: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a voice event with what is read of it only.

    >>> redacted_frame({"event": "conversation.updated", "entity": {"id": "c", "name": "A. Person"}, "timestamp": 1.5})
    {'event': 'conversation.updated', 'entity': {'id': 'c'}, 'timestamp': 1.5}
    """
    return dict(_kept(frame, _FRAME))


def fingerprint(data: bytes) -> tuple[int, str]:
    """Return the length in bytes and the SHA-256 of a message that is not kept, so that it can be recognized."""
    return len(data), hashlib.sha256(data).hexdigest()


_PRIVATE_MARKS: Final = re.compile(
    rb"topicName|eventBody|detail-type|rawEvent|\"Body\"|\"Message\"|participant|conversationId|transcript|utterance"
    rb"|mediaEndpointStats|attributes|eventTime|CorrelationId|\bani\b|\bdnis\b|aniName",
    re.IGNORECASE,
)

_ESCAPED_ASCII: Final = re.compile(rb"\\u00([2-7][0-9a-fA-F])")


def can_be_private(line: bytes) -> bool:
    """Tell whether a line may come from a feed whose messages carry personal data, by the keys that they use.

    >>> can_be_private(b'{"Body": "+49 30 123"}'), can_be_private(b'{"event": 1}')
    (True, False)
    """
    if rb"\u" in line:  # JSON may write any letter of a key so
        line = _ESCAPED_ASCII.sub(lambda found: bytes([int(found[1], 16)]), line)
    return _PRIVATE_MARKS.search(line) is not None


def _kept(value: Any, shape: Shape) -> Any:
    if callable(shape):
        return shape(value)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _MISSING
        items = (_kept(item, shape[0]) for item in value[:_MAX_ITEMS])
        return [item for item in items if item is not _MISSING]
    if not isinstance(value, Mapping):
        return _MISSING
    pairs = ((key, _kept(value[key], inner)) for key, inner in shape.items() if key in value)
    return {key: kept for key, kept in pairs if kept is not _MISSING}
