"""A local Genesys with notification channels: token, channels, subscriptions, their WebSockets, and analytics.

The calls are those of the voice event simulator, sent as detail events of their conversations (as late as real ones
are) and as call snapshots of a queue and a user. Tests publish and break what they need themselves:

    with running(NotificationsSimulator(calls=False)) as simulator:
        ...                                     # a feed connects to simulator.base_url
        simulator.publish("v2.routing.queues.q.conversations.calls", {"id": "c", "participants": [...]})
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
from websockets.frames import CloseCode

from connectors.genesys.endpoints import DETAILS_PATH
from connectors.genesys.simulator.calls import ENDED, STARTED, CallFrame, call_frames
from connectors.genesys.simulator.channels import Channels, SimulatedChannel
from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, Silence, encode_message
from connectors.genesys.simulator.rest import RestApi, error_answer, route
from connectors.genesys.simulator.server import SimulatorServer

__all__ = ["QUEUE_ID", "USER_ID", "NotificationsOptions", "NotificationsSimulator", "SimulatedChannel"]

QUEUE_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000a"
USER_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000b"

_SOCKET = re.compile(r"/channels/([^/]+)")
_DELIVERY_S = 0.16
_DURING_A_CALL = ("acd.start", "flow.start", "flow.end", "acd.end", "user.start")
_PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class NotificationsOptions:
    """What to simulate: the calls of `SimulatorOptions`, unless `calls` is false, and the timing of Genesys.

    Heartbeats are sent every `heartbeat_s`, a channel lives `channel_life_s`, and a socket is closed `closing_s` after
    that was announced. Topics that start with one of `forbidden` are not permitted. Analytics knows a call
    `analytics_after_s` after its end. `dead_status` is the answer to an upgrade for a channel that does not exist.
    """

    host: str = "127.0.0.1"
    port: int = 0
    conversations: int = 5
    rate: float = 10.0
    seed: int = 1
    calls: bool = True
    credentials: tuple[str, str] | None = None
    token_life_s: float = 86_399
    heartbeat_s: float = 30.0
    channel_life_s: float = 86_400.0
    closing_s: float = 60.0
    forbidden: tuple[str, ...] = ()
    analytics_after_s: float = 2.0
    dead_status: int = 404


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
        self._channels = Channels(
            base_url=lambda: self.base_url, now=now, life_s=options.channel_life_s, forbidden=options.forbidden
        )
        self._rest = RestApi(
            [*self._channels.routes(), route("details", DETAILS_PATH, {"GET": self._get_details})],
            now=now,
            credentials=options.credentials,
            token_life_s=options.token_life_s,
        )
        self._first_client = asyncio.Event()
        self._ended_at: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self.frames_sent = 0
        self.pings = 0

    @property
    def base_url(self) -> str:
        """Where the simulator listens."""
        return self.server.base_url

    @property
    def connections(self) -> int:
        """How many upgrades were accepted."""
        return self.server.connections

    @property
    def tokens_issued(self) -> int:
        """How many tokens were issued."""
        return self._rest.tokens_issued

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests of each kind were made."""
        return self._rest.requests

    @property
    def channels(self) -> Mapping[str, SimulatedChannel]:
        """The channels by their ids."""
        return self._channels.by_id

    @property
    def connected(self) -> list[SimulatedChannel]:
        """The channels that a client is connected to."""
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
        encoded = encode_message(orjson.dumps(message).decode())

        def send() -> int:
            with self.server.change():
                sent = sum(channel.send(encoded) for channel in self.connected if topic in channel.topics)
                self.frames_sent += sent
                return sent

        return self.server.in_loop(send)

    def send_to_all(self, *messages: str | bytes) -> int:
        """Send messages as they are to every connected channel; returns how many received them."""
        encoded = b"".join(map(encode_message, messages))
        return self.server.in_loop(lambda: sum(channel.send(encoded) for channel in self.connected))

    def announce_closing(self) -> None:
        """Announce to every connected channel that its socket will be closed, and close it `closing_s` later."""

        def announce() -> None:
            body = {"systemTopicType": "socket_closing", "message": "the socket is about to be closed"}
            message = {"topicName": "v2.system.socket_closing", "eventBody": body}
            for channel in self.connected:
                channel.send(encode_message(orjson.dumps(message).decode()))
                if channel.connection is not None:
                    close = channel.connection.close
                    loop = asyncio.get_running_loop()
                    loop.call_later(self.options.closing_s, close, CloseCode.GOING_AWAY, "closing")

        self.server.in_loop(announce)

    def fall_silent(self) -> None:
        """Send nothing more on the sockets that are connected now, not even heartbeats, and leave them open."""

        def silence() -> None:
            for channel in self.connected:
                channel.deaf = True

        self.server.in_loop(silence)

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

    def drop_connections(self, code: int | None = None) -> None:
        """Close every socket with this close code, or end its connection without a close frame."""

        def drop() -> None:
            for connection in [channel.connection for channel in self.connected]:
                if connection is not None and code is None:
                    connection.drop()
                elif connection is not None:
                    connection.close(code or CloseCode.GOING_AWAY)

        self.server.in_loop(drop)

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
        await asyncio.gather(self._beat(), *([self._play_calls()] if self.options.calls else []))

    def _figures(self) -> str:
        return (
            f"frames_sent={self.frames_sent} connected={len(self.connected)} channels={len(self.channels)} "
            f"pings={self.pings} tokens_issued={self.tokens_issued} requests={dict(self.requests)}"
        )

    def _get_details(self, request: HttpRequest, conversation_id: str) -> Answer:  # noqa: ARG002
        known = self._details_of(conversation_id)
        return error_answer(404, "not.found", "no such conversation") if known is None else Answer(200, known)

    def _details_of(self, conversation_id: str) -> Any:
        """Look up what analytics knows of a conversation; None for nothing."""
        ended_at = self._ended_at.get(conversation_id)
        if conversation_id in self.details or ended_at is None:
            return self.details.get(conversation_id)
        if self._now() < ended_at + self.options.analytics_after_s:
            return None
        return _details(conversation_id, ended_at)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.options.heartbeat_s)
            for channel in list(self.channels.values()):
                if self._channels.alive(channel.id) is not None:
                    channel.send(_metadata("WebSocket Heartbeat"))

    async def _play_calls(self) -> None:
        await self._first_client.wait()
        options, loop = self.options, asyncio.get_running_loop()
        began = loop.time()
        sent: defaultdict[str, int] = defaultdict(int)
        for frame in call_frames(options.seed, options.conversations, options.rate):
            early_s = frame.due_s - (loop.time() - began)
            if early_s > 0:
                await asyncio.sleep(max(early_s, _PAUSE_S))
            self._publish_frame(frame, sent[frame.conversation_id])
            sent[frame.conversation_id] += 1
            if frame.event is ENDED:
                self._ended_at[frame.conversation_id] = self._now()
                del sent[frame.conversation_id]

    def _publish_frame(self, frame: CallFrame, number: int) -> None:
        """Send a frame as a detail event, and as a snapshot of the queue and the user when something changes."""
        id_, now = frame.conversation_id, self._now()
        kind = _DURING_A_CALL[(number - 1) % len(_DURING_A_CALL)]
        kind = {STARTED: "customer.start", ENDED: "customer.end"}.get(frame.event, kind)
        body = {
            "eventTime": round((now - frame.lag_s - _DELIVERY_S) * 1000),
            "conversationId": id_,
            "participantId": f"{id_[:8]}-customer",
            "sessionId": f"{id_[:8]}-session-{number}",
            "mediaType": "VOICE",
            "provider": "Edge",
            "direction": "INBOUND",
        }
        self.publish(f"v2.detail.events.conversation.{id_}.{kind}", body)
        if frame.event in (STARTED, ENDED) or number == len(_DURING_A_CALL):
            snapshot = _snapshot(id_, is_over=frame.event is ENDED, has_agent=number > 0)
            self.publish(f"v2.routing.queues.{QUEUE_ID}.conversations.calls", snapshot)
            self.publish(f"v2.users.{USER_ID}.conversations.calls", snapshot)


def _metadata(message: str) -> bytes:
    text = orjson.dumps({"topicName": "channel.metadata", "eventBody": {"message": message}})
    return encode_message(text.decode())


def _snapshot(conversation_id: str, *, is_over: bool, has_agent: bool) -> dict[str, Any]:
    """A call as queue and user topics show it; the agent that did not answer stands before the one that did."""
    state = "disconnected" if is_over else "connected"
    customer = {"id": f"{conversation_id[:8]}-customer", "purpose": "customer", "state": state, "direction": "inbound"}
    agents = [
        {"id": f"{conversation_id[:8]}-agent-1", "purpose": "agent", "state": "terminated", "user": {"id": USER_ID}},
        {"id": f"{conversation_id[:8]}-agent-2", "purpose": "agent", "state": state, "user": {"id": USER_ID}},
    ]
    return {"id": conversation_id, "participants": [customer, *(agents if has_agent else [])], "recordingState": "none"}


def _details(conversation_id: str, ended_at: float) -> dict[str, Any]:
    """What analytics tells of a call that is over: its customer's media and its agent's."""
    chance = int(conversation_id[:8], 16)
    end = datetime.fromtimestamp(ended_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def participant(name: str, codec: str, part: int) -> dict[str, Any]:
        received, discarded = 2000 + chance // part % 5000, chance // part % 90
        stats = {
            "codecs": [codec],
            "eventTime": end,
            "minMos": round(4.9 - discarded / 100, 2),
            "maxLatencyMs": 20 + chance // part % 200,
            "receivedPackets": received,
            "discardedPackets": discarded,
        }
        session = {
            "sessionId": f"{conversation_id[:8]}-{name}-session",
            "mediaType": "voice",
            "mediaEndpointStats": [stats],
        }
        return {"participantId": f"{conversation_id[:8]}-{name}", "purpose": name, "sessions": [session]}

    participants = [participant("customer", "audio/PCMU", 1), participant("agent", "audio/opus", 7)]
    return {"conversationId": conversation_id, "conversationEnd": end, "participants": participants}
