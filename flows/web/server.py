"""Run uvicorn in a thread, with limits on connections and on slow clients."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flows.web.listening import QUEUE, port_of

__all__ = ["MAX_CONNECTIONS", "WebServer"]

MAX_CONNECTIONS: Final = 64
DEADLINE_S: Final = 10.0
STOP_S: Final = 5.0
# A long conversation id in a query string takes less; larger headers are refused.
MAX_HEADER_BYTES: Final = 16 * 1024


class WebServer:
    """Serve an ASGI application on a socket of `bind`, from `start` to `stop`.

    At most `max_connections` are open at a time: a further one closes the oldest that has not sent its request, or the
    oldest if all have, so that slow clients never keep others out. A client that sends no complete request within
    `deadline_s`, or reads nothing of its answer for as long, is cut off.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        *,
        max_connections: int = MAX_CONNECTIONS,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._socket = bound
        self.port = port_of(bound)
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
            backlog=1,
            proxy_headers=False,
            timeout_keep_alive=max(int(deadline_s), 1),
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        # Its warnings are of single requests that are malformed: anyone who reaches the port could fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._serve, name="voicewatch-web", daemon=True)

    def start(self) -> None:
        """Answer requests until `stop`."""
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


class _Server(uvicorn.Server):
    """Accept one connection at a time.

    asyncio takes `backlog` for the length of the queue and for the number of connections accepted in a row. Without
    descriptors it then fails, and plans a new attempt, that many times (up to Python 3.12.7).
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(QUEUE)


def _protocol(max_connections: int, deadline_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with the limits of `WebServer`."""
    open_now: dict[Limited, None] = {}  # oldest first

    class Limited(H11Protocol):
        """Serve one connection; a timer looks at it until it is lost."""

        def connection_made(self, transport: Any) -> None:
            if len(open_now) >= max_connections:
                next((one for one in open_now if not one.is_answering), next(iter(open_now))).end()
            self._written = -1
            self._last_cycle: object = None
            open_now[self] = None
            super().connection_made(transport)
            self._watch = self.loop.call_later(deadline_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.cancel()
            open_now.pop(self, None)
            super().connection_lost(exc)

        @property
        def is_answering(self) -> bool:
            """Return whether a request was received whose answer is not written yet."""
            return self.cycle is not None and not self.cycle.response_complete

        def end(self) -> None:
            """Close the connection at once."""
            open_now.pop(self, None)
            self.transport.abort()

        def _look(self) -> None:
            """Cut off a client that has sent no request since the last look, or has read nothing of its answer."""
            waiting = self.transport.get_write_buffer_size()
            is_idle = waiting == 0 and not self.is_answering and self.cycle is self._last_cycle
            if is_idle or (waiting > 0 and waiting == self._written):
                self.end()
                return
            self._written, self._last_cycle = waiting, self.cycle
            self._watch = self.loop.call_later(deadline_s, self._look)

    return Limited
