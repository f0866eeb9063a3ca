"""The simulator's REST side: tokens, the load check, interceptors, and the faults of requests.

Bodies and headers are those of Genesys' published API where it has them (ErrorBody, `inin-ratelimit-*`).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import secrets
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from connectors.genesys.simulator.calls import EVENT_TYPES
from connectors.genesys.simulator.faults import Refuse, RequestFault, RequestKind
from connectors.genesys.simulator.server import Answer, HttpRequest, Silence

__all__ = ["EVENTS_PATH", "CreatedInterceptor", "RestApi", "UpgradeAttempt", "error_answer", "is_subscription"]

EVENTS_PATH = "/api/v2/events/conversations/voice"
_TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
_LOAD_PATH = "/api/v2/conversations/voice"
_CREATE_PATH = re.compile(r"/api/v2/conversations/voice/([^/]+)/interceptor")
_ALLOWED_PER_MINUTE = 300


@dataclass(frozen=True, slots=True)
class CreatedInterceptor:
    """An interceptor that the simulator created; `body` is what was asked for, `at` epoch seconds."""

    id: str
    conversation_id: str
    body: Any
    at: float


@dataclass(frozen=True, slots=True)
class UpgradeAttempt:
    """A request for the event WebSocket; `status` is 101 if it was accepted and None if it was left unanswered."""

    at: float
    status: int | None


class RestApi:
    """Answers requests; `now` gives epoch seconds and `active` the ids of the conversations that are on.

    Without `credentials` (id and secret) any client that has both is given a token, good for `token_life_s`.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        active: Callable[[], Collection[str]],
        faults: Sequence[RequestFault] = (),
        credentials: tuple[str, str] | None = None,
        token_life_s: float = 86_399,
    ) -> None:
        self._now = now
        self._active = active
        self._faults = [(fault, [fault.times]) for fault in faults]
        self._credentials = credentials
        self._token_life_s = token_life_s
        self._expiries: dict[str, float] = {}
        self._minute = 0.0
        self._requests_this_minute = 0
        self.tokens_issued = 0
        self.created: list[CreatedInterceptor] = []
        self.upgrade_attempts: list[UpgradeAttempt] = []

    @property
    def duplicate_creates(self) -> int:
        """How many interceptors were created for conversations that already had one."""
        return len(self.created) - len({interceptor.conversation_id for interceptor in self.created})

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        self._expiries.clear()

    def request(self, request: HttpRequest) -> Answer | Silence:
        """The answer to anything but an upgrade, with the rate limit headers of Genesys."""
        answer = self._route(request)
        return self._with_limits(answer) if isinstance(answer, Answer) else answer

    def upgrade(self, request: HttpRequest) -> Answer | Silence | None:
        """None if the event WebSocket may be opened; the attempt is remembered either way."""
        refusal: Answer | Silence | None
        if urlsplit(request.target).path != EVENTS_PATH:
            refusal = error_answer(404, "not.found", "there is no WebSocket here")
        else:
            refusal = self._fault("upgrade") or self._unauthorized(request)
        status = 101 if refusal is None else refusal.status if isinstance(refusal, Answer) else None
        self.upgrade_attempts.append(UpgradeAttempt(self._now(), status))
        return self._with_limits(refusal) if isinstance(refusal, Answer) else refusal

    def _route(self, request: HttpRequest) -> Answer | Silence:
        url = urlsplit(request.target)
        if url.path == _TOKEN_PATH:
            return _only("POST", request) or self._fault("token") or self._token(request)
        if url.path == _LOAD_PATH:
            return (
                _only("GET", request)
                or self._fault("load")
                or self._unauthorized(request)
                or self._load(parse_qs(url.query))
            )
        if (match := _CREATE_PATH.fullmatch(url.path)) is not None:
            return _only("POST", request) or self._create(request, unquote(match[1]))
        if url.path == EVENTS_PATH:
            return error_answer(426, "upgrade.required", "this is a WebSocket", {"upgrade": "websocket"})
        return error_answer(404, "not.found", f"{url.path} is not simulated")

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

    def _load(self, query: dict[str, list[str]]) -> Answer:
        if query.get("conversationType") != ["voice"]:
            return error_answer(400, "bad.request", "conversationType must be voice")
        return Answer(200, {"entities": [{"id": conversation_id} for conversation_id in self._active()]})

    def _create(self, request: HttpRequest, conversation_id: str) -> Answer | Silence:
        fault = self._fault("create")
        if isinstance(fault, Answer):
            return fault
        refusal = self._unauthorized(request)
        if refusal is not None:
            return refusal
        try:
            body = orjson.loads(request.body or b"null")
        except orjson.JSONDecodeError:
            return error_answer(400, "bad.request", "the body is not JSON")
        if not isinstance(body, dict | None):
            return error_answer(400, "bad.request", "the body is not an object")
        created = CreatedInterceptor(str(uuid.uuid4()), conversation_id, body, self._now())
        self.created.append(created)
        return fault or Answer(201, {**(body or {}), "id": created.id, "conversationId": conversation_id})

    def _unauthorized(self, request: HttpRequest) -> Answer | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._expiries.get(token, -math.inf) > self._now():
            return None
        return error_answer(
            401, "authentication.required", "No authentication bearer token specified, or it is not valid."
        )

    def _fault(self, kind: RequestKind) -> Answer | Silence | None:
        for fault, left in self._faults:
            if fault.on == kind and left[0]:
                left[0] -= 1
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


def _only(method: str, request: HttpRequest) -> Answer | None:
    if request.method == method:
        return None
    return error_answer(405, "method.not.allowed", f"only {method} is answered here", {"allow": method})


def _refusal(fault: Refuse) -> Answer:
    if fault.status == 429 and fault.retry_after is not None:
        message = f"Rate limit exceeded the maximum. Retry the request in [{fault.retry_after}] seconds"
        return error_answer(429, "too.many.requests.retry.after", message, {"retry-after": str(fault.retry_after)})
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    phrase = HTTPStatus(fault.status).phrase
    return error_answer(fault.status, phrase.lower().replace(" ", "."), f"{phrase} (a fault of the simulator)", headers)


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    """An error with a body of the form that Genesys gives it."""
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
