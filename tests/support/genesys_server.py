"""Small scripted servers that play Genesys: REST over `http.server`, events over `websockets`' threaded server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as UpgradeRequest
from websockets.http11 import Response
from websockets.sync.server import ServerConnection, serve
from websockets.utils import accept_key

DEADLINE_S = 15.0

TOKEN = "token"
LOAD = "load"
CREATE = "create"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; a body that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


DROP = "drop"  # read the request, then close the connection without an answer
HANG = "hang"  # read the request, then say nothing until the server ends


@dataclass(frozen=True)
class Request:
    """A request as it arrived; `path` is as sent, with its query, nothing decoded."""

    route: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class RestServer:
    """Token, load check and create on a port of its own; each answers its script first, then as if all were well."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.delay_s = 0.0  # before every answer
        self._scripts: dict[str, deque[Answer | str]] = defaultdict(deque)
        self._released = threading.Event()
        self._tokens = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._handle(self)

            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def script(self, route: str, *answers: Answer | str) -> None:
        self._scripts[route].extend(answers)

    def count(self, route: str) -> int:
        return sum(request.route == route for request in self.requests)

    def last(self, route: str) -> Request:
        return [request for request in self.requests if request.route == route][-1]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = handler.path
        route = TOKEN if path.endswith("/oauth/token") else CREATE if handler.command == "POST" else LOAD
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self.requests.append(Request(route, handler.command, path, headers, body))
            answer = self._scripts[route].popleft() if self._scripts[route] else self._usual(route, body)
        time.sleep(self.delay_s)
        if answer == HANG:
            self._released.wait(DEADLINE_S)
        if isinstance(answer, str):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _usual(self, route: str, body: bytes) -> Answer:
        if route == TOKEN:
            self._tokens += 1
            return Answer(
                body={"access_token": f"secret-token-{self._tokens}", "token_type": "bearer", "expires_in": 86400}
            )
        if route == LOAD:
            return Answer(body={"entities": []})
        return Answer(201, {"id": f"interceptor-{self.count(CREATE)}", **json.loads(body)})


Session = Callable[[ServerConnection], None]


class EventsServer:
    """An event WebSocket; each upgrade takes the next item of the script: a session, or a refusal.

    A session runs once the subscription has been received; after it the connection is closed with 1000 unless the
    session closed it. When the script is used up, connections stay open until the client closes them.
    """

    def __init__(self, *script: Session | Answer) -> None:
        self.upgrades: list[tuple[float, Mapping[str, str]]] = []
        self.subscriptions: list[str | bytes] = []
        self.closed: list[tuple[int | None, str | None]] = []
        self._script = deque(script)
        self._sessions: dict[Any, Session] = {}
        self._changed = threading.Condition()
        self._server = serve(self._handle, "127.0.0.1", 0, process_request=self._upgrade, compression=None)
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/api/v2/events/conversations/voice"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()

    def wait_for(self, true: Callable[[EventsServer], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: true(self), DEADLINE_S), "the server did not see it in time"

    def _upgrade(self, connection: ServerConnection, request: UpgradeRequest) -> Response | None:
        with self._changed:
            self.upgrades.append(
                (time.monotonic(), {name.lower(): value for name, value in request.headers.raw_items()})
            )
            item = self._script.popleft() if self._script else stay_open
            self._changed.notify_all()
        if not isinstance(item, Answer):
            self._sessions[connection.id] = item
            return None
        response = connection.respond(item.status, "")
        for name, value in item.headers.items():
            response.headers[name] = value
        return response

    def _handle(self, connection: ServerConnection) -> None:
        try:
            subscription = connection.recv(DEADLINE_S)
            with self._changed:
                self.subscriptions.append(subscription)
                self._changed.notify_all()
            self._sessions[connection.id](connection)
            connection.close()
        except ConnectionClosed:
            pass
        with self._changed:
            self.closed.append((connection.close_code, connection.close_reason))
            self._changed.notify_all()


def stay_open(connection: ServerConnection) -> None:
    """A session that says nothing and ends when the client closes."""
    for _ in connection:
        pass


class DeafServer:
    """Accepts upgrades, then neither reads nor writes: a peer that died without a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in [self._listener, *self._open]:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            headers = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:] if ": " in line)
            accept = accept_key(headers["Sec-WebSocket-Key"])
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
            )
