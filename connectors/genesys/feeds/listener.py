"""Bound what connections cost that have not authenticated: their number, their file descriptors and their memory."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import sys
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Final

from connectors.errors import UsageError
from connectors.runtime.logs import get_logger

__all__ = ["BACKLOG", "MAX_UNAUTHENTICATED", "FrugalLoop", "Listener", "allow_connections", "listen"]

BACKLOG: Final = 1024

OTHER_FILES: Final = 256
"""What the rest of the process needs: journal, outbox, the other feeds, the health server."""


MAX_UNAUTHENTICATED: Final = 1000
"""The most connections that may be open without an accepted upgrade, those in the TLS handshake among them."""

TLS_BUFFER_BYTES: Final = 2**14
"""The longest TLS record. asyncio's own buffer has 256 KiB for each connection, before its client has said a word."""

_FEEDS: Final = {"[audiohook] listen": "AudioHook", "[[feed]] listen": "EventBridge"}


class Listener(socket.socket):
    """A bound socket, detached from `bound`, of which at most `most` accepted connections are open at a time.

    At most `most_unauthenticated` of them are open before `admit` is called for them. At a limit, the oldest of these
    is closed and the new one is accepted in its place: a client that authenticates immediately is done long before its
    turn. If all open connections are admitted, the new one is closed. asyncio reports a connection only after its TLS
    handshake, and drops one that fails silently, so they are counted here.
    """

    def __init__(self, bound: socket.socket, most: int, most_unauthenticated: int = MAX_UNAUTHENTICATED) -> None:
        super().__init__(fileno=bound.detach())
        self.turned_away = 0
        self._most = most
        self._most_unauthenticated = most_unauthenticated
        self._open = 0
        self._unauthenticated: dict[int, _Accepted] = {}  # by file descriptor, the oldest first
        self._closing: _Accepted | None = None

    @property
    def is_quiet(self) -> bool:
        """Tell whether at most a tenth of the allowed unauthenticated connections are open."""
        return 10 * self.unauthenticated <= self._most_unauthenticated

    @property
    def unauthenticated(self) -> int:
        """Return the number of open connections that are not admitted."""
        return len(self._unauthenticated)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; raise BlockingIOError at a limit, too.

        At a limit, one connection is closed per call, so that a crowd does not keep the loop from the calls.
        """
        if len(self._unauthenticated) >= self._most_unauthenticated or (
            self._open >= self._most and self._unauthenticated
        ):
            if self._is_waited_for():
                self._close_oldest()
            raise BlockingIOError  # the new connection stays in the backlog until the loop has closed the oldest
        connection, address = super().accept()
        if self._open >= self._most:
            self.turned_away += 1
            connection.close()
            raise BlockingIOError
        self._open += 1
        accepted = _Accepted(connection, self._release)
        self._unauthenticated[accepted.fileno()] = accepted
        return accepted, address

    def admit(self, file: int) -> None:
        """Stop counting the connection with this file descriptor as unauthenticated."""
        self._unauthenticated.pop(file, None)

    def _is_waited_for(self) -> bool:
        waiting = select.poll()
        waiting.register(self, select.POLLIN)
        return bool(waiting.poll(0))

    def _close_oldest(self) -> None:
        if self._closing is None:
            self.turned_away += 1
            self._closing = next(iter(self._unauthenticated.values()))
            self._closing.abort()

    def _release(self, closed: _Accepted) -> None:
        self._open -= 1
        self._unauthenticated.pop(closed.number, None)
        if self._closing is closed:
            self._closing = None


class _Accepted(socket.socket):
    """A socket that calls `closed` once, when it is closed."""

    def __init__(self, connection: socket.socket, closed: Callable[[_Accepted], None]) -> None:
        super().__init__(fileno=connection.detach())
        self.number = self.fileno()
        self._on_close: Callable[[_Accepted], None] | None = closed

    def abort(self) -> None:
        """Let the event loop see the end of the connection, upon which it closes the socket."""
        with contextlib.suppress(OSError):  # the client has closed it
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, and report it."""
        super().close()
        report, self._on_close = self._on_close, None
        if report is not None:
            report(self)


class _FrugalTLS(sslproto.SSLProtocol):
    """TLS of asyncio with a buffer of one record, whose memory is free as soon as the connection is lost.

    The exception of a failed handshake, its traceback and the task that waits for it refer to each other and to the
    connection: only the collector of cycles would free it, tens of thousands of connections later.
    """

    max_size = TLS_BUFFER_BYTES

    def connection_lost(self, exc: BaseException | None) -> None:
        """Drop what takes memory."""
        super().connection_lost(exc)
        self._sslobj = None
        self._ssl_buffer = bytearray()
        self._ssl_buffer_view = memoryview(self._ssl_buffer)

    def _wakeup_waiter(self, exc: BaseException | None = None) -> None:
        super()._wakeup_waiter(exc if exc is None else exc.with_traceback(None))


class FrugalLoop(asyncio.SelectorEventLoop):
    """An event loop whose TLS connections take 16 KiB of buffer each, not 256 KiB.

    asyncio has no option for it. Should a later Python no longer call this method, connections cost more again, which
    a test notices.
    """

    def _make_ssl_transport(
        self, rawsock: Any, protocol: Any, sslcontext: Any, waiter: Any = None, **options: Any
    ) -> Any:
        extra, server = options.pop("extra", None), options.pop("server", None)
        tls = _FrugalTLS(self, protocol, sslcontext, waiter, **options)
        self._make_socket_transport(rawsock, tls, extra=extra, server=server)  # type: ignore[attr-defined]
        return tls._app_transport


def listen(host: str, port: int, *, key: str = "[audiohook] listen") -> socket.socket:
    """Return a socket that listens there. Raise UsageError, which names the setting `key`, if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"the {_FEEDS[key]} feed cannot listen on {host}:{port}: {error.strerror or error}; choose another {key}"
        ) from error


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files as far as possible, and return how many connections, up to `wanted`, it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < enough:
        more = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (OSError, ValueError) as error:
            get_logger(__name__).warning("open_files_cannot_be_raised", allowed=soft, error=str(error))
    files = sys.maxsize if soft == resource.RLIM_INFINITY else soft
    allowed = max(1, min(wanted, files - min(OTHER_FILES, files // 2)))
    if allowed < wanted:
        get_logger(__name__).warning("open_files_are_few", files=files, connections=allowed, wanted=wanted)
    return allowed
