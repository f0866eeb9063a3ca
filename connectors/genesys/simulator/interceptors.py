"""The load check and the interceptors of the simulated platform, and the subscription to its voice events."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from connectors.genesys.endpoints import INTERCEPTOR_PATH, LOAD_PATH
from connectors.genesys.simulator.calls import EVENT_TYPES
from connectors.genesys.simulator.connection import Answer, HttpRequest
from connectors.genesys.simulator.rest import Route, error_answer, parse_json, route

__all__ = ["CreatedInterceptor", "Interceptors", "is_subscription"]


@dataclass(frozen=True, slots=True)
class CreatedInterceptor:
    """An interceptor that the simulator created; `body` is what was asked for, `at` epoch seconds."""

    id: str
    conversation_id: str
    body: Any
    at: float


class Interceptors:
    """Creates interceptors and answers the load check; `entities` lists the conversations in progress."""

    def __init__(self, entities: Callable[[], Sequence[dict[str, Any]]], now: Callable[[], float]) -> None:
        self._entities = entities
        self._now = now
        self.created: list[CreatedInterceptor] = []

    def routes(self) -> list[Route]:
        """Return the routes of both."""
        return [
            route("load", LOAD_PATH, {"GET": self._load}),
            route("create", INTERCEPTOR_PATH, {"POST": self._create}),
        ]

    def _load(self, request: HttpRequest) -> Answer:
        if parse_qs(urlsplit(request.target).query).get("conversationType") != ["voice"]:
            return error_answer(400, "bad.request", "conversationType must be voice")
        return Answer(200, {"entities": self._entities()})

    def _create(self, request: HttpRequest, conversation_id: str) -> Answer:
        try:
            body = parse_json(request)
        except ValueError:
            return error_answer(400, "bad.request", "the body is not JSON")
        if not isinstance(body, dict | None):
            return error_answer(400, "bad.request", "the body is not an object")
        created = CreatedInterceptor(str(uuid.uuid4()), conversation_id, body, self._now())
        self.created.append(created)
        return Answer(201, {**(body or {}), "id": created.id, "conversationId": conversation_id})


def is_subscription(message: str | bytes) -> bool:
    """Whether this is the one subscription that the event WebSocket knows: all three events, of conversations."""
    if not isinstance(message, str):
        return False
    try:
        asked = orjson.loads(message)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(asked, dict) or not isinstance(types := asked.get("eventTypes"), list):
        return False
    return sorted(map(str, types)) == sorted(EVENT_TYPES) and asked.get("filters") == {"entityTypes": ["conversation"]}
