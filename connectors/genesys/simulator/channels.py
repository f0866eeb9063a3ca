"""The simulated platform's REST side for notifications: channels, their subscriptions, and analytics."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from connectors.genesys.simulator.rest import RestApi, error_answer
from connectors.genesys.simulator.server import Answer, Connection, HttpRequest, Silence

__all__ = ["Channels", "ChannelsRest", "SimulatedChannel"]

_CHANNELS = re.compile(r"/api/v2/notifications/channels(?:/([^/]+)(/subscriptions)?)?")
_DETAILS = re.compile(r"/api/v2/analytics/conversations/([^/]+)/details")
_MAX_TOPICS = 1000


@dataclass(slots=True)
class SimulatedChannel:
    """A channel: `connection` is the socket that reads it, `deaf` if nothing is sent to it any longer."""

    id: str
    number: int
    expires_at: float
    topics: dict[str, None] = field(default_factory=dict)
    connection: Connection | None = None
    deaf: bool = False


class Channels(Protocol):
    """Whose channels they are."""

    base_url: str
    channels: dict[str, SimulatedChannel]

    def alive(self, channel_id: str) -> SimulatedChannel | None:
        """The channel of an id, unless it has expired."""

    def create_channel(self) -> SimulatedChannel:
        """A new channel."""

    def delete_channel(self, channel_id: str) -> None:
        """Forget a channel."""

    def details_of(self, conversation_id: str) -> Any:
        """What analytics knows of a conversation; None for nothing."""


class ChannelsRest(RestApi):
    """Tokens, channels, subscriptions and analytics; topics that begin with one of `forbidden` are not permitted.

    `requests` counts by kind: `token`, `channel`, `subscribe`, `details`. `scripts` holds the next answers to a kind.
    """

    def __init__(
        self, simulator: Channels, *, now: Callable[[], float], forbidden: tuple[str, ...], **more: Any
    ) -> None:
        super().__init__(now=now, active=list, **more)
        self._simulator = simulator
        self._forbidden = forbidden
        self.requests: defaultdict[str, int] = defaultdict(int)
        self.scripts: defaultdict[str, deque[Answer | Silence]] = defaultdict(deque)

    def _route(self, request: HttpRequest) -> Answer | Silence:
        path = urlsplit(request.target).path
        channels, details = _CHANNELS.fullmatch(path), _DETAILS.fullmatch(path)
        kind = "details" if details else "other" if not channels else "subscribe" if channels[2] else "channel"
        kind = "token" if path == "/oauth/token" else kind
        self.requests[kind] += 1
        if self.scripts[kind]:
            return self.scripts[kind].popleft()
        if kind in ("token", "other"):
            return super()._route(request)
        refusal = self._unauthorized(request)
        if refusal is not None:
            return refusal
        if details is not None:
            known = self._simulator.details_of(unquote(details[1]))
            return error_answer(404, "not.found", "no such conversation") if known is None else Answer(200, known)
        assert channels is not None
        if channels[1] is None:
            return self._all_channels(request)
        return self._one_channel(request, unquote(channels[1]), of_subscriptions=channels[2] is not None)

    def _all_channels(self, request: HttpRequest) -> Answer:
        if request.method == "GET":
            return Answer(200, {"entities": [self._shown(channel) for channel in self._simulator.channels.values()]})
        if request.method == "POST":
            return Answer(200, self._shown(self._simulator.create_channel()))
        return error_answer(405, "method.not.allowed", "only GET and POST are answered here")

    def _one_channel(self, request: HttpRequest, channel_id: str, *, of_subscriptions: bool) -> Answer:
        channel = self._simulator.alive(channel_id)
        if channel is None:
            return error_answer(404, "not.found", "there is no such channel")
        if not of_subscriptions:
            if request.method == "DELETE":
                self._simulator.delete_channel(channel_id)
                return Answer(204, None)
            return Answer(200, self._shown(channel))
        if request.method == "DELETE":
            channel.topics.clear()
            return Answer(204, None)
        if request.method in ("POST", "PUT"):
            return self._subscribe(request, channel)
        return Answer(200, _listing(channel.topics))

    def _subscribe(self, request: HttpRequest, channel: SimulatedChannel) -> Answer:
        """All of the topics or none, unless asked to ignore errors."""
        try:
            asked = [item["id"] for item in orjson.loads(request.body)]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            return error_answer(400, "bad.request", "the body is no list of topics")
        forbidden = [topic for topic in asked if topic.startswith(self._forbidden)]
        leniently = parse_qs(urlsplit(request.target).query).get("ignoreErrors") == ["true"]
        if forbidden and not leniently:
            return error_answer(403, "missing.permissions", f"not permitted: {forbidden[0]}")
        kept = {} if request.method == "PUT" else channel.topics
        topics = dict.fromkeys([*kept, *(topic for topic in asked if topic not in forbidden)])
        if len(topics) > _MAX_TOPICS:
            return error_answer(400, "notifications.topics.limit", f"a channel takes {_MAX_TOPICS} topics")
        channel.topics = topics
        return Answer(200, _listing(asked, forbidden))

    def _shown(self, channel: SimulatedChannel) -> dict[str, Any]:
        expires = datetime.fromtimestamp(channel.expires_at, UTC).isoformat(timespec="milliseconds")
        uri = f"ws{self._simulator.base_url.removeprefix('http')}/channels/{channel.id}"
        return {"connectUri": uri, "id": channel.id, "expires": expires.replace("+00:00", "Z")}


def _listing(topics: Collection[str], forbidden: Collection[str] = ()) -> dict[str, Any]:
    states = {topic: "Rejected" if topic in forbidden else "Permitted" for topic in topics}
    return {"entities": [{"id": topic, "state": state} for topic, state in states.items()]}
