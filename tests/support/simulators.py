"""What tests do to a running simulator, and ask of it."""

from __future__ import annotations

import asyncio

import orjson
from websockets.frames import CloseCode

from connectors.genesys.simulator.connection import encode_message
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.voice_events import VoiceEventsSimulator

__all__ = ["announce_closing", "close_channels", "duplicate_creates", "fall_silent", "send_to_all"]


def duplicate_creates(simulator: VoiceEventsSimulator) -> int:
    """Return how many interceptors were created for conversations that already had one."""
    created = simulator.created
    return len(created) - len({interceptor.conversation_id for interceptor in created})


def send_to_all(simulator: NotificationsSimulator, *messages: str | bytes) -> int:
    """Send messages as they are to every connected channel; returns how many received them."""
    encoded = b"".join(map(encode_message, messages))
    return simulator.server.in_loop(lambda: sum(channel.send(encoded) for channel in simulator.connected))


def announce_closing(simulator: NotificationsSimulator) -> None:
    """Announce to every connected channel that its socket will be closed, and close it `closing_s` later."""

    def announce() -> None:
        body = {"systemTopicType": "socket_closing", "message": "the socket is about to be closed"}
        message = {"topicName": "v2.system.socket_closing", "eventBody": body}
        for channel in simulator.connected:
            channel.send(encode_message(orjson.dumps(message).decode()))
            if channel.connection is not None:
                close, loop = channel.connection.close, asyncio.get_running_loop()
                loop.call_later(simulator.options.closing_s, close, CloseCode.GOING_AWAY, "closing")

    simulator.server.in_loop(announce)


def fall_silent(simulator: NotificationsSimulator) -> None:
    """Send nothing more on the sockets that are connected now, not even heartbeats, and leave them open."""

    def silence() -> None:
        for channel in simulator.connected:
            channel.deaf = True

    simulator.server.in_loop(silence)


def close_channels(simulator: NotificationsSimulator, code: int | None = None) -> None:
    """Close every socket with this close code, or end its connection without a close frame."""

    def close() -> None:
        for connection in [channel.connection for channel in simulator.connected]:
            if connection is not None and code is None:
                connection.drop()
            elif connection is not None:
                connection.close(code or CloseCode.GOING_AWAY)

    simulator.server.in_loop(close)
