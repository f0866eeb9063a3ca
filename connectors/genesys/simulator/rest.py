"""The REST side of a simulator: tokens, routes, rate limits, and the faults of requests.

`RestApi` answers the routes that it is given. Bodies and headers are those of Genesys' published API where it has them
(ErrorBody, `inin-ratelimit-*`).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import secrets
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from connectors.genesys.endpoints import TOKEN_PATH
from connectors.genesys.simulator.connection import Answer, HttpRequest, Silence
from connectors.genesys.simulator.faults import Refuse, RequestFault
from connectors.runtime.logs import get_logger

__all__ = ["RestApi", "Route", "error_answer", "parse_json", "route"]

_ALLOWED_PER_MINUTE = 300

Responder = Callable[..., Answer]
"""Answers a request; takes it and the unquoted parts of its path."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path that is answered: `responders` by method; `kind` is the name in faults, scripts and counts."""

    kind: str
    path: re.Pattern[str]
    responders: Mapping[str, Responder]
    is_public: bool = False


def route(kind: str, template: str, responders: Mapping[str, Responder], *, is_public: bool = False) -> Route:
    """Build a route from a path with names in braces, such as `/things/{thingId}`, and responders by method."""
    pattern = re.sub(r"\\{\w+\\}", "([^/]+)", re.escape(template))
    return Route(kind, re.compile(pattern), responders, is_public)


class RestApi:
    """Answers requests to `routes` and for tokens; `now` gives epoch seconds.

    Without `credentials` (id and secret) any client that has both gets a token, valid for `token_life_s`.
    `requests` counts by kind; `scripts` holds the next answers to a kind.
    """

    def __init__(
        self,
        routes: Sequence[Route] = (),
        *,
        now: Callable[[], float],
        faults: Sequence[RequestFault] = (),
        credentials: tuple[str, str] | None = None,
        token_life_s: float = 86_399,
    ) -> None:
        self._routes = [route("token", TOKEN_PATH, {"POST": self._token}, is_public=True), *routes]
        self._now = now
        self._faults = [(fault, [fault.times]) for fault in faults]
        self._credentials = credentials
        self._token_life_s = token_life_s
        self._expiries: dict[str, float] = {}
        self._minute = 0.0
        self._requests_this_minute = 0
        self.tokens_issued = 0
        self.requests: defaultdict[str, int] = defaultdict(int)
        self.scripts: defaultdict[str, deque[Answer | Silence]] = defaultdict(deque)

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        self._expiries.clear()

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request, with the rate limit headers of Genesys."""
        answer = self._answer(request)
        return self._with_limits(answer) if isinstance(answer, Answer) else answer

    def upgrade(self, request: HttpRequest) -> Answer | Silence | None:
        """Refuse an upgrade that a fault strikes or that has no valid token, or return None."""
        refusal = self.fault("upgrade") or self._unauthorized(request)
        return self._with_limits(refusal) if isinstance(refusal, Answer) else refusal

    def _answer(self, request: HttpRequest) -> Answer | Silence:
        path = urlsplit(request.target).path
        for route_ in self._routes:
            if (match := route_.path.fullmatch(path)) is not None:
                return self._answer_route(route_, request, *map(unquote, match.groups()))
        self.requests["other"] += 1
        return error_answer(404, "not.found", f"{path} is not simulated")

    def _answer_route(self, route_: Route, request: HttpRequest, *parts: str) -> Answer | Silence:
        """Answer, unless a script or a fault does. A request that hangs or is reset takes effect all the same."""
        self.requests[route_.kind] += 1
        if self.scripts[route_.kind]:
            return self.scripts[route_.kind].popleft()
        responder = route_.responders.get(request.method)
        if responder is None:
            methods = ", ".join(route_.responders)
            return error_answer(405, "method.not.allowed", f"only {methods} is answered here", {"allow": methods})
        fault = self.fault(route_.kind)
        if isinstance(fault, Answer):
            return fault
        refusal = None if route_.is_public else self._unauthorized(request)
        if refusal is not None:
            return refusal
        answer = responder(request, *parts)
        return answer if fault is None else fault

    def _token(self, request: HttpRequest) -> Answer:
        if parse_qs(request.body.decode("latin-1")).get("grant_type") != ["client_credentials"]:
            return Answer(
                400, {"error": "unsupported_grant_type", "description": "grant_type must be client_credentials"}
            )
        given = _basic(request.headers.get("authorization", ""))
        if given is None or self._credentials not in (None, given):
            return Answer(400, {"error": "invalid_client", "description": "client not found: invalid_client"})
        token = secrets.token_urlsafe(24)
        self._expiries[token] = self._now() + self._token_life_s
        self.tokens_issued += 1
        body = {"access_token": token, "token_type": "bearer", "expires_in": math.ceil(self._token_life_s)}
        return Answer(200, body, {"cache-control": "no-store"})

    def _unauthorized(self, request: HttpRequest) -> Answer | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._expiries.get(token, -math.inf) > self._now():
            return None
        return error_answer(
            401, "authentication.required", "No authentication bearer token specified, or it is not valid."
        )

    def fault(self, kind: str) -> Answer | Silence | None:
        """Use up the next fault of a kind; None without one."""
        for fault, left in self._faults:
            if fault.on == kind and left[0]:
                left[0] -= 1
                done = fault.status if isinstance(fault, Refuse) else fault.do
                get_logger(__name__).info("fault_strikes", do=done, on=kind)
                return _refusal(fault) if isinstance(fault, Refuse) else Silence(fault.do)
        return None

    def _with_limits(self, answer: Answer) -> Answer:
        now = self._now()
        if not 0 <= now - self._minute < 60:
            self._minute, self._requests_this_minute = now, 0
        self._requests_this_minute += 1
        limits = {
            "inin-ratelimit-count": str(self._requests_this_minute),
            "inin-ratelimit-allowed": str(_ALLOWED_PER_MINUTE),
            "inin-ratelimit-reset": str(math.ceil(self._minute + 60 - now)),
            "inin-correlation-id": str(uuid.uuid4()),
        }
        return Answer(answer.status, answer.body, {**limits, **answer.headers})


def parse_json(request: HttpRequest) -> Any:
    """Parse the body of a request; an empty one is None. Raises ValueError."""
    return orjson.loads(request.body or b"null")


def _refusal(fault: Refuse) -> Answer:
    if fault.status == 429 and fault.retry_after is not None:
        message = f"Rate limit exceeded the maximum. Retry the request in [{fault.retry_after}] seconds"
        return error_answer(429, "too.many.requests.retry.after", message, {"retry-after": str(fault.retry_after)})
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    phrase = HTTPStatus(fault.status).phrase
    return error_answer(fault.status, phrase.lower().replace(" ", "."), f"{phrase} (a fault of the simulator)", headers)


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    """Return an error with a body of the form that Genesys gives it."""
    body = {
        "message": message,
        "code": code,
        "status": status,
        "messageWithParams": message,
        "messageParams": {},
        "contextId": str(uuid.uuid4()),
        "details": [],
        "errors": [],
    }
    return Answer(status, body, headers or {})


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (client_id, secret) if client_id and secret else None
