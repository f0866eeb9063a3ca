"""The AudioHook feed: Genesys connects and streams a conversation's audio, which is measured and dropped at once.

Delivery guarantee: best effort. Audio that Genesys sends while the feed is down is lost. Received audio is measured,
and the measurements reach the recorder in order, once.

The protocol is in `session`, the authentication in `signature`, the measurements are in `metrics` and `monitor`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from connectors.errors import StateError, UsageError
from connectors.genesys.client import Clock
from connectors.genesys.feeds.audiohook.connection import Connection
from connectors.genesys.feeds.audiohook.levels import Silence
from connectors.genesys.feeds.audiohook.monitor import CallMonitor, MonitorCounts
from connectors.genesys.feeds.audiohook.refusals import Refusals
from connectors.genesys.feeds.audiohook.session import Session, SessionTiming
from connectors.genesys.feeds.audiohook.signature import Authenticator, AuthFailure, UpgradeRequest
from connectors.genesys.feeds.base import (
    MAX_MESSAGE_BYTES,
    SILENT,
    DelayedFlush,
    FeedBase,
    FeedLimits,
    OnEvent,
    OnState,
    Selection,
    WatchRules,
    ignore_event,
)
from connectors.genesys.feeds.listener import (
    BACKLOG,
    MAX_UNAUTHENTICATED,
    FrugalLoop,
    Listener,
    allow_connections,
    listen,
)
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger

__all__ = ["AudioHookFeed", "AudioHookTiming"]


MAX_SESSIONS: Final = 4000
_ID: Final = re.compile(r"[!-~]{1,64}")


@dataclass(frozen=True, slots=True)
class AudioHookTiming:
    """The feed's intervals and waits, all in seconds.

    Each session is measured every `sample_s`, checked every `pulse_s`. A record stays in the recorder's buffer for
    `flush_s` at most. When the feed stops, clients have `stop_s` to close their sessions.
    """

    session: SessionTiming = field(default_factory=SessionTiming)
    sample_s: float = 1.0
    pulse_s: float = 0.05
    flush_s: float = 0.004
    handshake_s: float = 5.0
    hang_up_s: float = 2.0
    stop_s: float = 5.0


class AudioHookFeed(FeedBase):
    """Serve AudioHook at `path` of `listen` (host, port), and record the measurements of the calls.

    `keys` are the accepted API keys, each with its client secret, or None if its requests need no signature. Without
    `tls` the connections are plain, as behind a proxy that ends TLS. A conversation that is not watched when its first
    session opens is watched, with `limits`. An address that is taken ends the feed, too. Clients are asked to close
    their sessions before it ends.
    """

    def __init__(
        self,
        *,
        name: str,
        listen: tuple[str, int],
        path: str,
        keys: Mapping[str, bytes | None],
        recorder: Recorder,
        limits: FeedLimits,
        tls: ssl.SSLContext | None = None,
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        labels_from: Mapping[str, str] = MappingProxyType({}),
        silence: Silence | None = None,
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        max_sessions: int = MAX_SESSIONS,
        max_unauthenticated: int = MAX_UNAUTHENTICATED,
        timing: AudioHookTiming = AudioHookTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state, new_loop=FrugalLoop)
        self._listen = listen
        self._path = path
        self._authenticator = Authenticator(keys, since=clock.monotonic())
        self._flush = DelayedFlush(recorder, timing.flush_s, self._fail)
        self._monitor = CallMonitor(
            recorder,
            limits,
            selection=Selection.of_feed(name, recorder, rules, on_event),
            labels_from=labels_from,
            silence=silence,
            wall=clock.now,
            recorded=self._flush.soon,
        )
        self._tls = tls
        self._max_sessions = max_sessions
        self._max_unauthenticated = max_unauthenticated
        self._timing = timing
        self._clock = clock
        self._woken = asyncio.Event()
        self._broken: Exception | None = None
        self._listener: Listener | None = None
        self._admitted: set[Connection] = set()
        self._rounds: deque[tuple[float, Connection]] = deque()
        self._refusals = Refusals(name)
        self._pulsing: asyncio.TimerHandle | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return where the feed listens; after its start, with the port that it got."""
        return self._listen

    @property
    def counts(self) -> MonitorCounts:
        """Return the counts of the sessions."""
        return self._monitor.counts

    @property
    def refused(self) -> dict[str, int]:
        """Return the number of upgrades and connections refused, by reason."""
        return self._refusals.by_reason

    @property
    def unauthenticated(self) -> int:
        """Return the number of open connections without an accepted upgrade."""
        return 0 if self._listener is None else self._listener.unauthenticated

    def start(self) -> None:
        """Listen, and start the thread; a feed starts once."""
        try:
            bound = listen(*self._listen)
        except UsageError as error:
            self._thread.failure = error
            return
        most = allow_connections(2 * self._max_sessions)
        self._listener = self._refusals.listener = listening = Listener(bound, most, self._max_unauthenticated)
        self._listen = listening.getsockname()[:2]
        self._thread.start()

    def stop(self, reason: str = "stopped", *, timeout_s: float = 10.0) -> None:
        """Ask the clients to close, wait until they have, record the feed as down with `reason`, and stop listening.

        Returns after `timeout_s` in any case; calling it again, or before `start`, does no harm.
        """
        super().stop(reason, timeout_s=timeout_s)

    def _run(self, runner: asyncio.Runner) -> None:
        assert self._listener is not None
        runner.run(self._serve(self._listener))

    async def _serve(self, listening: socket.socket) -> None:
        if self._thread.stopping.is_set():
            self._woken.set()
        server = await self._server(listening)
        host, port = self.address
        try:
            self._monitor.end_interrupted()
            self._change("up", f"listening on {host}:{port}{self._path}")
            self._pulse()
            await self._woken.wait()
            server.close(close_connections=False)
            await self._say_goodbye()
        finally:
            if self._pulsing is not None:
                self._pulsing.cancel()
            server.close()
            await server.wait_closed()
        self.guard(self._monitor.expire)
        self.guard(self._flush.now)
        if self._broken is not None:
            raise self._broken
        self._change("down", self._thread.reason)

    async def _server(self, listening: socket.socket) -> Server:
        def connection(*args: Any, **kwargs: Any) -> Connection:
            return Connection(self, *args, **kwargs)

        # A connection holds a file in the handshake and in the farewell of TLS, too.
        tls: dict[str, Any] = {"ssl": self._tls}
        if self._tls is not None:
            tls["ssl_handshake_timeout"] = self._timing.handshake_s
            tls["ssl_shutdown_timeout"] = self._timing.hang_up_s
        # Off: compression (audio does not shrink, inflating costs), and websockets' keepalive (Genesys pings).
        return await serve(
            self._until_closed,
            sock=listening,
            backlog=BACKLOG,
            compression=None,
            process_request=cast("Callable[[ServerConnection, Request], Response | None]", self._admit),
            server_header=None,
            open_timeout=self._timing.handshake_s,
            close_timeout=self._timing.hang_up_s,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            logger=SILENT,
            create_connection=cast("type[ServerConnection]", connection),
            **tls,
        )

    def _admit(self, connection: Connection, request: Request) -> Response | None:
        """Accept or reject an upgrade; the reason is counted and logged, never sent."""
        headers = {name.lower(): ", ".join(request.headers.get_all(name)) for name in request.headers}
        session_id = headers.get("audiohook-session-id", "")
        organization_id = headers.get("audiohook-organization-id", "")
        refusal = None
        if request.path.partition("?")[0] != self._path:
            refusal = AuthFailure("other path")
        elif not _ID.fullmatch(session_id) or not _ID.fullmatch(organization_id):
            refusal = AuthFailure("no session or organization")
        refusal = refusal or self._authenticator.check(
            UpgradeRequest(request.path, headers), self._clock.now(), self._clock.monotonic()
        )
        if refusal is not None:
            self._refusals.add(refusal.reason)
            return connection.respond(HTTPStatus.UNAUTHORIZED, "unauthorized\n")
        if len(self._admitted) >= self._max_sessions or self._woken.is_set():
            self._refusals.add("too many sessions")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy\n")
        now = connection.loop.time()
        session = Session(session_id, organization_id, now, timing=self._timing.session, wants=self._monitor.wants)
        connection.monitored = self._monitor.session(session)
        if self._listener is not None:
            self._listener.admit(connection.transport.get_extra_info("socket").fileno())
        self._admitted.add(connection)
        self._rounds.append((now + self._timing.sample_s, connection))
        return None

    async def _until_closed(self, connection: ServerConnection) -> None:
        await connection.wait_closed()

    def forget(self, connection: Connection) -> None:
        """Forget a closed TCP connection; for the connections."""
        self._admitted.discard(connection)

    def guard(self, work: Callable[..., None], *arguments: Any) -> bool:
        """Do work that writes to the recorder, whose exceptions end the feed; for the connections.

        Returns False after any other exception: a fault of ours that one client causes costs that client only.
        """
        try:
            work(*arguments)
        except (StateError, OSError) as error:
            self._fail(error)
        except Exception:
            get_logger(__name__).exception("audiohook_connection_failed", feed=self._name)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        # Not raised into asyncio, which would log and forget it.
        if self._broken is None:
            self._broken = error
            self._woken.set()

    def _interrupt(self) -> None:
        self._woken.set()

    def _pulse(self) -> None:
        """Measure the sessions that are due, and check deadlines."""
        loop = asyncio.get_running_loop()
        self._pulsing = loop.call_later(self._timing.pulse_s, self._pulse)
        now = loop.time()
        while self._rounds and self._rounds[0][0] <= now:
            due, connection = self._rounds.popleft()
            if connection in self._admitted:
                self._rounds.append((max(due, now - self._timing.sample_s) + self._timing.sample_s, connection))
                connection.tend(now)
        self.guard(self._monitor.expire, now)
        self._refusals.tend(now)

    async def _say_goodbye(self) -> None:
        """Ask every client to close, wait for it, and close the connections of those that do not."""
        loop = asyncio.get_running_loop()
        reason: Literal["completed", "error"] = "completed" if self._broken is None else "error"
        for connection in list(self._admitted):
            connection.disconnect(reason, loop.time())
        waiting = [asyncio.ensure_future(connection.wait_closed()) for connection in self._admitted]
        if waiting:
            await asyncio.wait(waiting, timeout=self._timing.stop_s)
        if self._admitted:
            get_logger(__name__).warning("audiohook_clients_not_closed", feed=self._name, sessions=len(self._admitted))
            await asyncio.gather(*(connection.close(CloseCode.GOING_AWAY) for connection in list(self._admitted)))
