"""Whether a run is alive and ready, and the HTTP server that says so, with the reasons, and serves the metrics."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from connectors.callbacks.outbox import outbox_state
from connectors.errors import UsageError
from connectors.journal.progress import SourceProgress
from connectors.runtime.logs import get_logger
from flows.monitoring.metrics import CONTENT_TYPE

__all__ = ["Health", "HealthServer", "Limits", "Verdict", "answers_of"]

DEADLINE_S: Final = 5.0
KEPT_S: Final = 1.0
MAX_REQUESTS: Final = 16
ACCEPT_PAUSE_S: Final = 0.1

_Route = Callable[[], tuple[int, str, bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run is no longer well: seconds without a poll of the source, callbacks that wait, free bytes."""

    stalled_s: float
    outbox_pending: int
    disk_free_bytes: int


class Verdict(NamedTuple):
    """The answer of a check, and what each part of it found; the parts that are not `ok` are the reasons."""

    ok: bool
    parts: dict[str, dict[str, Any]]

    def body(self) -> bytes:
        """The JSON that is answered."""
        reasons = [part["reason"] for part in self.parts.values() if not part["ok"]]
        return orjson.dumps({"ok": self.ok, "reasons": reasons, "checks": self.parts}) + b"\n"


class Health:
    """Judges a run by its source, feeds, outbox and disk; every method may be called from any thread.

    A process of a cluster that is not to hold the source (`has_source` false) is judged by its disk alone.
    """

    def __init__(
        self,
        limits: Limits,
        progress: SourceProgress,
        *,
        directory: Path,
        outbox: Path,
        has_source: bool,
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._progress = progress
        self._directory = directory
        self._outbox = outbox
        self._has_source = has_source
        self._now = now
        self._feeds: dict[str, bool] = {}

    def feed_changed(self, feed: str, state: str) -> None:
        """A feed is `up` or `down` now."""
        self._feeds = {**self._feeds, feed: state == "up"}

    def live(self) -> Verdict:
        """Whether the dataflow goes round: its source was polled lately, or is still to be built."""
        return _verdict({"source": self._source()} if self._has_source else {})

    def ready(self) -> Verdict:
        """Whether it does its job: it hears Genesys or works off what it heard, delivers, and has room to write."""
        parts = {"disk": self._disk()}
        if self._has_source:
            started = self._progress.began.is_set()
            parts["source"] = self._source() if started else _part("the source is not built yet", waiting=True)
            parts |= {"feed": self._feed(), "outbox": self._callbacks()}
        return _verdict(parts)

    def _source(self) -> dict[str, Any]:
        idle_s = self._progress.idle_s
        if idle_s is None:
            return _part(None, polled_s_ago=None)
        slow = idle_s > self._limits.stalled_s
        reason = f"the source was not polled for {idle_s:.0f} s; {self._limits.stalled_s:g} s are allowed"
        return _part(reason if slow else None, polled_s_ago=round(idle_s, 3))

    def _feed(self) -> dict[str, Any]:
        feeds = self._feeds
        down = sorted(name for name, up in feeds.items() if not up)
        try:
            lag = self._progress.lag()
        except OSError as error:
            return _part(f"the journal cannot be looked at: {error}", down=down)
        facts = {"up": sorted(feeds.keys() - set(down)), "down": down, "lag_bytes": lag.bytes}
        if facts["up"] or not lag.is_none:
            return _part(None, **facts)
        return _part("no feed is connected, and the journal is read to its end", **facts)

    def _callbacks(self) -> dict[str, Any]:
        limit = self._limits.outbox_pending
        try:
            state = outbox_state(self._outbox, self._now())
        except sqlite3.Error as error:
            return _part(f"the outbox cannot be read: {error}")
        reason = f"{state.pending} callbacks wait in the outbox; {limit} are allowed"
        return _part(reason if state.pending > limit else None, pending=state.pending, age_s=round(state.age_s, 3))

    def _disk(self) -> dict[str, Any]:
        floor = self._limits.disk_free_bytes
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            return _part(f"the state directory cannot be looked at: {error}")
        reason = f"{free // 2**20} MiB are free; {floor // 2**20} MiB must be"
        return _part(reason if free < floor else None, free_bytes=free)


def _part(reason: str | None, **facts: Any) -> dict[str, Any]:
    return {"ok": reason is None, "reason": reason, **facts}


def _verdict(parts: dict[str, dict[str, Any]]) -> Verdict:
    return Verdict(all(part["ok"] for part in parts.values()), parts)


class HealthServer:
    """Serves /metrics, /livez and /readyz on one address, over plain HTTP and without authentication.

    Clients are untrusted: at most 16 requests are served at once, a further one ends the oldest, and a request that
    takes longer than `deadline_s` is ended. /metrics and /readyz, which look at the disk, are answered from a cache
    for a second.

    The constructor binds the address. Raises UsageError if the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], bytes],
        health: Health,
        *,
        deadline_s: float = DEADLINE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._server = _Server((host, port), answers_of(metrics, health, monotonic=monotonic), deadline_s)
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"metrics.listen: {host}:{port} cannot be listened on ({error}); choose another address or port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="voicewatch-health", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering, and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def answers_of(
    metrics: Callable[[], bytes], health: Health, *, monotonic: Callable[[], float] = time.monotonic
) -> dict[str, _Route]:
    """Return what /metrics, /livez and /readyz answer: status, type and body."""
    return {
        "/metrics": _Kept(lambda: (HTTPStatus.OK, CONTENT_TYPE, metrics()), monotonic),
        "/livez": lambda: _answer(health.live()),
        "/readyz": _Kept(lambda: _answer(health.ready()), monotonic),
    }


def _answer(verdict: Verdict) -> tuple[int, str, bytes]:
    return HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", verdict.body()


class _Kept:
    """Caches a response for one second; concurrent requests wait for the same computation."""

    def __init__(self, make: _Route, monotonic: Callable[[], float]) -> None:
        self._make = make
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[int, str, bytes]] | None = None

    def __call__(self) -> tuple[int, str, bytes]:
        with self._lock:
            if self._kept is None or self._monotonic() - self._kept[0] >= KEPT_S:
                answer = self._make()
                self._kept = self._monotonic(), answer
            return self._kept[1]


class _Server(ThreadingHTTPServer):
    """A thread for each of a few requests; the thread that accepts them also ends those that take too long."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], routes: dict[str, _Route], deadline_s: float) -> None:
        self.routes = routes
        self.deadline_s = deadline_s
        self._open_lock = threading.Lock()
        self._due: dict[socket.socket, float] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; without descriptors for it a pause, as it stays the next one."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread; if there are enough, end the oldest one."""
        with self._open_lock:
            if len(self._due) >= MAX_REQUESTS:
                # The oldest is a slow client; refusing the newest would let slow clients starve a health check.
                self._end(min(self._due, key=self._due.__getitem__))
            self._due[request] = time.monotonic() + self.deadline_s
        super().process_request(request, client_address)

    def _end(self, request: socket.socket) -> None:
        del self._due[request]
        with suppress(OSError):  # the peer was faster
            request.shutdown(socket.SHUT_RDWR)  # its thread wakes up, and closes it

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; from here on its descriptor may be another one's."""
        with self._open_lock:
            self._due.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close overdue connections; called between two connections, and several times a second."""
        now = time.monotonic()
        with self._open_lock:
            for request in [request for request, due in self._due.items() if due <= now]:
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log the failure of one request at level DEBUG: a client that closes the connection is not an error."""
        get_logger(__name__).debug("health_request_failed", error=repr(sys.exc_info()[1]))


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        route = self.server.routes.get(urlsplit(self.path).path)
        if route is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics, /livez and /readyz\n")
            return
        try:
            answer = route()
        except Exception as error:
            get_logger(__name__).exception("health_check_broke", path=self.path)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"{type(error).__name__}\n".encode())
            return
        self._send(*answer)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """Nothing that tells an attacker which Python this is."""
        return "voicewatch"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing: a line for each scrape is noise."""
