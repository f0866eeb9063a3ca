"""What notification topics say about the calls of a simulated organisation: detail events, snapshots, metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from connectors.genesys.simulator.call_book import SimulatedCall, iso
from connectors.genesys.simulator.stories import Leg, Moment

__all__ = ["DELIVERY_S", "Notification", "measurement", "of_moment"]

DELIVERY_S: Final = 0.16
"""How long a notification takes when all is well."""

_AFTER_S = 0.001  # a snapshot is taken after the change, whatever rounding did to its time
_KINDS = {"customer": "customer", "acd": "acd", "agent": "user"}

Notification = tuple[str, dict[str, Any]]
"""A topic and an event body."""


def measurement(call: SimulatedCall, number: int, event_time: float) -> Notification:
    """Build a detail event that stands for nothing but its time: number `number` of the call's flow."""
    body = {**_body(call, call.legs[0], event_time), "sessionId": f"{call.id[:8]}-flow-{number}"}
    return _topic(call, "flow.start" if number % 2 else "flow.end"), body


def of_moment(
    call: SimulatedCall, moment: Moment, now: float, event_time: float, *, premature: bool = False
) -> Iterator[Notification]:
    """Yield what a change of a leg is notified with: a detail event, metrics with the edge, and snapshots.

    With `premature`, snapshots show only the agents' legs when one of them was not answered, as Genesys' may.
    """
    leg, change = moment.leg, moment.change
    now = max(now, call.began_at + moment.at_s + _AFTER_S)
    kind = _KINDS.get(leg.purpose)
    starts = "connects" if leg.agent is not None else "begins"
    if kind is not None and change in (starts, "ends"):
        verb = "end" if change == "ends" else "start"
        body = _body(call, leg, event_time)
        yield _topic(call, f"{kind}.{verb}"), body if verb == "start" else body | _durations(leg)
    if leg.agent is not None and change in ("connects", "ends"):
        metric = "nError" if leg.error_code is not None and change == "ends" else "nConnected"
        yield f"v2.analytics.conversation.{call.id}.metrics", _metrics(call, leg, metric, now)
    only_agents = premature and change == "ends" and leg.agent is not None and leg.state(leg.ends_s) == "terminated"
    snapshot = call.snapshot(now, only_agents=only_agents)
    at_s = now - call.began_at
    begun = [each for each in call.legs if each.begins_s <= at_s]
    for queue in {each.queue.id: None for each in begun if each.queue is not None}:
        yield f"v2.routing.queues.{queue}.conversations.calls", snapshot
    for user in {each.agent.id: None for each in begun if each.agent is not None}:
        yield f"v2.users.{user}.conversations.calls", snapshot


def _topic(call: SimulatedCall, event: str) -> str:
    return f"v2.detail.events.conversation.{call.id}.{event}"


def _body(call: SimulatedCall, leg: Leg, event_time: float) -> dict[str, Any]:
    body: dict[str, Any] = {
        "eventTime": round(event_time * 1000),
        "conversationId": call.id,
        "participantId": leg.id,
        "sessionId": leg.session_id,
        "mediaType": "VOICE",
        "provider": call.story.edge.provider,
        "direction": call.story.direction.upper(),
    }
    if leg.queue is not None:
        body |= {"queueId": leg.queue.id, "divisionId": leg.queue.division.id}
    if leg.agent is not None:
        body["userId"] = leg.agent.id
    return body


def _durations(leg: Leg) -> dict[str, Any]:
    connected = min(leg.connects_s, leg.ends_s)
    held_s = sum(ends_s - begins_s for begins_s, ends_s in leg.held_s)
    durations = {
        "disconnectType": leg.disconnect_type.replace(".", "_").upper(),
        "interactingDurationMs": round((leg.ends_s - connected - held_s) * 1000),
    }
    if leg.agent is not None:
        durations |= {
            "heldDurationMs": round(held_s * 1000),
            "alertingDurationMs": round((connected - leg.begins_s) * 1000),
        }
    return durations


def _metrics(call: SimulatedCall, leg: Leg, metric: str, now: float) -> dict[str, Any]:
    body = {
        "metric": metric,
        "metricDate": iso(now),
        "value": 1,
        "conversationId": call.id,
        "sessionId": leg.session_id,
        "mediaType": "voice",
        "direction": call.story.direction,
        "purpose": leg.purpose,
        "edgeId": call.story.edge.id,
        "provider": call.story.edge.provider,
        "originatingDirection": call.story.direction,
    }
    if leg.queue is not None:
        body["queueId"] = leg.queue.id
    if leg.agent is not None:
        body |= {"userId": leg.agent.id, "stationId": leg.agent.station_id}
    if leg.error_code is not None:
        body |= {"errorCode": leg.error_code, "disconnectType": "error"}
    return body
