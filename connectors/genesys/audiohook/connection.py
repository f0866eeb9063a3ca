"""A WebSocket of an AudioHook session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, Event

from connectors.genesys.audiohook.monitor import MonitoredSession
from connectors.genesys.audiohook.session import Session

__all__ = ["Connection", "Host"]

log = structlog.get_logger()

MAX_UNREAD_BYTES: Final = 2**18


class Host(Protocol):
    """What connections are told to."""

    def made(self, connection: Connection) -> None:
        """A TCP connection has been made."""

    def forget(self, connection: Connection) -> None:
        """A TCP connection is over."""

    def guard(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something that writes to a recorder, and see to its exceptions."""


class Connection(ServerConnection):
    """A connection that takes in messages as they are parsed, without a queue, and answers within the same call."""

    def __init__(self, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.monitored: MonitoredSession | None = None
        self._host = host
        self._fragments: list[bytes] = []
        self._in_fragments = BINARY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        super().connection_made(transport)
        self._host.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it, and tell the session."""
        super().connection_lost(exc)
        self._host.forget(self)
        if self.monitored is not None:
            self._host.guard(self.monitored.lost, self.loop.time())

    def process_event(self, event: Event) -> None:
        """Take in a message, or let the library see to anything else."""
        if self.monitored is None or type(event) is not Frame or event.opcode not in (BINARY, TEXT, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._take(self.monitored, event.opcode is TEXT, bytes(event.data))
        else:
            if event.opcode is not CONT:
                self._in_fragments = event.opcode
            self._fragments.append(bytes(event.data))
            if event.fin:
                message, self._fragments = b"".join(self._fragments), []
                self._take(self.monitored, self._in_fragments is TEXT, message)

    def tend(self, now: float) -> None:
        """Measure the session, and see to its deadline."""
        if self.monitored is None:
            return
        self._host.guard(self.monitored.expire, now)
        self._host.guard(self.monitored.sample, now)
        self._send(self.monitored.session)
        if self.monitored.session.over and self.protocol.state is OPEN:
            self._closing = self.loop.create_task(self.close(CloseCode.NORMAL_CLOSURE))

    def disconnect(self, reason: Literal["completed", "error"], now: float) -> None:
        """Ask the client to close the session."""
        if self.monitored is not None:
            self.monitored.disconnect(reason, "voicewatch is stopping", now)
            self._send(self.monitored.session)

    def _take(self, monitored: MonitoredSession, is_text: bool, data: bytes) -> None:  # noqa: FBT001
        # Text that is not UTF-8 becomes text that is no JSON, which the session answers in order.
        message = data.decode("utf-8", "surrogateescape") if is_text else data
        self._host.guard(monitored.receive, message, self.loop.time())
        self._send(monitored.session)

    def _send(self, session: Session) -> None:
        """Write what the session has to say; a client that never reads is given up."""
        for text in session.to_send():
            if self.protocol.state is not OPEN:
                return
            self.protocol.send_text(text)
            self.send_data()
            if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
                log.warning("audiohook_client_does_not_read", session=session.session_id)
                self.transport.abort()
                return
