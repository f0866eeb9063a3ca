"""The EventBridge feed over HTTP: an EventBridge API destination posts Genesys' events here.

Delivery guarantee: exactly once into the journal. A request is answered with 200 only when the journal has its events
on the disk; EventBridge sends any other event again. An event that the journal holds already is acknowledged and not
recorded again, also after a crash: the ids are read from the journal. The last 200,000 ids are remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

from connectors.errors import UsageError
from connectors.genesys.feeds.base import (
    MAX_MESSAGE_BYTES,
    FeedBase,
    FeedLimits,
    OnEvent,
    OnState,
    WatchRules,
    ignore_event,
)
from connectors.genesys.feeds.eventbridge.http import Answer, Head, HttpLimits, HttpServer
from connectors.genesys.feeds.eventbridge.recorder import DiskBarrier, event_recorder
from connectors.genesys.feeds.listener import FrugalLoop, Listener, allow_connections, listen
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger

__all__ = ["LISTEN_KEY", "MAX_CONNECTIONS", "EventBridgeFeed"]

LISTEN_KEY: Final = "[[feed]] listen"
MAX_CONNECTIONS: Final = 128


class EventBridgeFeed(FeedBase):
    """Take events by POST at `path` of `listen` (host, port).

    `keys` are the accepted values of the header `header`; without any, every request is accepted. `known` are the ids
    of the events in the journal, and `recorded` the last of these events, oldest first. Without `tls` the connections
    are plain, as behind a proxy that ends TLS. An address that is taken ends the feed.
    """

    def __init__(
        self,
        *,
        name: str,
        listen: tuple[str, int],
        path: str,
        header: str,
        keys: Sequence[str],
        recorder: Recorder,
        limits: FeedLimits,
        known: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        keep_raw: bool = False,
        names: Names = Names(),  # noqa: B008 - without state
        recorded: Iterable[bytes] = (),
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        http: HttpLimits = HttpLimits(MAX_MESSAGE_BYTES),  # noqa: B008 - frozen
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        super().__init__(name, recorder, on_state, new_loop=FrugalLoop)
        self._listen = listen
        self._path = path
        self._header = header.lower()
        self._keys = [_digest(key) for key in keys]
        self._events = event_recorder(
            name,
            recorder,
            limits,
            rules=rules,
            known=known,
            keep_raw=keep_raw,
            on_event=on_event,
            names=names,
            recorded=recorded,
        )
        self._barrier = DiskBarrier(recorder.sync)
        self._server = HttpServer(refuse=self._refuse, answer=self._take, failed=self._fail, limits=http, tls=tls)
        self._max_connections = max_connections
        self._woken = asyncio.Event()
        self._broken: Exception | None = None
        self._listener: Listener | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return where the feed listens; once it has started, with the port that it got."""
        return self._listen

    @property
    def duplicates(self) -> int:
        """Return the number of events that were received again."""
        return self._events.duplicates

    def figures(self) -> Mapping[str, float]:
        """Return the events that were received again."""
        return {"duplicates": self.duplicates}

    def start(self) -> None:
        """Listen, and start the thread; a feed starts once."""
        try:
            bound = listen(*self._listen, key=LISTEN_KEY)
        except UsageError as error:
            self._thread.failure = error
            return
        self._listener = listening = Listener(bound, allow_connections(self._max_connections))
        self._listen = listening.getsockname()[:2]
        self._thread.start()

    def _run(self, runner: asyncio.Runner) -> None:
        runner.run(self._serve())

    async def _serve(self) -> None:
        if self._thread.stopping.is_set():
            self._woken.set()
        assert self._listener is not None
        await self._server.start(self._listener)
        following = asyncio.create_task(self._follow_names())
        try:
            host, port = self.address
            self._change("up", f"listening on {host}:{port}{self._path}")
            await self._woken.wait()
        finally:
            following.cancel()
            await self._server.stop()
        if self._broken is not None:
            raise self._broken
        self._recorder.flush()
        self._change("down", self._thread.reason)

    async def _follow_names(self) -> None:
        try:
            await self._events.follow_names()
        except Exception as error:
            self._fail(error)

    def _refuse(self, head: Head) -> Answer | None:
        """Refuse a request by its head; the key is compared in constant time."""
        if self._keys and not self._is_known(head.headers.get(self._header, "")):
            return Answer(HTTPStatus.UNAUTHORIZED, "unauthorized")
        if head.path != self._path:
            return Answer(HTTPStatus.NOT_FOUND, "there is nothing here")
        if head.method != "POST":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "events are sent by POST")
        kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which no page of another site can make a browser send here
            return Answer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json")
        return None

    def _is_known(self, key: str) -> bool:
        given = _digest(key)
        return sum(hmac.compare_digest(given, known) for known in self._keys) > 0  # all of them are compared

    async def _take(self, body: bytes) -> Answer:
        """Record the events of a request, and acknowledge them once they are on the disk."""
        taken = self._events.take(body)
        await self._barrier.passed()
        if self._thread.stopping.is_set():  # and the journal may have been closed before this was recorded
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
        if taken.invalid:
            get_logger(__name__).warning("event_refused", feed=self._name, reason=taken.invalid[0])
        if taken.invalid and not taken.recorded + taken.known:
            return Answer(HTTPStatus.BAD_REQUEST, taken.invalid[0])
        return Answer(HTTPStatus.OK, f"recorded {taken.recorded}, known {taken.known}, invalid {len(taken.invalid)}")

    def _interrupt(self) -> None:
        self._woken.set()

    def _fail(self, error: Exception) -> None:
        # Not raised into asyncio, which would log and forget it.
        if self._broken is None:
            self._broken = error
            self._woken.set()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
