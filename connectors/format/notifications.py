"""What Genesys' notifications say of a voice conversation. Pure.

Three forms of a message are known here, each a JSON object without the `event` key of a voice event:

- a notification, with `topicName` and `eventBody`: a detail event of a conversation (with the time of the event), a
  snapshot of a conversation's call (without), or a transcription event;
- an EventBridge record, whose `detail` is a notification;
- a media record, with `conversationId` and `mediaEndpointStats`, which the notifications feed makes of what analytics
  tells of one leg's media after its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from connectors.format.limits import MAX_EPOCH_S

__all__ = ["Heard", "is_notification", "place_in_time", "read_notification", "topic_of"]

STARTED: Final = "conversation.started"
UPDATED: Final = "conversation.updated"
ENDED: Final = "conversation.ended"

_DETAIL = re.compile(r"v2\.detail\.events\.conversation\.[^.]+\.(.+)")
_TRANSCRIPTION = re.compile(r"v2\.conversations\.[^.]+\.transcription")
_CALLS = re.compile(r"v2\.(routing\.queues|users)\.[^.]+\.conversations(\.calls)?")
_ISO_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:?\d\d)?")
_OVER = frozenset({"disconnected", "terminated"})
_AGENTS = frozenset({"agent", "user"})
_OBSERVERS = ("monitoredParticipantId", "coachedParticipantId")
_AFTERWARDS = frozenset({"acw", "wrapup"})


class Heard(NamedTuple):
    """What a message says of its conversation.

    `event` is the voice event that it amounts to. `timestamp` (epoch seconds) is the moment that its latency is
    measured from, NaN if it has none. `packet_loss` is a ratio 0..1, NaN if it has none. `leg_id` is the participant or
    session that it is about. `begins` is false for what comes after a conversation's end, too.
    """

    event: str
    conversation_id: str
    timestamp: float = np.nan
    packet_loss: float = np.nan
    leg_id: str | None = None
    begins: bool = True

    @property
    def ended(self) -> bool:
        """Whether this is the last of the conversation."""
        return self.event == ENDED


def is_notification(record: Mapping[str, Any]) -> bool:
    """Whether an object has one of the forms that are read here, whatever is in it.

    >>> is_notification({"topicName": "channel.metadata"}), is_notification({"event": "x", "topicName": "y"})
    (True, False)
    """
    if "event" in record:
        return False
    return "topicName" in record or "mediaEndpointStats" in record or ("detail-type" in record and "detail" in record)


def topic_of(record: Mapping[str, Any]) -> str:
    """The topic of a notification or an EventBridge record, "" if it names none.

    >>> topic_of({"detail-type": "v2.detail.events.conversation.{id}.acw", "detail": {}})
    'v2.detail.events.conversation.{id}.acw'
    """
    topic = _notification(record).get("topicName", record.get("detail-type"))
    return topic if isinstance(topic, str) else ""


def read_notification(record: Mapping[str, Any], received_at: float = np.nan) -> Heard | None:
    """What a message that was received at `received_at` (epoch seconds) says; None if it is of no kind known here.

    A top-level `"enrich": true` says that a media record will end the conversation, so that this message does not. It
    is for the notifications feed to say, which lets no such key of a message that it receives count.

    >>> body = {"conversationId": "c", "eventTime": 1765551750107, "mediaType": "VOICE", "sessionId": "s"}
    >>> read_notification({"topicName": "v2.detail.events.conversation.c.customer.end", "eventBody": body})[:3]
    ('conversation.ended', 'c', 1765551750.107)
    """
    if "mediaEndpointStats" in record:
        return _media(record, received_at)
    notification = _notification(record)
    topic, body = topic_of(record), notification.get("eventBody")
    if not isinstance(body, Mapping):
        return None
    heard: Heard | None = None
    if (detail := _DETAIL.fullmatch(topic)) is not None:
        heard = _detail_event(detail[1], body)
    elif _TRANSCRIPTION.fullmatch(topic):
        heard = _detail_event("", body)
    elif _CALLS.fullmatch(topic):
        heard = _snapshot(body)
    if heard is not None and heard.ended and record.get("enrich") is True:
        return heard._replace(event=UPDATED, begins=False)
    return heard


def place_in_time(record: Mapping[str, Any]) -> tuple[float, float]:
    """Of a message captured outside a journal: when it arrived, and when it was sent, epoch seconds.

    Either is NaN if nothing tells. The arrival is `receivedAt` or `received_at`: seconds, milliseconds or ISO 8601. The
    sending is the newest time that the message itself names.
    """
    arrival = _time(record.get("receivedAt", record.get("received_at")))
    notification = _notification(record)
    body = notification.get("eventBody")
    times = [_time(notification.get("timestamp")), _time(record.get("time"))]
    if isinstance(body, Mapping):
        times.append(_time(body.get("eventTime")))
        for leg in _legs(body):
            times += [_time(leg.get(key)) for key in ("startTime", "connectedTime", "endTime", "disconnectedTime")]
    known = [time for time in times if not np.isnan(time)]
    return arrival, max(known, default=np.nan)


def _notification(record: Mapping[str, Any]) -> Mapping[str, Any]:
    detail = record.get("detail")
    if "topicName" in record or not isinstance(detail, Mapping):
        return record
    return detail


def _detail_event(kind: str, body: Mapping[str, Any]) -> Heard | None:
    """A body that says of itself when it came to be."""
    conversation_id = body.get("conversationId")
    media = body.get("mediaType", "VOICE")
    if not isinstance(conversation_id, str) or not isinstance(media, str) or media.upper() != "VOICE":
        return None
    event = {"customer.start": STARTED, "customer.end": ENDED}.get(kind, UPDATED)
    leg_ids = (body.get(key) for key in ("participantId", "sessionId", "communicationId"))
    return Heard(
        event,
        conversation_id,
        timestamp=_time(body.get("eventTime")),
        leg_id=next((id_ for id_ in leg_ids if isinstance(id_, str)), None),
        begins=event != ENDED and kind not in _AFTERWARDS,
    )


def _snapshot(body: Mapping[str, Any]) -> Heard | None:
    """A conversation as it is now: over when none of its legs is alive, wherever in the list the living one stands."""
    conversation_id = body.get("id")
    legs = list(_legs(body))
    if not isinstance(conversation_id, str) or not legs:
        return None
    alive = [leg for leg in legs if not _is_over(leg)]
    if not alive:
        return Heard(ENDED, conversation_id, leg_id=_leg_id(legs[-1]), begins=False)
    reached = any(leg["purpose"] in _AGENTS and (leg["state"] == "connected" or leg["connectedTime"]) for leg in legs)
    alive.sort(key=lambda leg: (leg["purpose"] not in _AGENTS, leg["state"] != "connected"))
    return Heard(UPDATED if reached else STARTED, conversation_id, leg_id=_leg_id(alive[0]))


def _legs(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The calls of all participants: of `…conversations.calls` each participant is one, of `…conversations` it has any
    number. Observers, who may stay when everybody is gone, are left out.
    """
    participants = body.get("participants")
    for participant in participants if isinstance(participants, list) else []:
        if not isinstance(participant, Mapping) or any(participant.get(key) for key in _OBSERVERS):
            continue
        calls = [participant] if "state" in participant else participant.get("calls")
        for call in calls if isinstance(calls, list) else []:
            if isinstance(call, Mapping) and isinstance(call.get("state"), str):
                purpose = participant.get("purpose")
                yield {
                    "id": participant.get("id"),
                    "purpose": purpose.lower() if isinstance(purpose, str) else "",
                    "state": call["state"].lower(),
                    "startTime": call.get("startTime"),
                    "connectedTime": call.get("connectedTime"),
                    "endTime": call.get("endTime"),
                    "disconnectedTime": call.get("disconnectedTime"),
                }


def _is_over(leg: Mapping[str, Any]) -> bool:
    return leg["state"] in _OVER or leg["endTime"] is not None or leg["disconnectedTime"] is not None


def _leg_id(leg: Mapping[str, Any]) -> str | None:
    return leg["id"] if isinstance(leg["id"], str) else None


def _media(record: Mapping[str, Any], received_at: float) -> Heard | None:
    """A leg's media after its end: loss is what was discarded of the received, latency the largest one measured."""
    conversation_id, ended = record.get("conversationId"), record.get("ended") is True
    if not isinstance(conversation_id, str):
        return None
    stats = record["mediaEndpointStats"]
    stats = stats if isinstance(stats, Mapping) else {}
    latency_ms = _number(stats.get("maxLatencyMs"))
    received, discarded = _number(stats.get("receivedPackets")), _number(stats.get("discardedPackets", 0))
    if not ended and np.isnan(latency_ms) and not received > 0:
        return None
    loss = min(discarded / received, 1.0) if received > 0 and discarded >= 0 else np.nan
    leg_id = record.get("participantId")
    return Heard(
        ENDED if ended else UPDATED,
        conversation_id,
        timestamp=received_at - latency_ms / 1000 if latency_ms >= 0 else np.nan,
        packet_loss=loss,
        leg_id=leg_id if isinstance(leg_id, str) else None,
        begins=False,
    )


def _number(value: Any) -> float:
    """A number that can be measured with, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return np.nan
    return float(value)


def _time(value: Any) -> float:
    """Epoch seconds of a time in seconds, in milliseconds or in ISO 8601 (UTC, if it names no zone), or NaN."""
    if isinstance(value, str):
        return _iso_time(value)
    seconds = _number(value)
    if abs(seconds) > MAX_EPOCH_S:
        seconds /= 1000
    return seconds if abs(seconds) <= MAX_EPOCH_S else np.nan


def _iso_time(text: str) -> float:
    found = _ISO_TIME.fullmatch(text)
    if found is None:
        return np.nan
    try:
        seconds = int(np.datetime64(found[1], "us").astype(np.int64)) / 1e6
    except ValueError:  # such as a 13th month
        return np.nan
    zone = found[2] or "Z"
    if zone != "Z":
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        seconds -= minutes * 60 if zone[0] == "+" else -minutes * 60
    return seconds if abs(seconds) <= MAX_EPOCH_S else np.nan
