"""A local QA platform: an HTTP server that takes callbacks, for the demo and the tests."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from standardwebhooks import Webhook, WebhookVerificationError

__all__ = ["CallbackReceiver", "Received", "Reply"]

_MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer one request: after `delay_s`, with `status`, headers and a body.

    `drop` closes the connection without an answer; `endless` sends the headers and then a byte now and then, for ever.
    """

    status: int = 200
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False
    endless: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came, and the `status` it was answered with (0 if it was dropped).

    `verified` says whether the signature was right; None without secrets. `at` is in epoch seconds; `peer` is the
    port that the connection came from.
    """

    path: str
    id: str
    headers: dict[str, str]
    body: bytes
    verified: bool | None
    status: int
    at: float
    peer: int


class CallbackReceiver:
    """Listens on 127.0.0.1 and records every POST; a context manager.

    With `secrets` (`whsec_…`) it checks signatures and answers 401 to a request that none of them has signed. Requests
    are answered with 200 unless `script` says otherwise.
    """

    def __init__(self, port: int = 0, secrets: Sequence[str] = ()) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._scripts: dict[str, Iterator[Reply]] = {}
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def received(self) -> list[Received]:
        """Everything received so far, in the order of the answers."""
        with self._changed:
            return list(self._received)

    def script(self, path: str, replies: Iterable[Reply]) -> None:
        """Answer the next requests to `path` with `replies`, one after the other, and then with 200 again.

        `itertools.repeat(reply)` answers so for ever.
        """
        with self._changed:
            self._scripts[path] = iter(replies)

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
        """Wait until `done` is true of all that was received; return those that `only` admits. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: done(self._received), deadline_s):
                raise TimeoutError(f"{len(self._received)} requests received within {deadline_s:g} s")
            return [r for r in self._received if only(r)]

    def close(self) -> None:
        """Stop listening and cut all connections."""
        if not self._closing.is_set():
            self._closing.set()
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def __enter__(self) -> CallbackReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reply_to(self, path: str) -> Reply:
        with self._changed:
            return next(self._scripts.get(path, itertools.repeat(Reply())), Reply())

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
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), _MAX_BODY_BYTES))
        headers = {name.lower(): value for name, value in self.headers.items()}
        verified = receiver._verified(headers, body)
        reply = receiver._reply_to(self.path) if verified is not False else Reply(status=401)
        if reply.delay_s and receiver._closing.wait(reply.delay_s):
            reply = Reply(drop=True)
        status = 0 if reply.drop else reply.status
        # Recorded before it is answered: whoever saw the answer finds the record.
        id_ = headers.get("webhook-id", "")
        peer = self.client_address[1]
        receiver._record(Received(self.path, id_, headers, body, verified, status, time.time(), peer))
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        if reply.drop:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if not reply.endless:
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.close_connection = True
        self.end_headers()
        while not self.server.receiver._closing.wait(0.05):
            self.wfile.write(b".")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing; the records are the log."""


def _accepted(received: Received) -> bool:
    return 200 <= received.status < 300
