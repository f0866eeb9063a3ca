"""Telephony of the simulated platform: media statistics during a call, metrics of trunks, operational events.

Media statistics take the shape of Genesys' preview `edges/mediastatistics`: readings are cumulative, and jitter is in
seconds. What a trunk and an edge publish is their share of the topics' fields.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from connectors.genesys.endpoints import MEDIA_STATISTICS_PATH
from connectors.genesys.simulator.call_book import CallBook, SimulatedCall, iso
from connectors.genesys.simulator.connection import Answer, HttpRequest
from connectors.genesys.simulator.media import capped, genesys_mos
from connectors.genesys.simulator.rest import Route, error_answer, route
from connectors.genesys.simulator.stories import Leg

__all__ = ["ORGANISATION_ID", "Telephony", "operational_event"]

ORGANISATION_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000c"

_PACKETS_PER_S = 50
_SAMPLED_S = 5.0
_DESCRIPTIONS = {
    "AUDIOHOOK-0001": ("AudioHook integration error", "The provisioned server URI is invalid."),
    "AUDIOHOOK-0002": ("AudioHook connection error", "The connection to the server was closed unexpectedly."),
}


class Telephony:
    """Knows the media of the calls in a book while they are in progress."""

    def __init__(self, book: CallBook, *, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now
        self._offline: set[str] = set()

    def routes(self) -> list[Route]:
        """Return the route of media statistics."""
        return [route("mediastatistics", MEDIA_STATISTICS_PATH, {"GET": self._statistics})]

    def trunk_metrics(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the topic and the body that each edge's trunk publishes now."""
        now, calls = self._now(), list(self._book.in_progress())
        for edge in self._book.organisation.edges:
            own = [call for call in calls if call.story.edge is edge]
            outbound = sum(call.story.direction == "outbound" for call in own)
            trunk = trunk_id(edge.id)
            yield (
                f"v2.telephony.providers.edges.trunks.{trunk}.metrics",
                {
                    "trunk": {"id": trunk},
                    "eventTime": iso(now),
                    "calls": {"inboundCallCount": len(own) - outbound, "outboundCallCount": outbound},
                    "qos": {"mismatchCount": sum(call.added_loss > 0 or call.added_ms > 0 for call in own)},
                },
            )

    def edge_changes(self, offline: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the topic and the body of each edge that went offline or online: `offline` names those that are."""
        changed, self._offline = self._offline ^ offline, offline
        for edge in self._book.organisation.edges:
            if edge.name in changed:
                status = "OFFLINE" if edge.name in offline else "ONLINE"
                yield f"v2.telephony.providers.edges.{edge.id}", {"id": edge.id, "onlineStatus": status}

    def _statistics(self, request: HttpRequest, id_: str) -> Answer:  # noqa: ARG002
        call = self._book.get(id_)
        if call is None:
            return error_answer(404, "not.found", "no such conversation")
        at_s = (self._now() if call.ended_at is None else call.ended_at) - call.began_at
        legs = [leg for leg in call.legs if leg.purpose in ("customer", "agent") and leg.connects_s <= at_s]
        return Answer(200, {"entities": [_entity(call, leg, at_s) for leg in legs]})


def operational_event(event: str, now: float, conversation_id: str | None = None) -> tuple[str, dict[str, Any]]:
    """Build an operational event, such as AUDIOHOOK-0001: its topic and its body."""
    name, description = _DESCRIPTIONS.get(event, (event, "Something happened on the platform."))
    body: dict[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{event}/{now}")),
        "eventEntity": {"id": event, "name": name, "description": description},
        "entityId": ORGANISATION_ID,
        "entityName": "voicewatch",
        "entityType": "integration",
        "errorCode": "1006",
        "timestamp": iso(now),
    }
    if conversation_id is not None:
        body["conversationId"] = conversation_id
    return f"v2.operations.events.{ORGANISATION_ID}", body


def trunk_id(edge_id: str) -> str:
    """Return the id of an edge's trunk."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"trunk/{edge_id}"))


def _entity(call: SimulatedCall, leg: Leg, at_s: float) -> dict[str, Any]:
    """Show one communication: what the server counts, and for agents what their softphone reports every 5 s."""
    region = call.story.edge.region
    heard_s = min(leg.ends_s, at_s) - leg.connects_s
    statistics = [_reading(call, leg, "Server", heard_s)]
    if leg.agent is not None and heard_s >= _SAMPLED_S:
        statistics.append(_reading(call, leg, "Client", heard_s - heard_s % _SAMPLED_S))
    return {
        "communicationId": leg.session_id,
        "dateStart": iso(call.began_at + leg.connects_s),
        "preferredRegion": region,
        "effectiveRegion": region,
        "mediaStatistics": statistics,
    }


def _reading(call: SimulatedCall, leg: Leg, source: str, heard_s: float) -> dict[str, Any]:
    edge = call.story.edge
    packets = round(heard_s * _PACKETS_PER_S)
    loss = min(call.added_loss + (call.agent_loss if source == "Client" else 0.0), 1.0)
    mos, _ = capped(*genesys_mos(30 + call.added_ms, loss), call.highest_mos)
    created = iso(call.began_at + leg.connects_s + heard_s)
    reading: dict[str, Any] = {
        "sourceType": source,
        "rtp": {
            "packetsReceived": round(packets * (1 - loss)),
            "packetsSent": packets,
            "rtpEventsReceived": 0,
            "rtpEventsSent": 0,
            "estimatedAverageMos": mos,
            "averageJitter": round(0.004 + call.added_ms / 10_000, 4),
        },
        "reconnectAttempts": 0,
        "dateCreated": created,
        "dateProcessed": created,
    }
    if leg.agent is None:
        reading["trunk"] = {"id": trunk_id(edge.id), "name": f"{edge.name} trunk", "type": "EXTERNAL"}
    else:
        reading["station"] = {"id": leg.agent.station_id}
        reading["user"] = {"id": leg.agent.id, "name": leg.agent.name}
    return reading
