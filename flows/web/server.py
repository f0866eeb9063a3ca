"""Uvicorn in a thread of its own, with limits on connections and on slow clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from connectors.errors import VoicewatchError

__all__ = ["MAX_CONNECTIONS", "WebServer"]

MAX_CONNECTIONS: Final = 64
DEADLINE_S: Final = 10.0
STOP_S: Final = 5.0
# A long conversation id in a query string takes less; larger headers are refused.
MAX_HEADER_BYTES: Final = 16 * 1024


class WebServer:
    """Serves an ASGI application on one address, from `start` to `stop`.

    At most `max_connections` are open at a time, any more are closed. A client that sends no complete request within
    `deadline_s`, or takes nothing of its answer for as long, is cut off. Bound when made. Raises VoicewatchError,
    which names the setting `key`, if the address cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        key: str,
        max_connections: int = MAX_CONNECTIONS,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        try:
            self._socket = _bound(host, port)
        except (OSError, OverflowError) as error:
            raise VoicewatchError(
                f"{key}: {host}:{port} cannot be listened on ({error}); choose another address or port"
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_protocol(max_connections, deadline_s),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(int(deadline_s), 1),
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="voicewatch-web", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.address[1]

    @property
    def url(self) -> str:
        """The address, for people on this machine."""
        host = self.address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> None:
        """Begin to answer."""
        self._socket.listen(128)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and free the port."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        self._socket.close()

    def _serve(self) -> None:
        # In a thread other than the main one, `serve` leaves the signals of the process alone.
        asyncio.run(self._server.serve(sockets=[self._socket]))


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except BaseException:
        bound.close()
        raise
    return bound


def _protocol(max_connections: int, deadline_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits."""
    open_now: set[asyncio.Protocol] = set()

    class Limited(H11Protocol):
        """One connection; a timer looks at it until it is lost."""

        def connection_made(self, transport: Any) -> None:
            self._written = -1
            self._watch: asyncio.TimerHandle | None = None
            if len(open_now) >= max_connections:
                self._refused = True
                transport.abort()
                return
            self._refused = False
            open_now.add(self)
            super().connection_made(transport)
            self._watch = self.loop.call_later(deadline_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._watch is not None:
                self._watch.cancel()
            open_now.discard(self)
            if not self._refused:
                super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._refused:
                super().data_received(data)

        def _look(self) -> None:
            """Cut off a client that has asked for nothing, or that takes nothing of its answer."""
            waiting = self.transport.get_write_buffer_size()
            answering = self.cycle is not None and not self.cycle.response_complete
            if (not answering and waiting == 0) or (waiting > 0 and waiting == self._written):
                self.transport.abort()
                return
            self._written = waiting
            self._watch = self.loop.call_later(deadline_s, self._look)

    return Limited
