"""The server under every simulator: its port, its connections, and the thread-safe view of their state.

An `Application` decides what is answered and what is sent; the server runs it:

    with running(VoiceEventsSimulator(SimulatorOptions(conversations=3))) as simulator:
        ...                                     # a client connects to simulator.base_url
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from websockets.frames import CloseCode

from connectors.errors import UsageError
from connectors.genesys.simulator.connection import Answer, Connection, HttpRequest, Silence
from connectors.genesys.simulator.lifecycle import in_background, until_signal

__all__ = ["Application", "Served", "SimulatorServer", "announce", "running", "serve"]

_CLOSE_S = 1.0

_T = TypeVar("_T")


class Application(Protocol):
    """What a server serves; all methods are called in the event loop, and must not block."""

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request."""

    def upgrade(self, request: HttpRequest, connection: Connection) -> Answer | Silence | None:
        """Refuse a WebSocket upgrade with an answer, or accept it with None."""

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Take a WebSocket message."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection that has ended."""

    async def play(self) -> None:
        """Send what there is to send; cancelled when the server stops."""


class SimulatorServer:
    """Listens on `host`:`port` (0 takes any free port) and serves one application.

    `base_url` is known once it listens. `connections` counts the accepted upgrades.
    """

    def __init__(self, application: Application, host: str, port: int) -> None:
        self._application = application
        self._address = host, port
        self._tcp: set[Connection] = set()
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self.base_url = ""
        self.connections = 0

    @property
    def websockets(self) -> list[Connection]:
        """Return the connections that are WebSockets now."""
        return [connection for connection in self._tcp if connection.is_websocket]

    @contextmanager
    def change(self) -> Iterator[None]:
        """Change the state that `wait_for` watches."""
        with self._changed:
            yield
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], bool], deadline_s: float, figures: Callable[[], str]) -> None:
        """Block until `predicate()` holds, checked at every change; raises TimeoutError with `figures()`.

        Not to be called in the server's own thread.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, deadline_s):
                raise TimeoutError(f"not within {deadline_s} s: connections={self.connections} {figures()}")

    def in_loop(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the event loop, from any thread, and return its result."""
        if self._loop is None or threading.get_ident() == self._thread:
            return work()

        async def run() -> _T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until `stop` is set; `ready` is called once the server listens.

        Raises UsageError if the address is in use, and what the application's `play` raises.
        """
        self._loop = loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        host, port = self._address
        try:
            server = await loop.create_server(lambda: Connection(self), host, port)
        except OSError as error:
            raise UsageError(f"the simulator cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.base_url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        playing = asyncio.create_task(self._application.play())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            ready()
            await asyncio.wait({stopping, playing}, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
            await stopping
        finally:
            await self._close(server, playing)

    async def _close(self, server: asyncio.Server, playing: asyncio.Task[None]) -> None:
        playing.cancel()
        server.close()
        for connection in list(self._tcp):
            connection.close(CloseCode.GOING_AWAY)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._all_closed.wait()
        for connection in list(self._tcp):
            connection.abort()
        await server.wait_closed()
        with contextlib.suppress(asyncio.CancelledError):
            await playing

    # For the connections

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request."""
        with self.change():
            return self._application.request(request)

    def upgrade(self, request: HttpRequest, connection: Connection) -> Answer | Silence | None:
        """Decide on an upgrade."""
        with self.change():
            refusal = self._application.upgrade(request, connection)
            self.connections += refusal is None
            return refusal

    def opened(self, connection: Connection) -> None:
        """Remember a TCP connection."""
        self._tcp.add(connection)
        self._all_closed.clear()

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Pass on a WebSocket message."""
        self._application.message(connection, message)

    def closed(self, connection: Connection) -> None:
        """Forget a TCP connection."""
        with self.change():
            self._tcp.discard(connection)
            self._application.closed(connection)
        if not self._tcp:
            self._all_closed.set()


class Served(Application, Protocol):
    """An application that owns its server."""

    server: SimulatorServer


_S = TypeVar("_S", bound=Served)


def announce(base_url: str) -> None:
    """Print the base URL as one JSON line, for the process that started this one."""
    print(json.dumps({"base_url": base_url}), flush=True)


def serve(simulator: Served, ready: Callable[[str], None] = announce) -> None:
    """Run a simulator until SIGINT or SIGTERM; `ready` is called with the base URL once it listens.

    Raises UsageError if the address is in use, RecordingError for a damaged recording.
    """
    until_signal(simulator.server.run, lambda: ready(simulator.server.base_url))


@contextmanager
def running(simulator: _S) -> Iterator[_S]:
    """Run a simulator in a daemon thread; it listens when the block begins."""
    with in_background(simulator.server.run):
        yield simulator
