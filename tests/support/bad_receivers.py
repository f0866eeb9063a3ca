"""A receiver on a raw socket that breaks the rules of HTTP, by the path of the request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
FLOODS = {
    "/flood100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "/flood103": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100),
    "/chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 100),
}


class BadReceivers:
    """Answers 200 to any path but these: /hang… never, /awhile after half a second, /flood100, /flood103 and /chunks
    without end, /twice two times.

    /late answers 200 again, half a second after each answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.at: dict[str, list[float]] = {}  # when requests came, by path, on the monotonic clock
        self.connections: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def count(self, prefix: str) -> int:
        """The number of requests to paths that begin with `prefix`."""
        with self._lock:
            return sum(len(times) for path, times in self.at.items() if path.startswith(prefix))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._started.set()
        await self._stop.wait()
        # A connection whose acceptance has begun is lost, and stays open, if the server is closed before it ends.
        self._loop.remove_reader(server.sockets[0].fileno())
        await _rounds()
        server.close()
        for task, writer in self._serving.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await _rounds()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[asyncio.create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
                body = await reader.readexactly(length)
                with self._lock:
                    self.at.setdefault(path, []).append(time.monotonic())
                self.bodies.append(body)
                self.connections[path] += first
                first = False
                await self._answer(path, writer)
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path.startswith("/hang"):
            await asyncio.sleep(3600.0)
        if path == "/awhile":
            await asyncio.sleep(0.5)
        if path in FLOODS:
            start, again = FLOODS[path]
            writer.write(start)
            while True:
                writer.write(again)
                await writer.drain()
        writer.write(OK * 2 if path == "/twice" else OK)
        if path == "/late":
            await asyncio.sleep(0.5)
            writer.write(OK)


async def _rounds() -> None:
    """Let the loop do what it has already begun."""
    for _ in range(5):
        await asyncio.sleep(0)


@contextlib.contextmanager
def bad_receivers() -> Iterator[BadReceivers]:
    receivers = BadReceivers()
    receivers._thread.start()
    assert receivers._started.wait(10.0)
    try:
        yield receivers
    finally:
        assert receivers._loop is not None
        receivers._loop.call_soon_threadsafe(receivers._stop.set)
        receivers._thread.join(10.0)
