"""Keep one HTTP/1.1 connection to one address alive, with limits on what a receiver may send."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

import h11

__all__ = ["BODY_START_BYTES", "AnswerTooLargeError", "Connection"]

BODY_START_BYTES: Final = 4096
_HEAD_BYTES: Final = 16 * 1024
_ANSWER_BYTES: Final = 96 * 1024  # the head, interim answers and framing included
_INTERIM_ANSWERS: Final = 8
_BODY_PARTS: Final = 256
_READ_BYTES: Final = 8 * 1024
_HIGH_WATER_BYTES: Final = 32 * 1024


class AnswerTooLargeError(Exception):
    """Report that a receiver sends more than an answer to a callback may hold."""


class _Wire(asyncio.Protocol):
    """Hold what arrives until it is read. Data that was not requested closes the connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.busy = False  # a request is under way
        self.unasked = False
        self._data = bytearray()
        self._ended = False
        self._lost: Exception | None = None
        self._wanted: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        """Report whether nothing is known against sending a request."""
        return not (self._ended or self._data or self.unasked)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.unasked = True
            if self.transport is not None:
                self.transport.abort()
            return
        self._data += data
        if len(self._data) > _HIGH_WATER_BYTES and self.transport is not None:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._lost = exc
        self._wake()

    async def read(self) -> bytes:
        """Wait for data; return some of it, or nothing at the end. Raise OSError if the connection is lost."""
        while not self._data:
            if self._lost is not None:
                raise self._lost
            if self._ended:
                return b""
            self._wanted = asyncio.get_running_loop().create_future()
            try:
                await self._wanted
            finally:
                self._wanted = None
        data = bytes(self._data[:_READ_BYTES])  # in pieces, for h11 checks its limit only between them
        del self._data[:_READ_BYTES]
        if not self._data and self.transport is not None:
            self.transport.resume_reading()
        return data

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)


class Connection:
    """Make one request after the other. Not for use by two tasks at once."""

    def __init__(self, wire: _Wire) -> None:
        assert wire.transport is not None
        self._wire = wire
        self._transport = wire.transport
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        self._left_bytes = 0
        self.opened_at = self.used_at = asyncio.get_running_loop().time()

    @classmethod
    async def open(cls, address: str, port: int, tls: ssl.SSLContext | None, name: str) -> Connection:
        """Connect to an IP address; with `tls`, the certificate must be for `name`. Raise OSError."""
        server_name = name if tls is not None else None
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(_Wire, address, port, ssl=tls, server_hostname=server_name)
        return cls(wire)

    async def post(self, target: bytes, headers: Iterable[tuple[str, str]], body: bytes) -> h11.Response:
        """Send a request and wait for the head of its answer.

        Raise OSError, h11.RemoteProtocolError, or AnswerTooLargeError after too many interim answers.
        """
        head = [*headers, ("content-length", str(len(body)))]
        parts = (h11.Request(method="POST", target=target, headers=head), h11.Data(body), h11.EndOfMessage())
        data = b"".join(self._http.send(part) or b"" for part in parts)
        self._left_bytes = _ANSWER_BYTES
        self._wire.busy = True
        self._transport.write(data)
        for _ in range(_INTERIM_ANSWERS + 1):
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the connection was closed without an answer")
        raise AnswerTooLargeError(f"more than {_INTERIM_ANSWERS} interim answers (1xx)")

    async def read_body(self) -> bytes:
        """Read the body to its end and return its first bytes. Raise as `post`."""
        start = b""
        for _ in range(_BODY_PARTS):
            event = await self._event()
            if isinstance(event, h11.Data):
                if len(start) < BODY_START_BYTES:
                    start += bytes(event.data[: BODY_START_BYTES - len(start)])
            else:
                return start
        raise AnswerTooLargeError(f"a body in more than {_BODY_PARTS} parts")

    def recycle(self) -> bool:
        """Make the connection ready for the next request; return False if it cannot be used again."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or http.trailing_data != (b"", False):
            return False
        http.start_next_cycle()
        self._wire.busy = False
        self.used_at = asyncio.get_running_loop().time()
        return self._wire.open

    @property
    def unasked(self) -> bool:
        """Report whether the receiver has sent an answer that no request asked for."""
        return self._wire.unasked or self._http.trailing_data[0] != b""

    def fresh(self, *, idle_s: float, age_s: float) -> bool:
        """Report whether the connection seems open, and was neither idle nor in use for too long."""
        now = asyncio.get_running_loop().time()
        if now > self.used_at + idle_s or now > self.opened_at + age_s:
            return False
        return self._wire.open and not self._transport.is_closing()

    def close(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            data = await self._wire.read()
            self._left_bytes -= len(data)
            if self._left_bytes < 0:
                raise AnswerTooLargeError(f"an answer of more than {_ANSWER_BYTES // 1024} KiB")
            self._http.receive_data(data)
