"""What Genesys' notifications say of a voice conversation. Pure.

Four forms of a message are known here, each a JSON object without the `event` key of a voice event:

- a notification, with `topicName` and `eventBody`: a detail event of a conversation (with the time of the event), a
  snapshot of a conversation's call (without), or a transcription event;
- an EventBridge record, whose `detail` is a notification;
- a media record, with `conversationId` and `mediaEndpointStats`, which the notifications feed makes of what analytics
  knows of one leg's media after its end;

- an audio record, with `conversationId` and `audioLevel`: a fault that the AudioHook feed found in what is to be heard.

One message alone cannot tell whether its conversation is over: another leg may be alive. The notifications feed keeps
the legs of each conversation, and writes its decision into a recorded message as a top-level `over`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from connectors.format.labels import is_label_value
from connectors.format.values import epoch_seconds, number_or_nan

__all__ = [
    "AGENTS",
    "ENDED",
    "OVER",
    "UPDATED",
    "Heard",
    "Leg",
    "body_of",
    "call_legs",
    "is_calls_topic",
    "is_notification",
    "labels_of",
    "legs_of",
    "place_in_time",
    "read_notification",
    "topic_of",
]

STARTED: Final = "conversation.started"
UPDATED: Final = "conversation.updated"
ENDED: Final = "conversation.ended"

_DETAIL = re.compile(r"v2\.detail\.events\.conversation\.[^.]+\.(.+)")
_TRANSCRIPTION = re.compile(r"v2\.conversations\.[^.]+\.transcription")
_CALLS = re.compile(r"v2\.(routing\.queues|users)\.[^.]+\.conversations(\.calls)?")
OVER: Final = frozenset({"disconnected", "terminated"})
"""The states of a leg that has ended."""
AGENTS: Final = frozenset({"agent", "user"})
"""The purposes of participants who are agents."""
_INSIDE = AGENTS | {"acd", "ivr", "workflow", "voicemail", "campaign"}
_CUSTOMERS = frozenset({"customer", "external"})
_OBSERVERS = ("monitoredParticipantId", "coachedParticipantId")
_AFTERWARDS = frozenset({"acw", "wrapup"})


class Heard(NamedTuple):
    """What a message says of its conversation.

    `event` is the voice event that it amounts to. `timestamp` (epoch seconds) is the moment that its latency is
    measured from, NaN without one. `leg_id` is the participant or session that it is about. `begins` is false also for
    messages that follow a conversation's end. `session_id` is the session of an event with its own time, "" without.
    """

    event: str
    conversation_id: str
    timestamp: float = np.nan
    leg_id: str | None = None
    begins: bool = True
    session_id: str = ""

    @property
    def ended(self) -> bool:
        """Return whether this is the last message of the conversation."""
        return self.event == ENDED


class Leg(NamedTuple):
    """What a message says of one leg: a participant of the conversation, or a session of an unnamed participant.

    `started_at` and `ended_at` are epoch seconds, NaN if the message does not say. An end without a time is infinite.
    """

    id: str
    is_customer: bool
    started_at: float
    ended_at: float


def is_notification(record: Mapping[str, Any]) -> bool:
    """Tell whether an object has one of the forms that are read here, whatever its content.

    >>> is_notification({"topicName": "channel.metadata"}), is_notification({"event": "x", "topicName": "y"})
    (True, False)
    """
    if "event" in record:
        return False
    return (
        "topicName" in record
        or "mediaEndpointStats" in record
        or "mediaStatistics" in record
        or "audioLevel" in record
        or ("detail-type" in record and "detail" in record)
    )


def topic_of(record: Mapping[str, Any]) -> str:
    """Return the topic of a notification or an EventBridge record, "" without one.

    >>> topic_of({"detail-type": "v2.detail.events.conversation.{id}.acw", "detail": {}})
    'v2.detail.events.conversation.{id}.acw'
    """
    topic = _notification(record).get("topicName", record.get("detail-type"))
    return topic if isinstance(topic, str) else ""


def body_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the `eventBody` of a notification or an EventBridge record, None without one."""
    body = _notification(record).get("eventBody")
    return body if isinstance(body, Mapping) else None


def is_calls_topic(topic: str) -> bool:
    """Tell whether messages of a topic are snapshots of a conversation's call."""
    return _CALLS.fullmatch(topic) is not None


def read_notification(record: Mapping[str, Any]) -> Heard | None:
    """Return what a message says; None for a kind that is not known here.

    Two top-level keys are written by the notifications feed, which removes them from the messages that it receives.
    `"over"` decides whether the conversation ends with this message. `"enrich": true` means that a media record will
    end it, so that this message does not.

    >>> body = {"conversationId": "c", "eventTime": 1765551750107, "mediaType": "VOICE", "sessionId": "s"}
    >>> read_notification({"topicName": "v2.detail.events.conversation.c.customer.end", "eventBody": body})[:3]
    ('conversation.ended', 'c', 1765551750.107)
    """
    if "mediaEndpointStats" in record:
        return _media(record)
    if "mediaStatistics" in record:
        id_ = record.get("conversationId")
        return Heard(UPDATED, id_, begins=False) if isinstance(id_, str) else None
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
    if heard is None:
        return None
    if isinstance(over := record.get("over"), bool) and over != heard.ended:
        heard = heard._replace(event=ENDED if over else UPDATED, begins=False if over else heard.begins)
    if heard.ended and record.get("enrich") is True:
        return heard._replace(event=UPDATED, begins=False)
    return heard


def legs_of(record: Mapping[str, Any]) -> list[Leg]:
    """Return what a notification says of the legs of its conversation.

    >>> body = {"conversationId": "c", "participantId": "p", "eventTime": 1765551750107}
    >>> legs_of({"topicName": "v2.detail.events.conversation.c.user.end", "eventBody": body})
    [Leg(id='p', is_customer=False, started_at=nan, ended_at=1765551750.107)]
    """
    topic, body = topic_of(record), _notification(record).get("eventBody")
    if not isinstance(body, Mapping):
        return []
    if _CALLS.fullmatch(topic):
        return [_leg_of_snapshot(leg) for leg in call_legs(body) if isinstance(leg["id"], str)]
    detail = _DETAIL.fullmatch(topic)
    party, _, change = ("", "", "") if detail is None else detail[1].partition(".")
    if party not in {"customer", "user"} or change not in {"start", "end"}:
        return []
    leg_id = next((body[key] for key in ("participantId", "sessionId") if isinstance(body.get(key), str)), "")
    at = epoch_seconds(body.get("eventTime"))
    if change == "start":
        return [Leg(leg_id, party == "customer", at, np.nan)]
    return [Leg(leg_id, party == "customer", np.nan, np.inf if np.isnan(at) else at)]


def labels_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what a notification says of its conversation's labels: ids of queue, agent, team, division, edge, station;
    provider and direction. Of several agents, the one who is connected, or alerted, counts.

    >>> body = {"conversationId": "c", "queueId": "q", "userId": "u", "direction": "INBOUND"}
    >>> labels_of({"topicName": "v2.detail.events.conversation.c.user.start", "eventBody": body})
    {'queue': 'q', 'agent': 'u', 'direction': 'inbound'}
    """
    topic, body = topic_of(record), _notification(record).get("eventBody")
    if not isinstance(body, Mapping):
        return {}
    if _CALLS.fullmatch(topic):
        found = _labels_of_snapshot(body)
    elif (detail := _DETAIL.fullmatch(topic)) is not None:
        found = {
            "queue": body.get("queueId"),
            "agent": body.get("userId") if detail[1] == "user.start" else None,
            "team": body.get("teamId"),
            "division": body.get("divisionId"),
            "edge": body.get("edgeId"),
            "station": body.get("stationId"),
            "provider": body.get("provider"),
            "direction": body.get("direction"),
        }
    else:
        return {}
    labels = {name: value for name, value in found.items() if is_label_value(value)}
    if "direction" in labels:
        labels["direction"] = labels["direction"].lower()
    return labels


def place_in_time(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return when a message captured outside a journal arrived, and when it was sent, epoch seconds.

    Either is NaN if it is not known. The arrival is `receivedAt` or `received_at`: seconds, milliseconds or ISO 8601.
    The sending is the newest time that the message itself names.
    """
    arrival = epoch_seconds(record.get("receivedAt", record.get("received_at")))
    notification = _notification(record)
    body = notification.get("eventBody")
    times = [epoch_seconds(notification.get("timestamp")), epoch_seconds(record.get("time"))]
    if isinstance(body, Mapping):
        times.append(epoch_seconds(body.get("eventTime")))
        for leg in call_legs(body):
            times += [
                epoch_seconds(leg.get(key)) for key in ("startTime", "connectedTime", "endTime", "disconnectedTime")
            ]
    known = [time for time in times if not np.isnan(time)]
    return arrival, max(known, default=np.nan)


def _notification(record: Mapping[str, Any]) -> Mapping[str, Any]:
    detail = record.get("detail")
    if "topicName" in record or not isinstance(detail, Mapping):
        return record
    return detail


def _detail_event(kind: str, body: Mapping[str, Any]) -> Heard | None:
    """Read a body that carries its own time."""
    conversation_id = body.get("conversationId")
    media = body.get("mediaType", "VOICE")
    if not isinstance(conversation_id, str) or not isinstance(media, str) or media.upper() != "VOICE":
        return None
    event = {"customer.start": STARTED, "customer.end": ENDED}.get(kind, UPDATED)
    leg_ids = (body.get(key) for key in ("participantId", "sessionId", "communicationId"))
    session_ids = (body.get(key) for key in ("sessionId", "communicationId"))
    return Heard(
        event,
        conversation_id,
        timestamp=epoch_seconds(body.get("eventTime")),
        leg_id=next((id_ for id_ in leg_ids if isinstance(id_, str)), None),
        begins=event != ENDED and kind not in _AFTERWARDS,
        session_id=next((id_ for id_ in session_ids if isinstance(id_, str)), ""),
    )


def _snapshot(body: Mapping[str, Any]) -> Heard | None:
    """Read a conversation as it is now: over when none of its legs is alive, and a call can have taken place.

    Without a leg of a customer, an agent who did not answer does not end it: the call may be routed to another. Two
    legs must then have been connected with each other.
    """
    conversation_id = body.get("id")
    legs = list(call_legs(body))
    if not isinstance(conversation_id, str) or not legs:
        return None
    alive = [leg for leg in legs if not _is_over(leg)]
    answered = sum(leg["purpose"] in AGENTS and leg["connectedTime"] is not None for leg in legs)
    if not alive and answered < 2 and all(leg["purpose"] in _INSIDE for leg in legs):
        return Heard(UPDATED, conversation_id, leg_id=_leg_id(legs[-1]), begins=False)
    if not alive:
        return Heard(ENDED, conversation_id, leg_id=_leg_id(legs[-1]), begins=False)
    reached = any(leg["purpose"] in AGENTS and (leg["state"] == "connected" or leg["connectedTime"]) for leg in legs)
    alive.sort(key=lambda leg: (leg["purpose"] not in AGENTS, leg["state"] != "connected"))
    return Heard(UPDATED if reached else STARTED, conversation_id, leg_id=_leg_id(alive[0]))


def call_legs(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the calls of all participants: in `…conversations.calls` each participant is one, in `…conversations` it
    has any number. Observers, who may stay when all others have left, are left out.
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
                    "participant": participant,
                    "call": call,
                    "id": participant.get("id"),
                    "purpose": purpose.lower() if isinstance(purpose, str) else "",
                    "state": call["state"].lower(),
                    "startTime": call.get("startTime"),
                    "connectedTime": call.get("connectedTime"),
                    "endTime": call.get("endTime"),
                    "disconnectedTime": call.get("disconnectedTime"),
                }


def _leg_of_snapshot(leg: Mapping[str, Any]) -> Leg:
    started = [epoch_seconds(leg[key]) for key in ("startTime", "connectedTime")]
    ended = [at for at in (epoch_seconds(leg[key]) for key in ("endTime", "disconnectedTime")) if not np.isnan(at)]
    return Leg(
        leg["id"],
        leg["purpose"] in _CUSTOMERS,
        max((at for at in started if not np.isnan(at)), default=np.nan),
        max(ended, default=np.inf) if _is_over(leg) else np.nan,
    )


def _labels_of_snapshot(body: Mapping[str, Any]) -> dict[str, Any]:
    legs = sorted(call_legs(body), key=lambda leg: (_is_over(leg), leg["state"] != "connected"))
    agent: Mapping[str, Any] = next(
        (leg["participant"] for leg in legs if leg["purpose"] in AGENTS and not _is_over(leg)), {}
    )
    party = next((leg["call"] for leg in legs if leg["purpose"] not in AGENTS), agent)
    places = [agent, *(leg["participant"] for leg in legs)]
    return {
        "queue": next((id_ for place in places if (id_ := _reference(place, "queue")) is not None), None),
        "agent": _reference(agent, "user"),
        "team": _reference(agent, "team"),
        "division": next((id_ for place in places if (id_ := _reference(place, "division")) is not None), None),
        "provider": party.get("provider"),
        "direction": party.get("direction"),
    }


def _reference(participant: Mapping[str, Any], name: str) -> str | None:
    """Return the id of a participant's queue, user or the like: `{"queue": {"id": …}}` or `queueId`."""
    value = participant.get(name)
    id_ = value.get("id") if isinstance(value, Mapping) else participant.get(f"{name}Id")
    return id_ if isinstance(id_, str) else None


def _is_over(leg: Mapping[str, Any]) -> bool:
    return leg["state"] in OVER or leg["endTime"] is not None or leg["disconnectedTime"] is not None


def _leg_id(leg: Mapping[str, Any]) -> str | None:
    return leg["id"] if isinstance(leg["id"], str) else None


def _media(record: Mapping[str, Any]) -> Heard | None:
    """Read that there is a leg's media; its figures are the leg's (`connectors.format.media`), not the call's."""
    conversation_id, ended = record.get("conversationId"), record.get("ended") is True
    if not isinstance(conversation_id, str):
        return None
    stats = record["mediaEndpointStats"]
    stats = stats if isinstance(stats, Mapping) else {}
    latency_ms, received = number_or_nan(stats.get("maxLatencyMs")), number_or_nan(stats.get("receivedPackets"))
    if not ended and np.isnan(latency_ms) and not received > 0:
        return None
    leg_id = record.get("participantId")
    leg_id = leg_id if isinstance(leg_id, str) else None
    return Heard(ENDED if ended else UPDATED, conversation_id, leg_id=leg_id, begins=False)
