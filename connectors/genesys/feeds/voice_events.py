"""The voice event WebSocket: a thread that keeps it connected and hands every message to a recorder.

Delivery guarantee: best effort. The protocol cannot rewind, so what is sent while the feed is down is lost; the
recorder is told when it went down, why, and when it was back. What was received reaches the recorder in order, once.

The feed has a thread and an event loop of its own, so that nothing else in the process can starve the socket.
Between connections the thread blocks like any other: a token is fetched while no connection is open that could
suffer from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.http11 import Response
from websockets.protocol import Event

from connectors.errors import GenesysError
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import tls_context
from connectors.genesys.feeds.text_messages import TextMessages, hand_over_texts
from connectors.journal.writer import Recorder
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import FeedThread

__all__ = ["MAX_MESSAGE_BYTES", "SUBSCRIPTION", "FeedTiming", "VoiceEventsFeed"]


SUBSCRIPTION = (
    '{"eventTypes":["conversation.started","conversation.updated","conversation.ended"],'
    '"filters":{"entityTypes":["conversation"]}}'
)
MAX_MESSAGE_BYTES = 2**20
INVALID_CHARACTERS = 4096

# At level DEBUG websockets logs every header of the upgrade, the token among them. This logger is outside the
# hierarchy, so that no configuration of logging can turn it on.
_SILENT = logging.Logger("websockets-silenced", level=logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class FeedTiming:
    """The feed's patience, all in seconds.

    After `quiet_s` without a byte a ping is sent; without a byte for `pong_s` more the connection is given up.
    A connection that lasted `healthy_s` starts the backoff (from `base_s` to `cap_s`) anew.
    """

    quiet_s: float = 30.0
    pong_s: float = 10.0
    healthy_s: float = 30.0
    open_s: float = 10.0
    close_s: float = 2.0
    base_s: float = 0.5
    cap_s: float = 60.0
    retry_after_cap_s: float = 300.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a connection, or the attempt at one, ended."""

    reason: str
    cause: Exception | None = None
    lasted_s: float = 0.0


class VoiceEventsFeed:
    """Keeps the voice event WebSocket at `url` connected and records what it says.

    Every text message goes to `recorder.frames` or `recorder.frame` as bytes, a binary one to `recorder.invalid`, and
    after what one read brought the recorder is told to write. Connecting and losing the connection go to
    `recorder.feed` and then to `on_state`, once for each change, both called in the feed's thread. A connection that
    never came to be is logged and tried again, for as long as the feed runs. An exception of the recorder (a full
    disk) ends the feed: see `failure`.
    """

    def __init__(
        self,
        *,
        url: str,
        tokens: TokenProvider,
        recorder: Recorder,
        name: str = "voice-events",
        on_state: Callable[[str, str, str], None] | None = None,
        timing: FeedTiming = FeedTiming(),
        now: Callable[[], float] = time.time,
        u: Callable[[], float] = random.random,
    ) -> None:
        self._url = url
        self._tokens = tokens
        self._recorder = recorder
        self._name = name
        self._on_state = on_state
        self._timing = timing
        self._now = now
        self._u = u
        self._thread = FeedThread(name, self._stay_connected, self._interrupt)
        self._session: asyncio.Task[_Ended] | None = None

    @property
    def failure(self) -> Exception | None:
        """What ended the feed, other than `stop`; None while it is well."""
        return self._thread.failure

    def start(self) -> None:
        """Start the thread; a feed starts once."""
        self._thread.start()

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """Close the connection, record the feed as down with `reason`, and wait up to `timeout_s` for the thread.

        Returns in any case; calling it again, or before `start`, does no harm.
        """
        self._thread.interrupt(reason)
        self._thread.join(timeout_s)

    def _interrupt(self) -> None:
        if self._session is not None:
            self._session.cancel()

    def _stay_connected(self, runner: asyncio.Runner) -> None:
        failures = 0
        while not self._thread.stopping.is_set():
            ended = self._connect(runner)
            if self._thread.stopping.is_set():
                return
            failures = 1 if ended.lasted_s >= self._timing.healthy_s else failures + 1
            wait_s = self._wait_s(ended.cause, failures)
            get_logger(__name__).warning("feed_waits", feed=self._name, reason=ended.reason, wait_s=round(wait_s, 3))
            self._thread.stopping.wait(wait_s)

    def _connect(self, runner: asyncio.Runner) -> _Ended:
        try:
            token = self._tokens.token()
            ended = runner.run(self._listen(token))
            if isinstance(ended.cause, InvalidStatus) and ended.cause.response.status_code == 401:
                self._tokens.renew(token)
        except GenesysError as error:
            return _Ended(str(error), error)
        return ended

    def _wait_s(self, cause: Exception | None, failures: int) -> float:
        """How long to wait after `failures` failures in a row, the last of them because of `cause`."""
        slow_s = backoff_s(64, self._u(), cap_s=self._timing.cap_s)
        if isinstance(cause, InvalidStatus):
            status = cause.response.status_code
            if status == 401 and failures == 1:
                return 0.0  # the token is a fresh one now
            if status == 403:
                return slow_s  # until somebody gives the client a role
            asked = retry_after_s(_headers(cause.response), self._now(), cap_s=self._timing.retry_after_cap_s)
            if asked is not None:
                return asked
        if isinstance(cause, GenesysError) and cause.status is not None and cause.status < 500:
            return slow_s
        return backoff_s(failures, self._u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)

    async def _listen(self, token: str) -> _Ended:
        """Connect, subscribe, and record until the connection is over or the feed is stopped."""
        self._session = asyncio.current_task()
        connection: _Connection | None = None
        try:
            if self._thread.stopping.is_set():
                return _Ended(self._thread.reason)
            try:
                connection = await self._open(token)
                await connection.send(SUBSCRIPTION)
            except InvalidStatus as refused:
                return _Ended(_refusal(refused.response), refused)
            except (OSError, EOFError, ValueError, WebSocketException) as error:
                return _Ended(f"cannot connect: {type(error).__name__}: {error}", error)
            return await self._record(connection)
        except asyncio.CancelledError:
            if not self._thread.stopping.is_set():
                raise
            return _Ended(self._thread.reason)
        finally:
            self._session = None
            if connection is not None:
                connection.transport.abort()

    async def _open(self, token: str) -> _Connection:
        def connection(*args: Any, **kwargs: Any) -> _Connection:
            return _Connection(self._recorder, *args, **kwargs)

        # Off: compression (inflating costs half as much again as all the rest of receiving a frame, to save bytes
        # that nobody lacks), and websockets' keepalive, which pings however much arrives and takes a pong that is
        # queued behind a burst for a dead peer.
        opened = await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            open_timeout=self._timing.open_s,
            close_timeout=self._timing.close_s,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            ssl=tls_context() if self._url.startswith("wss:") else None,
            logger=_SILENT,
            create_connection=cast("type[ClientConnection]", connection),
        )
        return cast(_Connection, opened)

    async def _record(self, connection: _Connection) -> _Ended:
        """Record what the connection says until it is over."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._change("up", f"connected to {self._url}")
        closed = asyncio.create_task(connection.closed())
        try:
            reason = await self._until_over(connection, closed)
        except asyncio.CancelledError:
            reason = self._thread.reason
            # What arrives before the server's answer to the close is still recorded.
            await connection.close()
        connection.transport.abort()
        self._session = None  # from here on a stop has nothing to interrupt: the rest is quick and must be whole
        await asyncio.wait({closed})
        if connection.failure is not None:
            raise connection.failure
        self._change("down", reason)
        return _Ended(reason, lasted_s=loop.time() - since)

    async def _until_over(self, connection: _Connection, closed: asyncio.Task[str]) -> str:
        """Wait until the connection closes or its peer is dead; returns the reason."""
        loop = asyncio.get_running_loop()
        while True:
            quiet_until = connection.heard_at + self._timing.quiet_s
            if loop.time() < quiet_until:
                await asyncio.wait({closed}, timeout=quiet_until - loop.time())
            else:
                asked_at = loop.time()
                answers: set[asyncio.Future[Any]] = {closed}
                with contextlib.suppress(ConnectionClosed):
                    answers.add(cast("asyncio.Future[float]", await connection.ping()))
                await asyncio.wait(answers, timeout=self._timing.pong_s, return_when=asyncio.FIRST_COMPLETED)
                if not closed.done() and connection.heard_at < asked_at:
                    return f"silent for {self._timing.quiet_s:g} s, and no pong within {self._timing.pong_s:g} s"
            if closed.done():
                return closed.result()

    def _change(self, state: Literal["up", "down"], reason: str) -> None:
        self._recorder.feed(self._name, state, reason)
        self._recorder.flush()
        get_logger(__name__).info("feed_changed", feed=self._name, state=state, reason=reason)
        if self._on_state is not None:
            self._on_state(self._name, state, reason)


class _Connection(ClientConnection):
    """A connection that hands messages to the recorder as they are parsed, and has it write after each of them."""

    def __init__(self, recorder: Recorder, protocol: ClientProtocol, **kwargs: Any) -> None:
        hand_over_texts(protocol)
        super().__init__(protocol, **kwargs)
        self.heard_at = self.loop.time()
        self.failure: Exception | None = None
        self._recorder = recorder
        self._fragments: list[Frame] = []

    def data_received(self, data: bytes) -> None:
        """Note that the peer lives, whatever it sends."""
        self.heard_at = self.loop.time()
        super().data_received(data)

    def process_event(self, event: Event | TextMessages) -> None:
        """Record messages, or let the library see to anything else."""
        if isinstance(event, TextMessages):
            self._record(self._recorder.frames, event)
        elif isinstance(event, Frame) and event.opcode in (TEXT, BINARY, CONT):
            self._fragments.append(event)
            if event.fin:
                self._record_whole(self._fragments)
                self._fragments = []
        else:
            super().process_event(event)

    async def closed(self) -> str:
        """Wait until the connection is closed; returns why."""
        try:
            while True:
                await self.recv()  # which gets no message, since `process_event` takes them all
        except ConnectionClosed as closed:
            return str(closed)

    def _record_whole(self, fragments: list[Frame]) -> None:
        message = b"".join(fragment.data for fragment in fragments)
        if fragments[0].opcode is TEXT:
            self._record(self._recorder.frame, message)
        else:
            text = message[: 4 * INVALID_CHARACTERS].decode("utf-8", "backslashreplace")[:INVALID_CHARACTERS]
            self._record(self._recorder.invalid, text, "binary message")

    def _record(self, record: Callable[..., None], *message: object) -> None:
        if self.failure is None:
            # An exception must not be raised into asyncio, which would log and forget it.
            try:
                record(*message)
                self._recorder.flush()
            except Exception as error:
                self.failure = error
                self.transport.abort()


def _headers(response: Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.raw_items()}


def _refusal(response: Response) -> str:
    status = response.status_code
    advice = {
        401: "the token was refused; a fresh one is used next",
        403: "access denied; give the OAuth client a role or scope for voice conversation events",
        404: "no event endpoint here; check [genesys] base_url (the API host of your region)",
        429: "rate limited; waiting as asked",
    }.get(status, "see Genesys' status page and check [genesys] base_url (the API host of your region)")
    return f"upgrade refused with {status}: {advice}"
