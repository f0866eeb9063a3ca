"""Analytics of the simulated platform: the activity query, conversation details, and the query of details.

Shapes are those of Genesys' published API (ConversationActivityResponse, AnalyticsConversation, mediaEndpointStats).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from connectors.genesys.endpoints import ACTIVITY_PATH, DETAILS_PATH, DETAILS_QUERY_PATH
from connectors.genesys.simulator.call_book import CallBook, SimulatedCall, iso
from connectors.genesys.simulator.connection import Answer, HttpRequest
from connectors.genesys.simulator.directory import page
from connectors.genesys.simulator.media import endpoint_stats
from connectors.genesys.simulator.queries import QueryError, interval_of, matches, paging_of
from connectors.genesys.simulator.rest import Route, error_answer, parse_json, route
from connectors.genesys.simulator.stories import Leg

__all__ = ["Analytics"]

_MAX_ENTITIES = 500
_MAX_CONVERSATIONS = 100
_METRICS: Final[dict[str, Callable[[Leg, float], bool]]] = {
    "oInteracting": lambda leg, at_s: leg.agent is not None and leg.state(at_s) == "connected",
    "oAlerting": lambda leg, at_s: leg.agent is not None and leg.state(at_s) == "alerting",
    "oWaiting": lambda leg, at_s: leg.purpose == "acd" and leg.state(at_s) == "connected",
}
_TYPES = {"transport.failure": "transportFailure", "transfer.conference": "conferenceTransfer"}


class Analytics:
    """Knows the calls of a book: activity at once, and media `after_s` after a call's end.

    `details` holds answers that take precedence, by conversation id.
    """

    def __init__(self, book: CallBook, *, now: Callable[[], float], after_s: float) -> None:
        self._book = book
        self._now = now
        self._after_s = after_s
        self.details: dict[str, Any] = {}

    def routes(self) -> list[Route]:
        """Return the routes of analytics; the query of details comes before the route of one conversation."""
        return [
            route("activity", ACTIVITY_PATH, {"POST": self._activity}),
            route("details-query", DETAILS_QUERY_PATH, {"POST": self._query}),
            route("details", DETAILS_PATH, {"GET": self._one}),
        ]

    def _one(self, request: HttpRequest, id_: str) -> Answer:  # noqa: ARG002
        call = self._book.get(id_)
        known = self.details.get(id_)
        if known is None and call is not None:
            known = self._conversation(call)
        return error_answer(404, "not.found", "no such conversation") if known is None else Answer(200, known)

    def _activity(self, request: HttpRequest) -> Answer:
        """Answer an activity query; entities come for metrics with `details`, and one result for each group."""
        try:
            asked = parse_json(request)
            metrics = [(metric["metric"], metric.get("details") is True) for metric in asked["metrics"]]
            group_by = list(asked.get("groupBy", []))
            size, number = paging_of(request, _MAX_ENTITIES)
            if unknown := [metric for metric, _ in metrics if metric not in _METRICS]:
                raise QueryError(f"metric {unknown[0]} is not simulated")
            found = [
                (metric, detailed, entity)
                for metric, detailed in metrics
                for entity in self._entities(metric)
                if matches(asked.get("filter"), entity)
            ]
        except (QueryError, ValueError, TypeError, KeyError, AttributeError) as error:
            return error_answer(400, "bad.request", f"the query is not valid: {error}")
        groups: dict[tuple[Any, ...], list[tuple[str, bool, dict[str, Any]]]] = {}
        for one in found:
            groups.setdefault(tuple(one[2].get(key) for key in group_by), []).append(one)
        results = []
        for values, ones in groups.items():
            entities = [entity for _, detailed, entity in ones if detailed]
            counts = [{"metric": m, "count": sum(one[0] == m for one in ones)} for m, _ in metrics]
            results.append(
                {
                    "group": dict(zip(group_by, values, strict=True)),
                    "data": counts,
                    "truncated": len(entities) > number * size,
                    "entities": page(entities, size, number),
                }
            )
        return Answer(200, {"results": results})

    def _entities(self, metric: str) -> Iterator[dict[str, Any]]:
        now = self._now()
        for call in self._book.in_progress():
            for leg in call.legs:
                if _METRICS[metric](leg, now - call.began_at):
                    yield _entity(metric, call, leg)

    def _query(self, request: HttpRequest) -> Answer:
        """Answer a query of details, by pages; conversations that analytics does not know yet are left out."""
        try:
            asked = parse_json(request)
            begins, ends = interval_of(asked["interval"])
            paging = asked.get("paging", {})
            size, number = paging.get("pageSize", 25), paging.get("pageNumber", 1)
            if not (isinstance(size, int) and 1 <= size <= _MAX_CONVERSATIONS and isinstance(number, int) and number):
                raise QueryError(f"pageSize must be 1 to {_MAX_CONVERSATIONS}, pageNumber at least 1")
            found = []
            for call in self._book.calls:
                ended = math.inf if call.ended_at is None else call.ended_at
                if call.began_at >= ends or ended < begins:
                    continue
                conversation = self._conversation(call)
                if all(matches(one, conversation) for one in asked.get("conversationFilters", [])) and (
                    _any_segment(asked.get("segmentFilters", []), conversation)
                ):
                    found.append(conversation)
        except (QueryError, ValueError, TypeError, KeyError, AttributeError) as error:
            return error_answer(400, "bad.request", f"the query is not valid: {error}")
        body: dict[str, Any] = {"totalHits": len(found)}
        if shown := page(found, size, number):  # an empty page has no list
            body["conversations"] = shown
        return Answer(200, body)

    def _conversation(self, call: SimulatedCall) -> dict[str, Any]:
        """Show a call as far as analytics knows it: its end and its media come late."""
        now = self._now()
        known = call.ended_at is not None and now >= call.ended_at + self._after_s
        at_s = (now if call.ended_at is None else call.ended_at) - call.began_at
        participants, lowest = [], []
        for leg in call.legs:
            if leg.state(at_s) is None:
                continue
            session = _session(call, leg, at_s)
            if known and leg.purpose != "acd" and leg.connects_s < math.inf:
                stats = endpoint_stats(call, leg)
                session["mediaEndpointStats"] = [stats]
                lowest.append(stats)
            shown = {"participantId": leg.id, "purpose": leg.purpose, "sessions": [session]}
            participants.append(shown if leg.agent is None else {**shown, "userId": leg.agent.id})
        conversation: dict[str, Any] = {
            "conversationId": call.id,
            "conversationStart": iso(call.began_at),
            "originatingDirection": call.story.direction,
            "divisionIds": sorted({leg.queue.division.id for leg in call.legs if leg.queue is not None}),
            "participants": participants,
        }
        if known and call.ended_at is not None:
            conversation["conversationEnd"] = iso(call.ended_at)
        if lowest:
            conversation["mediaStatsMinConversationMos"] = min(one["minMos"] for one in lowest)
            conversation["mediaStatsMinConversationRFactor"] = min(one["minRFactor"] for one in lowest)
        return conversation


def _entity(metric: str, call: SimulatedCall, leg: Leg) -> dict[str, Any]:
    entity = {
        "activityDate": iso(call.began_at + (leg.connects_s if metric != "oAlerting" else leg.begins_s)),
        "metric": metric,
        "conversationId": call.id,
        "sessionId": leg.session_id,
        "direction": call.story.direction,
        "mediaType": "voice",
        "ani": f"tel:+1317555{call.slot % 10_000:04}",
        "dnis": "tel:+13175550100",
    }
    if leg.queue is not None:
        entity["queueId"] = leg.queue.id
    if leg.agent is not None:
        entity["userId"] = leg.agent.id
    return entity


def _session(call: SimulatedCall, leg: Leg, at_s: float) -> dict[str, Any]:
    edge = call.story.edge
    session: dict[str, Any] = {
        "sessionId": leg.session_id,
        "mediaType": "voice",
        "direction": call.story.direction,
        "edgeId": edge.id,
        "provider": edge.provider,
        "segments": [_segment(call, leg, *part) for part in _parts(leg, at_s)],
    }
    return session


def _parts(leg: Leg, at_s: float) -> Iterator[tuple[str, float, float, bool]]:
    """Yield the segments of a leg: their type, begin and end in seconds of the call, and whether each has ended."""
    ends_s = min(leg.ends_s, at_s)
    over = leg.ends_s <= at_s
    begins_s = leg.begins_s
    connects_s = min(leg.connects_s, ends_s)
    if begins_s < connects_s or leg.connects_s == math.inf:
        yield "alert", begins_s, connects_s, leg.connects_s <= at_s or over
    if leg.connects_s > at_s:
        return
    at = leg.connects_s
    for from_s, until_s in leg.held_s:
        if from_s < ends_s:
            yield "interact", at, from_s, True
            at = min(until_s, ends_s)
            yield "hold", from_s, at, until_s <= at_s
    if at < ends_s or not leg.held_s:
        yield ("delay" if leg.purpose == "acd" else "interact"), at, ends_s, over


def _segment(call: SimulatedCall, leg: Leg, kind: str, begins_s: float, ends_s: float, ended: bool) -> dict[str, Any]:  # noqa: FBT001
    segment: dict[str, Any] = {"segmentType": kind, "segmentStart": iso(call.began_at + begins_s), "conference": False}
    if leg.queue is not None:
        segment["queueId"] = leg.queue.id
    if ended:
        segment["segmentEnd"] = iso(call.began_at + ends_s)
        if ends_s == leg.ends_s:
            segment["disconnectType"] = _TYPES.get(leg.disconnect_type, leg.disconnect_type)
            if leg.error_code is not None:
                segment["errorCode"] = leg.error_code
    return segment


def _any_segment(filters: list[Any], conversation: dict[str, Any]) -> bool:
    """Whether one segment, with what its session and participant say, passes all filters."""
    segments = [
        {**participant, **session, **segment}
        for participant in conversation["participants"]
        for session in participant["sessions"]
        for segment in session["segments"]
    ]
    return not filters or any(all(matches(one, segment) for one in filters) for segment in segments)
