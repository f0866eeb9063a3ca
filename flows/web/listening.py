"""Bind the socket of a web server, and say what an answer is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from connectors.errors import UsageError

__all__ = ["QUEUE", "Answer", "bind", "port_of"]

QUEUE: Final = 128

# Returns status, content type and body.
Answer = Callable[[], tuple[int, str, bytes]]


def bind(host: str, port: int, *, key: str) -> socket.socket:
    """Return a socket that listens. Raises UsageError, which names the setting `key`, if the address cannot be used."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(QUEUE)
    except BaseException as error:
        bound.close()
        if isinstance(error, OSError | OverflowError):
            raise UsageError(
                f"{key}: {host}:{port} cannot be listened on ({error}); choose another address or port"
            ) from error
        raise
    return bound


def port_of(bound: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    return int(bound.getsockname()[1])
