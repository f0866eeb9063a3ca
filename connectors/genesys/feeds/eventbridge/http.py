"""A small HTTP/1.1 server for requests with a body, with limits on their size and on slow clients.

h11 parses. Each connection has one request at a time, so that the number of connections limits the requests.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import h11

from connectors.genesys.feeds.listener import BACKLOG, Listener

__all__ = ["Answer", "Head", "HttpLimits", "HttpServer"]

_READ_BYTES: Final = 64 * 1024


class Head(NamedTuple):
    """Method, path and headers of a request; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """A status and a text of one line."""

    status: HTTPStatus
    text: str


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of a server: bytes, and seconds.

    A request must be complete `request_s` after its first byte, and its answer read within the same time. A connection
    without a request is closed after `idle_s`.
    """

    max_body_bytes: int
    max_head_bytes: int = 16 * 1024
    handshake_s: float = 5.0
    request_s: float = 10.0
    idle_s: float = 75.0
    stop_s: float = 2.0


class _RefusedError(Exception):
    """A request that is answered without being read to its end; the connection is closed afterwards."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


class HttpServer:
    """Serve requests on a listening socket. For one event loop.

    `refuse` sees the head of a request before its body is read, and returns an answer to refuse it. `answer` gets the
    body of every other request; an exception of it closes the connection, and is passed to `failed`.
    """

    def __init__(
        self,
        *,
        refuse: Callable[[Head], Answer | None],
        answer: Callable[[bytes], Awaitable[Answer]],
        failed: Callable[[Exception], None],
        limits: HttpLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._refuse = refuse
        self._answer = answer
        self._failed = failed
        self.limits = limits
        self._tls = tls
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._stopping = False
        self._server: asyncio.Server | None = None
        self._listener: Listener

    async def start(self, listening: Listener) -> None:
        """Accept connections. One that has sent an acceptable head is admitted by the listener."""
        self._listener = listening
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl_handshake_timeout": self.limits.handshake_s, "ssl_shutdown_timeout": self.limits.stop_s}
        self._server = await asyncio.start_server(
            self._serve, sock=listening, backlog=BACKLOG, limit=_READ_BYTES, ssl=self._tls, **tls
        )

    async def stop(self) -> None:
        """Accept no more connections, let the requests under way end, and close all connections."""
        assert self._server is not None
        self._stopping = True
        self._server.close()
        busy = [task for task, connection in self._connections.items() if not connection.is_idle]
        if busy:
            await asyncio.wait(busy, timeout=self.limits.stop_s)
        left = list(self._connections)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = connection = _Connection(reader, writer, self.limits)
        try:
            while not self._stopping and await self._exchange(connection):
                pass
        except (OSError, EOFError, TimeoutError, h11.ProtocolError):
            writer.transport.abort()
        except Exception as error:
            writer.transport.abort()
            self._failed(error)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            del self._connections[task]
            writer.close()

    async def _exchange(self, connection: _Connection) -> bool:
        """Answer one request; return whether another one may follow."""
        if not await connection.begun():
            return False
        try:
            async with asyncio.timeout(self.limits.request_s):
                head = await connection.head()
                if (refusal := self._refuse(head)) is not None:
                    raise _RefusedError(refusal)
                self._listener.admit(connection.file)
                body = await connection.body(head)
        except _RefusedError as refused:
            await connection.send(refused.answer, close=True)
            return False
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            with suppress(h11.LocalProtocolError):
                await connection.send(Answer(status, "the request is not valid HTTP"), close=True)
            return False
        try:
            answer = await self._answer(body)
        except Exception as error:
            self._failed(error)
            return False
        return await connection.send(answer, close=False)


class _Connection:
    """The requests of one connection, one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: HttpLimits) -> None:
        self._reader = reader
        self._writer = writer
        self._limits = limits
        self.is_idle = True
        self.file: int = writer.get_extra_info("socket").fileno()
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.max_head_bytes)

    async def begun(self) -> bool:
        """Wait for the first bytes of a request; return whether there are any before the connection ends."""
        if not self._h11.trailing_data[0]:
            self.is_idle = True
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    data = await self._reader.read(_READ_BYTES)
            except TimeoutError:
                return False
            if not data:
                return False
            self._h11.receive_data(data)
        self.is_idle = False
        return True

    async def head(self) -> Head:
        """Read the head of a request."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            raise EOFError("the connection ended")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        path = event.target.decode("latin-1").partition("?")[0]
        return Head(event.method.decode("ascii"), path, headers)

    async def body(self, head: Head) -> bytes:
        """Read the body of a request. Raise _RefusedError if it is too large."""
        most = self._limits.max_body_bytes
        length = head.headers.get("content-length", "0")
        too_large = _RefusedError(Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is over {most} bytes"))
        if length.isdecimal() and int(length) > most:
            raise too_large
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > most:
                raise too_large
        return bytes(body)

    async def send(self, answer: Answer, *, close: bool) -> bool:
        """Send an answer; return whether another request may follow."""
        body = answer.text.encode() + b"\n"
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        if close:
            headers.append(("connection", "close"))
        status = answer.status
        self._write(h11.Response(status_code=status, reason=status.phrase.encode(), headers=headers))
        self._write(h11.Data(data=body))
        self._write(h11.EndOfMessage())
        async with asyncio.timeout(self._limits.request_s):
            await self._writer.drain()
        if close or self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    def _write(self, event: h11.Event) -> None:
        self._writer.write(self._h11.send(event) or b"")

    async def _event(self) -> h11.Event:
        """Return the next event. Raise EOFError when the connection ends in the middle of a request."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            data = await self._reader.read(_READ_BYTES)
            self._h11.receive_data(data)
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise EOFError("the connection ended")
        return event
