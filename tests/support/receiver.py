"""A receiver of callbacks that answers as a test says."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from connectors.callbacks.receiver import CallbackReceiver, Response


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer one request: after `delay_s`, with `status`, headers and a body.

    `drop` closes the connection without an answer; `endless` sends the headers, and then a byte now and then until the
    receiver closes.
    """

    status: int = 200
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False
    endless: bool = False


class ScriptedReceiver(CallbackReceiver):
    """Answers with 200 unless `script` says otherwise."""

    def __init__(self, port: int = 0, secrets: Sequence[str] = ()) -> None:
        super().__init__(port, secrets, respond=self._next)
        self._lock = threading.Lock()
        self._scripts: dict[str, Iterator[Reply]] = {}

    def script(self, path: str, replies: Iterable[Reply]) -> None:
        """Answer the next requests to `path` with `replies`, one after the other, and then with 200 again."""
        with self._lock:
            self._scripts[path] = iter(replies)

    def _next(self, path: str) -> Response:
        with self._lock:
            reply = next(self._scripts.get(path, itertools.repeat(Reply())), Reply())
        if reply.delay_s and self.closing.wait(reply.delay_s):
            reply = Reply(drop=True)
        return Response(0 if reply.drop else reply.status, lambda handler: self._send(handler, reply))

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        if reply.drop:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if not reply.endless:
            handler.send_header("content-length", str(len(reply.body)))
            handler.end_headers()
            handler.wfile.write(reply.body)
            return
        handler.close_connection = True
        handler.end_headers()
        while not self.closing.wait(0.05):
            handler.wfile.write(b".")
