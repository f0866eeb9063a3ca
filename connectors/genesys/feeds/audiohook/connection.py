"""A WebSocket of an AudioHook session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import OPEN, Event

from connectors.genesys.feeds.audiohook.monitor import MonitoredSession
from connectors.genesys.feeds.audiohook.session import Session
from connectors.runtime.logs import get_logger

__all__ = ["Connection", "Host"]


MAX_UNREAD_BYTES: Final = 2**18
MAX_FRAGMENTS: Final = 1024


class Host(Protocol):
    """The feed, as its connections use it."""

    def forget(self, connection: Connection) -> None:
        """Forget a closed TCP connection."""

    def guard(self, work: Callable[..., None], *arguments: Any) -> bool:
        """Do work that writes to a recorder and handle its exceptions; False if the connection is at fault."""


class Connection(ServerConnection):
    """A connection that handles messages as they are parsed, without a queue, and answers within the same call."""

    def __init__(self, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.monitored: MonitoredSession | None = None
        self._host = host
        self._fragments: list[bytes] = []
        self._in_fragments = BINARY

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the feed and the session."""
        super().connection_lost(exc)
        self._host.forget(self)
        if self.monitored is not None:
            self._host.guard(self.monitored.lost, self.loop.time())

    def data_received(self, data: bytes) -> None:
        """Handle received data; the library answers pings meanwhile, whether the client reads or not."""
        super().data_received(data)
        self._check_unread()

    def process_event(self, event: Event) -> None:
        """Handle a message; leave anything else to the library."""
        if self.monitored is None or type(event) is not Frame or event.opcode not in (BINARY, TEXT, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._take(self.monitored, event.opcode is TEXT, bytes(event.data))
        else:
            if event.opcode is not CONT:
                self._in_fragments = event.opcode
            if len(self._fragments) == MAX_FRAGMENTS:
                self._fragments.clear()
                self._give_up("audiohook_message_in_too_many_fragments")
            self._fragments.append(bytes(event.data))
            if event.fin:
                message, self._fragments = b"".join(self._fragments), []
                self._take(self.monitored, self._in_fragments is TEXT, message)

    def tend(self, now: float) -> None:
        """Measure the session, and check its deadline."""
        if self.monitored is None:
            return
        self._guarded(self.monitored.expire, now)
        self._guarded(self.monitored.sample, now)
        self._send(self.monitored.session)
        self._check_unread()
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
        self._guarded(monitored.receive, message, self.loop.time())
        self._send(monitored.session)

    def _send(self, session: Session) -> None:
        """Write the session's messages; drop a client that never reads."""
        for text in session.to_send():
            if self.protocol.state is not OPEN:
                return
            self.protocol.send_text(text)
            self.send_data()
            self._check_unread()

    def _check_unread(self) -> None:
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._give_up("audiohook_client_does_not_read")

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        if not self._host.guard(work, *arguments):
            self.transport.abort()

    def _give_up(self, why: str) -> None:
        if not self.transport.is_closing():
            get_logger(__name__).warning(why, session=self.monitored and self.monitored.session.session_id)
        self.transport.abort()
