"""One TCP connection of a simulator: HTTP/1.1, and WebSocket after an upgrade.

The `websockets` server answers only requests without a body, and the token and the interceptor are POSTs. So h11
speaks HTTP here, and a connection that asks for an upgrade is passed to websockets' sans-I/O `ServerProtocol`.

A `Handler` decides, synchronously, what to answer. Nothing in this module knows Genesys.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast

import h11
import orjson
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request as UpgradeRequest
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

__all__ = ["Answer", "Connection", "Handler", "HttpRequest", "Silence", "encode_message"]

_MAX_BODY_BYTES = 512_000
"""Genesys' own limit, `request.bytes.max`."""
_MAX_MESSAGE_BYTES = 64 * 1024
_BUFFER_BYTES = 1 << 20
_CLOSING_S = 2.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as received; header names are in lower case, `target` is the path with its query."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON answer."""

    status: int
    body: object
    headers: Mapping[str, str] = field(default_factory=dict)


class Silence(Enum):
    """What a simulator can do with a request instead of answering it."""

    HANG = "hang"
    RESET = "reset"


class Handler(Protocol):
    """Decides for connections; called in the event loop, and must not block."""

    def request(self, request: HttpRequest) -> Answer | Silence:
        """Answer a request."""

    def upgrade(self, request: HttpRequest, connection: Connection) -> Answer | Silence | None:
        """Refuse a WebSocket upgrade with an answer, or accept it with None."""

    def opened(self, connection: Connection) -> None:
        """Take note of a new TCP connection."""

    def message(self, connection: Connection, message: str | bytes) -> None:
        """Take a WebSocket message."""

    def closed(self, connection: Connection) -> None:
        """Take note that a TCP connection has ended."""


def encode_message(message: str | bytes) -> bytes:
    """Encode a text or binary message as a server sends it (RFC 6455, unmasked, uncompressed)."""
    if isinstance(message, str):
        return Frame(Opcode.TEXT, message.encode()).serialize(mask=False)
    return Frame(Opcode.BINARY, message).serialize(mask=False)


class Connection(asyncio.Protocol):
    """One TCP connection: HTTP requests with keep-alive, until an upgrade makes it a WebSocket."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._websocket: ServerProtocol | None = None
        self._message = bytearray()
        self._is_text = True
        self._silent = False
        self._held: list[bytes] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    @property
    def is_websocket(self) -> bool:
        """Return whether the connection has been upgraded."""
        return self._websocket is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with HTTP."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handler.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell the handler."""
        self.writable.set()
        self._handler.closed(self)

    def pause_writing(self) -> None:
        """Note that more than the buffer is unsent."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """Read HTTP or WebSocket."""
        if self._silent:
            return
        if self._websocket is None:
            self._receive_http(data)
        else:
            self._receive_websocket(data)

    def eof_received(self) -> None:
        """Let the transport close."""
        if self._websocket is not None:
            self._websocket.receive_eof()
            self._flush_websocket()

    # HTTP

    def _receive_http(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while not self._silent and (event := self._next_event()) is not None:
                if isinstance(event, h11.Request):
                    self._request = event
                    self._body.clear()
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    if len(self._body) > _MAX_BODY_BYTES:
                        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                elif isinstance(event, h11.EndOfMessage):
                    self._answer()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def _next_event(self) -> h11.Event | None:
        event = self._http.next_event()
        return event if isinstance(event, h11.Request | h11.Data | h11.EndOfMessage) else None

    def _answer(self) -> None:
        assert self._request is not None
        headers = {name.decode(): value.decode("latin-1") for name, value in self._request.headers}
        target = self._request.target.decode("latin-1")
        request = HttpRequest(self._request.method.decode(), target, headers, bytes(self._body))
        if headers.get("upgrade", "").lower() == "websocket":
            answer = self._handler.upgrade(request, self)
            if answer is None:
                self._switch(request)
                return
        else:
            answer = self._handler.request(request)
        if isinstance(answer, Silence):
            self._silent = True
            if answer is Silence.RESET:
                self._reset()
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = b"" if answer.status == HTTPStatus.NO_CONTENT else orjson.dumps(answer.body)
        is_head = self._request is not None and self._request.method == b"HEAD"
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **answer.headers,
        }
        reason = HTTPStatus(answer.status).phrase.encode()
        events = (
            h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason),
            h11.Data(data=b"" if is_head else body),
            h11.EndOfMessage(),
        )
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        elif self._http.our_state is not h11.DONE:
            self._silent = True
            self._transport.close()

    def _refuse(self, status: int) -> None:
        self._silent = True
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(
                Answer(status, {"message": HTTPStatus(status).phrase, "status": status}, {"connection": "close"})
            )
        self._transport.close()

    def _reset(self) -> None:
        # Without lingering the kernel sends RST instead of FIN.
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # WebSocket

    def _switch(self, request: HttpRequest) -> None:
        after, _ = self._http.trailing_data
        self._websocket = websocket = ServerProtocol(max_size=_MAX_MESSAGE_BYTES)
        websocket.receive_data(UpgradeRequest(request.target, Headers(request.headers)).serialize())
        for event in websocket.events_received():
            if isinstance(event, UpgradeRequest):
                websocket.send_response(websocket.accept(event))
        self._flush_websocket()
        if after:
            self._receive_websocket(after)

    def _receive_websocket(self, data: bytes) -> None:
        websocket = self._websocket
        assert websocket is not None
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._receive_fragment(websocket, event)
        self._flush_websocket()

    def _receive_fragment(self, websocket: ServerProtocol, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
            self._message.clear()
        self._message += frame.data
        if not frame.fin or websocket.state is not OPEN:
            return
        try:
            message = self._message.decode() if self._is_text else bytes(self._message)
        except UnicodeDecodeError:
            websocket.fail(CloseCode.INVALID_DATA, "not UTF-8")
        else:
            self._handler.message(self, message)

    def _flush_websocket(self) -> None:
        assert self._websocket is not None
        for data in self._websocket.data_to_send():
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof() and not self._transport.is_closing():
                self._transport.write_eof()
        if self._websocket.close_expected():
            asyncio.get_running_loop().call_later(_CLOSING_S, self._transport.abort)

    def write(self, encoded: bytes) -> bool:
        """Send messages already encoded with `encode_message`, or keep them while the socket is stalled.

        Return False if the connection is closing; then nothing is sent.
        """
        if self._held is not None:
            self._held.append(encoded)
            return True
        if self._websocket is None or self._websocket.state is not OPEN or self._transport.is_closing():
            return False
        self._transport.write(encoded)
        return True

    def close(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        """Begin the closing handshake; close the TCP connection if it is not an open WebSocket."""
        if self._websocket is not None and self._websocket.state is OPEN and self._held is None:
            self._websocket.send_close(code, reason)
            self._flush_websocket()
        else:
            self._transport.close()

    def drop(self) -> None:
        """End the connection without a close frame, after what was already written."""
        self._silent = True
        self._transport.close()

    def abort(self) -> None:
        """End the connection immediately; unsent data is lost."""
        self._silent = True
        self._transport.abort()

    def stall(self, seconds: float) -> None:
        """Send and read nothing for this time, as a server that hangs does."""
        if self._held is None:
            self._held = []
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        held, self._held = self._held or [], None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self.write(b"".join(held))
