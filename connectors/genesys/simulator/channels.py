"""The notification channels of the simulated platform: their life, their topics, and their REST side."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.frames import CloseCode

from connectors.genesys.endpoints import CHANNELS_PATH, SUBSCRIPTIONS_PATH
from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, encode_message
from connectors.genesys.simulator.rest import Route, error_answer, parse_json, route

__all__ = ["Channels", "SimulatedChannel"]

_MAX_CHANNELS = 20
_MAX_TOPICS = 1000
_MAX_COMBINED = 200
_NOT_PERMITTED = "not permitted"
_GONE = encode_message('{"result":"404","message":"channel not found"}')


@dataclass(slots=True)
class SimulatedChannel:
    """A channel: `connection` is the socket that reads it; nothing is sent to it while it is `deaf`.

    `topics` are as subscribed, `wanted` the single topics of combined ones (`prefix?start&end`) too.
    """

    id: str
    number: int
    expires_at: float
    topics: dict[str, None] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    connection: Connection | None = None
    deaf: bool = False

    def send(self, encoded: bytes) -> bool:
        """Send messages encoded with `encode_message`; False if they could not be sent."""
        return self.connection is not None and not self.deaf and self.connection.write(encoded)

    def subscribe(self, topics: dict[str, None]) -> None:
        """Take these topics instead of those before."""
        self.topics = topics
        self.wanted = {single for topic in topics for single in _singles(topic)}

    def listens_to(self, topic: str) -> bool:
        """Whether the channel has a topic."""
        return topic in self.wanted

    def connect(self, connection: Connection) -> None:
        """Take a connection, which closes the one before it."""
        if self.connection is not None:
            self.connection.close(CloseCode.NORMAL_CLOSURE, "another client has connected")
        self.connection, self.deaf = connection, False


class Channels:
    """All channels; each lives `life_s`. Topics that start with one of `forbidden` are not permitted, and those
    refused of which one is not known to `exists`. `base_url` gives the address that their URLs begin with.
    """

    def __init__(
        self,
        *,
        base_url: Callable[[], str],
        now: Callable[[], float],
        life_s: float,
        forbidden: tuple[str, ...],
        exists: Callable[[str], bool],
    ) -> None:
        self._base_url = base_url
        self._now = now
        self._life_s = life_s
        self._forbidden = forbidden
        self._exists = exists
        self._created = 0
        self.by_id: dict[str, SimulatedChannel] = {}

    @property
    def connected(self) -> list[SimulatedChannel]:
        """Return the channels that a client is connected to."""
        return [channel for channel in list(self.by_id.values()) if channel.connection is not None]

    def routes(self) -> list[Route]:
        """Return the routes of channels and their subscriptions."""
        one = CHANNELS_PATH + "/{channelId}"
        topics = {"GET": self._topics, "POST": self._subscribe, "PUT": self._replace, "DELETE": self._unsubscribe}
        return [
            route("channel", CHANNELS_PATH, {"GET": self._all, "POST": self._create}),
            route("channel", one, {"GET": self._one, "HEAD": self._one, "DELETE": self._delete}),
            route("subscribe", SUBSCRIPTIONS_PATH, topics),
        ]

    def alive(self, channel_id: str) -> SimulatedChannel | None:
        """Find a channel that has not expired."""
        channel = self.by_id.get(channel_id)
        if channel is not None and channel.expires_at <= self._now():
            self.remove(channel, announced=True)
            return None
        return channel

    def create(self) -> SimulatedChannel:
        """Create a channel; above 20, the oldest is removed, and those without a connection first."""
        if len(self.by_id) >= _MAX_CHANNELS:
            oldest = min(self.by_id.values(), key=lambda c: (c.connection is not None, c.number))
            self.remove(oldest, announced=True)
        self._created += 1
        id_ = f"streaming-0-{secrets.token_hex(8)}"
        channel = self.by_id[id_] = SimulatedChannel(id_, self._created, self._now() + self._life_s)
        return channel

    def remove(self, channel: SimulatedChannel, *, announced: bool) -> None:
        """Remove a channel and close its socket; `announced` is whether a message says why."""
        self.by_id.pop(channel.id, None)
        connection, channel.connection = channel.connection, None
        if connection is not None:
            if announced:
                connection.write(_GONE)
            connection.close(CloseCode.NORMAL_CLOSURE, "the channel is gone")

    def _all(self, request: HttpRequest) -> Answer:  # noqa: ARG002
        return Answer(200, {"entities": [self._shown(channel) for channel in self.by_id.values()]})

    def _create(self, request: HttpRequest) -> Answer:  # noqa: ARG002
        return Answer(200, self._shown(self.create()))

    def _one(self, request: HttpRequest, channel_id: str) -> Answer:  # noqa: ARG002
        channel = self.alive(channel_id)
        return _missing() if channel is None else Answer(200, self._shown(channel))

    def _delete(self, request: HttpRequest, channel_id: str) -> Answer:  # noqa: ARG002
        channel = self.alive(channel_id)
        if channel is None:
            return _missing()
        self.remove(channel, announced=False)
        return Answer(204, None)

    def _topics(self, request: HttpRequest, channel_id: str) -> Answer:  # noqa: ARG002
        channel = self.alive(channel_id)
        return _missing() if channel is None else Answer(200, _listing(channel.topics))

    def _unsubscribe(self, request: HttpRequest, channel_id: str) -> Answer:  # noqa: ARG002
        channel = self.alive(channel_id)
        if channel is None:
            return _missing()
        channel.subscribe({})
        return Answer(204, None)

    def _replace(self, request: HttpRequest, channel_id: str) -> Answer:
        return self._change(request, channel_id, kept=False)

    def _subscribe(self, request: HttpRequest, channel_id: str) -> Answer:
        return self._change(request, channel_id, kept=True)

    def _change(self, request: HttpRequest, channel_id: str, *, kept: bool) -> Answer:
        """Subscribe to all of the topics or none, unless asked to ignore errors."""
        channel = self.alive(channel_id)
        if channel is None:
            return _missing()
        try:
            asked = [item["id"] for item in parse_json(request)]
        except (ValueError, TypeError, KeyError):
            return error_answer(400, "bad.request", "the body is not a list of topics")
        refused = {topic: reason for topic in asked if (reason := self._refusal(topic)) is not None}
        leniently = parse_qs(urlsplit(request.target).query).get("ignoreErrors") == ["true"]
        if refused and not leniently:
            topic, reason = next(iter(refused.items()))
            status = 403 if reason == _NOT_PERMITTED else 400
            return error_answer(status, "missing.permissions" if status == 403 else "bad.request", f"{reason}: {topic}")
        topics = dict.fromkeys([*(channel.topics if kept else ()), *(t for t in asked if t not in refused)])
        if len(topics) > _MAX_TOPICS:
            return error_answer(400, "notifications.topics.limit", f"a channel takes {_MAX_TOPICS} topics")
        channel.subscribe(topics)
        return Answer(200, _listing(asked, refused))

    def _refusal(self, topic: str) -> str | None:
        """Say why a topic is refused; None if it is permitted."""
        if topic.startswith(self._forbidden):
            return _NOT_PERMITTED
        if "?" in topic and len(topic) > _MAX_COMBINED:
            return f"longer than {_MAX_COMBINED} characters"
        if not all(map(self._exists, _singles(topic))):
            return "there is no such queue or user"
        return None

    def _shown(self, channel: SimulatedChannel) -> dict[str, Any]:
        expires = datetime.fromtimestamp(channel.expires_at, UTC).isoformat(timespec="milliseconds")
        uri = f"ws{self._base_url().removeprefix('http')}/channels/{channel.id}"
        return {"connectUri": uri, "id": channel.id, "expires": expires.replace("+00:00", "Z")}


def _missing() -> Answer:
    return error_answer(404, "not.found", "there is no such channel")


def _singles(topic: str) -> list[str]:
    """Take a combined topic apart.

    >>> _singles("v2.users.u?presence&conversations.calls")
    ['v2.users.u.presence', 'v2.users.u.conversations.calls']
    """
    prefix, _, ends = topic.partition("?")
    return [f"{prefix}.{end}" for end in ends.split("&")] if ends else [topic]


def _listing(topics: Collection[str], refused: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    entities: list[dict[str, Any]] = []
    for topic in dict.fromkeys(topics):
        if topic in refused:
            entities.append({"id": topic, "state": "Rejected", "rejectionReason": refused[topic]})
        else:
            entities.append({"id": topic, "state": "Permitted"})
    return {"entities": entities}
