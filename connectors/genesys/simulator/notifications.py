"""A local Genesys with notification channels: token, channels, subscriptions, their WebSockets, and analytics.

The calls are those of the voice event simulator, sent as detail events of their conversations (as late as real ones
are), as call snapshots of queues and users, and as metrics. Tests publish and break what they need themselves:

    with running(NotificationsSimulator(calls=False)) as simulator:
        ...                                     # a feed connects to simulator.base_url
        simulator.publish("v2.routing.queues.q.conversations.calls", {"id": "c", "participants": [...]})
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson

from connectors.genesys.simulator.analytics import Analytics
from connectors.genesys.simulator.channels import Channels, SimulatedChannel
from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, Silence, encode_message
from connectors.genesys.simulator.directory import Directory
from connectors.genesys.simulator.notification_events import Notification
from connectors.genesys.simulator.organisation import FIRST_AGENT_ID, FIRST_QUEUE_ID
from connectors.genesys.simulator.pacing import notifications_in_time
from connectors.genesys.simulator.platform import PlatformOptions, begin_calls, rest_api
from connectors.genesys.simulator.rest import error_answer
from connectors.genesys.simulator.server import SimulatorServer
from connectors.genesys.simulator.stories import KINDS, Kind
from connectors.genesys.simulator.telephony import Telephony, operational_event
from connectors.runtime.logs import get_logger

__all__ = ["QUEUE_ID", "USER_ID", "NotificationsOptions", "NotificationsSimulator", "SimulatedChannel"]

QUEUE_ID: Final = FIRST_QUEUE_ID
USER_ID: Final = FIRST_AGENT_ID

_SOCKET = re.compile(r"/channels/([^/]+)")


@dataclass(frozen=True, slots=True)
class NotificationsOptions(PlatformOptions):
    """What to simulate: the calls of `PlatformOptions`, unless `calls` is false, and the timing of Genesys.

    The calls are of these `kinds`. With `premature`, a snapshot shows only the leg of an agent who did not answer,
    although the call goes on. Topics of queues and users that the organisation does not have are refused if there are
    calls. Of the `faults`, those of the event stream do not apply.

    Heartbeats are sent every `heartbeat_s`, a channel lives `channel_life_s`, and a socket is closed `closing_s` after
    that was announced. Topics that start with one of `forbidden` are not permitted. `dead_status` is the answer to an
    upgrade for a channel that does not exist. Trunks publish metrics every `metrics_s`.
    """

    calls: bool = True
    kinds: tuple[Kind, ...] = KINDS
    premature: bool = False
    heartbeat_s: float = 30.0
    channel_life_s: float = 86_400.0
    closing_s: float = 60.0
    forbidden: tuple[str, ...] = ()
    dead_status: int = 404
    metrics_s: float = 5.0


class NotificationsSimulator:
    """Sends notifications; run it with `running` or `serve` of `connectors.genesys.simulator.server`.

    Counters may be read, and methods called, from any thread. `frames_sent` counts the notifications that were sent to
    a channel, `requests` the requests by kind (`token`, `channel`, `subscribe`, `details`), `pings` the health checks.
    """

    def __init__(
        self, options: NotificationsOptions | None = None, *, now: Callable[[], float] = time.time, **more: Any
    ) -> None:
        self.options = options = options or NotificationsOptions(**more)
        self._now = now
        self.server = SimulatorServer(self, options.host, options.port)
        self.traffic = begin_calls(options, now() if options.calls else None, options.kinds)
        directory = Directory(self.traffic.book.organisation)
        self._analytics = Analytics(self.traffic.book, now=now, after_s=options.analytics_after_s)
        self._telephony = Telephony(self.traffic.book, now=now)
        self._channels = Channels(
            base_url=lambda: self.base_url,
            now=now,
            life_s=options.channel_life_s,
            forbidden=options.forbidden,
            exists=directory.has_topic if options.calls else lambda _: True,
        )
        answering = (self._channels, directory, self._analytics, self._telephony)
        self._rest = rest_api(options, [route for each in answering for route in each.routes()], now)
        self._first_client = asyncio.Event()
        self.frames_sent = 0
        self.pings = 0

    @property
    def base_url(self) -> str:
        """Return where the simulator listens."""
        return self.server.base_url

    @property
    def connections(self) -> int:
        """Return how many upgrades were accepted."""
        return self.server.connections

    @property
    def tokens_issued(self) -> int:
        """Return how many tokens were issued."""
        return self._rest.tokens_issued

    @property
    def requests(self) -> Mapping[str, int]:
        """Return how many requests of each kind were made."""
        return self._rest.requests

    @property
    def channels(self) -> Mapping[str, SimulatedChannel]:
        """Return the channels by their ids."""
        return self._channels.by_id

    @property
    def details(self) -> dict[str, Any]:
        """Return what analytics answers about conversations, by id, instead of what it knows."""
        return self._analytics.details

    @property
    def connected(self) -> list[SimulatedChannel]:
        """Return the channels that a client is connected to."""
        return self._channels.connected

    def wait_for(self, predicate: Callable[[NotificationsSimulator], bool], deadline_s: float = 10.0) -> None:
        """Block until `predicate(self)` holds, checked at every change; raises TimeoutError at the deadline.

        Not to be called in the simulator's own thread.
        """
        self.server.wait_for(lambda: predicate(self), deadline_s, self._figures)

    def script(self, kind: str, *answers: Answer | Silence) -> None:
        """Give the next requests of a kind these answers, one each."""
        self._rest.scripts[kind].extend(answers)

    def clear_scripts(self) -> None:
        """Answer all requests normally again."""
        self._rest.scripts.clear()

    def publish(self, topic: str, body: Any, **envelope: Any) -> int:
        """Send a notification to the channels that have its topic; returns how many received it."""
        message = {"topicName": topic, "version": "2", "eventBody": body, "metadata": {}, **envelope}

        def send() -> int:
            if not (listening := [channel for channel in self.connected if channel.listens_to(topic)]):
                return 0
            encoded = encode_message(orjson.dumps(message).decode())
            with self.server.change():
                sent = sum(channel.send(encoded) for channel in listening)
                self.frames_sent += sent
                return sent

        return self.server.in_loop(send)

    def expire_channels(self, *, announced: bool = True) -> None:
        """End every channel; `announced` is whether its socket receives a message about it."""

        def expire() -> None:
            with self.server.change():
                for channel in list(self.channels.values()):
                    self._channels.remove(channel, announced=announced)

        self.server.in_loop(expire)

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far; sockets stay open."""
        self.server.in_loop(self._rest.revoke_tokens)

    # For the server

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request."""
        return self._rest.request(request)

    def upgrade(self, request: HttpRequest, connection: Connection) -> Answer | Silence | None:
        """Connect a client to the channel that it names."""
        found = _SOCKET.fullmatch(urlsplit(request.target).path)
        channel = None if found is None else self._channels.alive(unquote(found[1]))
        if channel is None:
            return error_answer(self.options.dead_status, "not.found", "there is no such channel")
        channel.connect(connection)
        self._first_client.set()
        return None

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Answer a health check."""
        channel = next((each for each in self.connected if each.connection is connection), None)
        with contextlib.suppress(orjson.JSONDecodeError):
            asked = orjson.loads(message)
            if channel is not None and isinstance(asked, dict) and asked.get("message") == "ping":
                with self.server.change():
                    self.pings += 1
                channel.send(_metadata("pong"))

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        for channel in self.connected:
            if channel.connection is connection:
                channel.connection = None

    async def play(self) -> None:
        """Send heartbeats, and the calls once a client has connected."""
        await asyncio.gather(
            self._beat(), *([self._play_calls(), self._publish_platform()] if self.options.calls else [])
        )

    def _figures(self) -> str:
        return (
            f"frames_sent={self.frames_sent} connected={len(self.connected)} channels={len(self.channels)} "
            f"pings={self.pings} tokens_issued={self.tokens_issued} requests={dict(self.requests)}"
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.options.heartbeat_s)
            for channel in list(self.channels.values()):
                if self._channels.alive(channel.id) is not None:
                    channel.send(_metadata("WebSocket Heartbeat"))

    async def _play_calls(self) -> None:
        await self._first_client.wait()
        async for notifications in notifications_in_time(self.traffic, self._now, premature=self.options.premature):
            self._publish_all(notifications)

    async def _publish_platform(self) -> None:
        """Publish the metrics of trunks, changes of edges, and operational events when they fall due."""
        await self._first_client.wait()
        loop, waiting = asyncio.get_running_loop(), deque(self.options.faults.of_platform())
        began = metrics_due = loop.time()
        while True:
            if loop.time() >= metrics_due:
                self._publish_all(self._telephony.trunk_metrics())
                metrics_due += self.options.metrics_s
            self._publish_all(self._telephony.edge_changes(self.traffic.impairments.offline_edges(loop.time() - began)))
            while waiting and loop.time() - began >= waiting[0].after_s:
                fault = waiting.popleft()
                get_logger(__name__).info("fault_strikes", do=fault.event, on=fault.on)
                self._publish_all([operational_event(fault.event, self._now())])
            await asyncio.sleep(min(0.1, self.options.metrics_s))

    def _publish_all(self, notifications: Iterable[Notification]) -> None:
        for topic, body in notifications:
            self.publish(topic, body)


def _metadata(message: str) -> bytes:
    text = orjson.dumps({"topicName": "channel.metadata", "eventBody": {"message": message}})
    return encode_message(text.decode())
