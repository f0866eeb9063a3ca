"""Receive callbacks locally: an HTTP server that records every request, for the demo and the tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self

from standardwebhooks import Webhook, WebhookVerificationError

__all__ = ["CallbackReceiver", "Received", "Response"]

_MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """Hold a request, and the `status` it was answered with (0 if it was not answered).

    `verified` says whether the signature was right; None without secrets. `at` is in epoch seconds; `peer` is the
    client's port.
    """

    path: str
    id: str
    headers: dict[str, str]
    body: bytes
    verified: bool | None
    status: int
    at: float
    peer: int


class Response(NamedTuple):
    """Hold an answer: its `status` (0 for none), and the function that writes it."""

    status: int
    send: Callable[[BaseHTTPRequestHandler], None]


class CallbackReceiver:
    """Listen on `host` and record every POST; a context manager.

    With `secrets` (`whsec_…`) it checks signatures and answers 401 to a request that none of them has signed. All
    other requests are answered by `respond`, which takes the path and may block, and with 200 without it.
    """

    def __init__(
        self,
        port: int = 0,
        secrets: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        respond: Callable[[str], Response] | None = None,
        on_received: Callable[[Received], None] | None = None,
    ) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]
        self._respond = respond
        self._on_received = on_received
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self.closing = threading.Event()
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Return the address that the receiver listens on, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def received(self) -> list[Received]:
        """Return all requests so far, in the order of the answers."""
        with self._changed:
            return list(self._received)

    def wait_for(self, n: int, deadline_s: float) -> list[Received]:
        """Wait until `n` requests have been answered with 2xx and return those. Raises TimeoutError."""
        return self.wait_until(lambda got: sum(1 for r in got if _accepted(r)) >= n, deadline_s, only=_accepted)

    def wait_until(
        self,
        done: Callable[[list[Received]], bool],
        deadline_s: float,
        *,
        only: Callable[[Received], bool] = lambda _: True,
    ) -> list[Received]:
        """Wait until `done` is true of all requests; return those that `only` selects. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: done(self._received), deadline_s):
                raise TimeoutError(f"{len(self._received)} requests received within {deadline_s:g} s")
            return [r for r in self._received if only(r)]

    def close(self) -> None:
        """Stop listening and close all connections."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _response(self, path: str, *, verified: bool | None) -> Response:
        if verified is False:
            return Response(401, lambda handler: _send(handler, 401))
        return Response(200, lambda handler: _send(handler, 200)) if self._respond is None else self._respond(path)

    def _verified(self, headers: dict[str, str], body: bytes) -> bool | None:
        if not self._webhooks:
            return None
        for webhook in self._webhooks:
            with contextlib.suppress(WebhookVerificationError, ValueError):
                webhook.verify(body, headers, json_parse=False)
                return True
        return False

    def _record(self, received: Received) -> None:
        with self._changed:
            self._received.append(received)
            self._changed.notify_all()
        if self._on_received is not None:
            self._on_received(received)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], receiver: CallbackReceiver) -> None:
        self.receiver = receiver
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:  # type: ignore[override]
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):  # wakes the threads that wait for the next request
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients may close connections at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), _MAX_BODY_BYTES))
        headers = {name.lower(): value for name, value in self.headers.items()}
        verified = receiver._verified(headers, body)
        response = receiver._response(self.path, verified=verified)
        # Recorded before it is answered, so that a client that has the answer can rely on the record.
        id_ = headers.get("webhook-id", "")
        peer = self.client_address[1]
        receiver._record(Received(self.path, id_, headers, body, verified, response.status, time.time(), peer))
        response.send(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log; the records are the log."""


def _send(handler: BaseHTTPRequestHandler, status: int) -> None:
    handler.send_response(status)
    handler.send_header("content-length", "0")
    handler.end_headers()


def _accepted(received: Received) -> bool:
    return 200 <= received.status < 300
