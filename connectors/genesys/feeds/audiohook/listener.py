"""A listening socket that takes as many connections as there are files for, also those still in the TLS handshake."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from connectors.errors import UsageError
from connectors.runtime.logs import get_logger

__all__ = ["BACKLOG", "Listener", "allow_connections", "listen"]

BACKLOG: Final = 1024

OTHER_FILES: Final = 256
"""What the rest of the process needs: journal, outbox, the other feeds, the health server."""


class Listener(socket.socket):
    """A bound socket, detached from `bound`, of which at most `most` accepted connections are open at a time.

    Connections above the limit are closed immediately: there is no file descriptor left for a handshake. asyncio
    reports a connection only after its TLS handshake, and drops one that fails silently, so they are counted here.
    """

    def __init__(self, bound: socket.socket, most: int) -> None:
        super().__init__(fileno=bound.detach())
        self.turned_away = 0
        self._most = most
        self._open = 0

    def accept(self) -> tuple[socket.socket, Any]:
        """Like that of a socket; raises BlockingIOError also after a connection that was turned away."""
        connection, address = super().accept()
        if self._open >= self._most:
            self.turned_away += 1
            connection.close()
            raise BlockingIOError  # one a round, so that a crowd at the door does not keep the loop from the calls
        self._open += 1
        return _Accepted(connection, self._release), address

    def _release(self) -> None:
        self._open -= 1


class _Accepted(socket.socket):
    """A socket that tells once when it is closed."""

    def __init__(self, connection: socket.socket, closed: Callable[[], None]) -> None:
        super().__init__(fileno=connection.detach())
        self._on_close: Callable[[], None] | None = closed

    def close(self) -> None:
        """Close it, and tell."""
        super().close()
        told, self._on_close = self._on_close, None
        if told is not None:
            told()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError if the address is taken or is not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"the AudioHook feed cannot listen on {host}:{port}: {error.strerror or error}; "
            "choose another [audiohook] listen"
        ) from error


def allow_connections(wanted: int) -> int:
    """Raise the limit of open files as far as it may be, and tell how many connections, up to `wanted`, it allows."""
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
