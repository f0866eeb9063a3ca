"""A local Genesys with notification channels: token, channels, subscriptions, their WebSockets, and analytics.

The calls are those of the voice event simulator, told as detail events of their conversations (as late as real ones
are) and as call snapshots of a queue and a user. What a test wants sent or broken, it says itself:

    with running(NotificationsSimulator(calls=False)) as simulator:
        ...                                     # a feed connects to simulator.base_url
        simulator.publish("v2.routing.queues.q.conversations.calls", {"id": "c", "participants": [...]})
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
from websockets.frames import CloseCode

from connectors.genesys.simulator.calls import ENDED, STARTED, CallFrame, call_frames
from connectors.genesys.simulator.channels import ChannelsRest, SimulatedChannel
from connectors.genesys.simulator.rest import error_answer
from connectors.genesys.simulator.server import Answer, Application, Connection, HttpRequest, Silence, encode_message
from connectors.genesys.simulator.voice_events import Simulator, SimulatorOptions

__all__ = ["QUEUE_ID", "USER_ID", "NotificationsOptions", "NotificationsSimulator", "SimulatedChannel"]

QUEUE_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000a"
USER_ID: Final = "5a1b7c3e-0000-4000-8000-00000000000b"

_SOCKET = re.compile(r"/channels/([^/]+)")
_MAX_CHANNELS = 20
_DELIVERY_S = 0.16
_DURING_A_CALL = ("acd.start", "flow.start", "flow.end", "acd.end", "user.start")
_PAUSE_S = 0.002


@dataclass(frozen=True, slots=True)
class NotificationsOptions:
    """What to simulate: the calls of `SimulatorOptions`, unless `calls` is false, and the patience of Genesys.

    Heartbeats come every `heartbeat_s`, a channel lives `channel_life_s`, and a socket is closed `closing_s` after that
    was announced. Topics that begin with one of `forbidden` are not permitted. Analytics knows of a call
    `analytics_after_s` after its end. `dead_status` is the answer to an upgrade for a channel that there is not.
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


class NotificationsSimulator(Simulator):
    """The server; run it with `connectors.genesys.simulator.voice_events.running` or `serve`.

    Counters may be read, and methods called, from any thread. `frames_sent` counts the notifications that went to a
    channel, `requests` the requests by kind (`token`, `channel`, `subscribe`, `details`), `pings` the health checks.
    """

    def __init__(self, options: NotificationsOptions | None = None, **more: Any) -> None:
        self.notifications = options or NotificationsOptions(**more)
        mine = self.notifications
        shared = ("host", "port", "conversations", "rate", "seed", "credentials", "token_life_s")
        super().__init__(
            SimulatorOptions(**{name: getattr(mine, name) for name in shared}, wait_for_subscriber=mine.calls)
        )
        self._rest: ChannelsRest = ChannelsRest(
            self,
            now=self._now,
            forbidden=mine.forbidden,
            credentials=mine.credentials,
            token_life_s=mine.token_life_s,
        )
        self._created = 0
        self._ended_at: dict[str, float] = {}
        self.channels: dict[str, SimulatedChannel] = {}
        self.details: dict[str, Any] = {}
        self.pings = 0

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests of each kind were made."""
        return self._rest.requests

    @property
    def connected(self) -> list[SimulatedChannel]:
        """The channels that somebody is connected to."""
        return [channel for channel in list(self.channels.values()) if channel.connection is not None]

    def script(self, kind: str, *answers: Answer | Silence) -> None:
        """Answer the next requests of a kind like this, one each."""
        self._rest.scripts[kind].extend(answers)

    def clear_scripts(self) -> None:
        """Answer requests as if all were well again."""
        self._rest.scripts.clear()

    def publish(self, topic: str, body: Any, **envelope: Any) -> int:
        """Send a notification to the channels that have its topic; how many somebody is connected to."""
        message = {"topicName": topic, "version": "2", "eventBody": body, "metadata": {}, **envelope}
        encoded = encode_message(orjson.dumps(message).decode())

        def send() -> int:
            with self._change():
                sent = sum(_send(channel, encoded) for channel in self.connected if topic in channel.topics)
                self.frames_sent += sent
                return sent

        return self._in_loop(send)

    def send_to_all(self, *messages: str | bytes) -> int:
        """Send messages as they are to every connected channel; how many there are."""
        encoded = b"".join(map(encode_message, messages))
        return self._in_loop(lambda: sum(_send(channel, encoded) for channel in self.connected))

    def announce_closing(self) -> None:
        """Tell every connected channel that its socket will be closed, and close it `closing_s` later."""

        def announce() -> None:
            body = {"systemTopicType": "socket_closing", "message": "the socket is about to be closed"}
            message = {"topicName": "v2.system.socket_closing", "eventBody": body}
            for channel in self.connected:
                _send(channel, encode_message(orjson.dumps(message).decode()))
                if channel.connection is not None:
                    connection, code = channel.connection, CloseCode.GOING_AWAY
                    self._loop.call_later(self.notifications.closing_s, connection.close, code, "closing")

        self._in_loop(announce)

    def fall_silent(self) -> None:
        """Send nothing more on the sockets that are connected now, not even heartbeats, and leave them open."""

        def silence() -> None:
            for channel in self.connected:
                channel.deaf = True

        self._in_loop(silence)

    def expire_channels(self, *, told: bool = True) -> None:
        """End every channel; `told` is whether its socket hears of it."""

        def expire() -> None:
            with self._change():
                for channel in list(self.channels.values()):
                    self._forget(channel, told=told)

        self._in_loop(expire)

    def drop_connections(self, code: int | None = None) -> None:
        """Close every socket with this close code, or end its connection without a close frame."""

        def drop() -> None:
            for connection in [channel.connection for channel in self.connected]:
                if connection is not None and code is None:
                    connection.drop()
                elif connection is not None:
                    connection.close(code or CloseCode.GOING_AWAY)

        self._in_loop(drop)

    def upgrade(self, request: HttpRequest) -> Answer | Silence | None:  # noqa: ARG002 - `_OfOneConnection` decides
        """Refuse: there is no WebSocket but those of the channels."""
        return error_answer(404, "not.found", "there is no WebSocket here")

    def connect(self, request: HttpRequest, connection: Connection) -> Answer | None:
        """Give a channel a new connection, which ends the one that it had; for the connections."""
        found = _SOCKET.fullmatch(urlsplit(request.target).path)
        channel = None if found is None else self.alive(unquote(found[1]))
        if channel is None:
            return error_answer(self.notifications.dead_status, "not.found", "there is no such channel")
        with self._change():
            if channel.connection is not None:
                channel.connection.close(CloseCode.NORMAL_CLOSURE, "another client has connected")
            channel.connection, channel.deaf = connection, False
            self.connections += 1
        self._first_subscriber.set()
        return None

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Answer a health check; for the connections."""
        channel = next((each for each in self.connected if each.connection is connection), None)
        with contextlib.suppress(orjson.JSONDecodeError):
            asked = orjson.loads(message)
            if channel is not None and isinstance(asked, dict) and asked.get("message") == "ping":
                with self._change():
                    self.pings += 1
                _send(channel, _metadata("pong"))

    def closed(self, connection: Connection) -> None:
        """Forget a connection; for the connections."""
        for channel in self.connected:
            if channel.connection is connection:
                channel.connection = None
        super().closed(connection)

    def alive(self, channel_id: str) -> SimulatedChannel | None:
        """The channel of an id, unless it has expired."""
        channel = self.channels.get(channel_id)
        if channel is not None and channel.expires_at <= self._now():
            self._forget(channel, told=True)
            return None
        return channel

    def create_channel(self) -> SimulatedChannel:
        """A new channel; of more than 20 the oldest goes, those without a connection first."""
        with self._change():
            if len(self.channels) >= _MAX_CHANNELS:
                self._forget(min(self.channels.values(), key=lambda c: (c.connection is not None, c.number)), told=True)
            self._created += 1
            id_ = f"streaming-0-{secrets.token_hex(8)}"
            expires_at = self._now() + self.notifications.channel_life_s
            channel = self.channels[id_] = SimulatedChannel(id_, self._created, expires_at)
            return channel

    def delete_channel(self, channel_id: str) -> None:
        """Forget a channel and hang up on whoever reads it."""
        channel = self.alive(channel_id)
        if channel is not None:
            self._forget(channel, told=False)

    def details_of(self, conversation_id: str) -> Any:
        """What analytics knows of a conversation; None for nothing."""
        ended_at = self._ended_at.get(conversation_id)
        if conversation_id in self.details or ended_at is None:
            return self.details.get(conversation_id)
        if self._now() < ended_at + self.notifications.analytics_after_s:
            return None
        return _details(conversation_id, ended_at)

    def _application(self) -> Application:
        return _OfOneConnection(self)

    def _forget(self, channel: SimulatedChannel, *, told: bool) -> None:
        self.channels.pop(channel.id, None)
        connection, channel.connection = channel.connection, None
        if connection is not None:
            if told:
                connection.write(encode_message('{"result":"404","message":"channel not found"}'))
            connection.close(CloseCode.NORMAL_CLOSURE, "the channel is gone")

    async def _play(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            if self.notifications.calls:
                await self._first_subscriber.wait()
                await self._tell_calls()
            await beating
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.notifications.heartbeat_s)
            for channel in list(self.channels.values()):
                if self.alive(channel.id) is not None:
                    _send(channel, _metadata("WebSocket Heartbeat"))

    async def _tell_calls(self) -> None:
        mine, began = self.notifications, self._loop.time()
        told: defaultdict[str, int] = defaultdict(int)
        for frame in call_frames(mine.seed, mine.conversations, mine.rate):
            early_s = frame.due_s - (self._loop.time() - began)
            if early_s > 0:
                await asyncio.sleep(max(early_s, _PAUSE_S))
            self._tell(frame, told[frame.conversation_id])
            told[frame.conversation_id] += 1
            if frame.event is ENDED:
                self._ended_at[frame.conversation_id] = self._now()
                del told[frame.conversation_id]

    def _tell(self, frame: CallFrame, number: int) -> None:
        """A frame of a call as a detail event, and as a snapshot for the queue and the user when something changes."""
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


class _OfOneConnection:
    """What decides for one connection: upgrades are for the channel that they name."""

    def __init__(self, simulator: NotificationsSimulator) -> None:
        self._simulator = simulator
        self._connection: Connection | None = None
        self.request = simulator.request
        self.message = simulator.message
        self.closed = simulator.closed

    def opened(self, connection: Connection) -> None:
        self._connection = connection
        self._simulator.opened(connection)

    def upgrade(self, request: HttpRequest) -> Answer | Silence | None:
        assert self._connection is not None
        return self._simulator.connect(request, self._connection)


def _send(channel: SimulatedChannel, encoded: bytes) -> bool:
    return channel.connection is not None and not channel.deaf and channel.connection.write(encoded)


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
