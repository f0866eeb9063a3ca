"""The voice events feed: keep the voice event WebSocket connected and hand every message to a recorder.

Delivery guarantee: best effort. The protocol cannot rewind: messages sent while the feed is down are lost, and the
times when it was down are recorded, with the reason. Received messages reach the recorder in order, once.

A token is fetched in a thread of its own, so that a stop does not wait for a login host that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.http11 import Response
from websockets.protocol import Event

from connectors.errors import GenesysError
from connectors.format.owners import ALL, Share
from connectors.format.ownership import OwnMessages
from connectors.format.privacy import can_be_private
from connectors.genesys.auth import TokenProvider
from connectors.genesys.client import Clock, tls_context
from connectors.genesys.feeds.base import MAX_MESSAGE_BYTES, SILENT, FeedBase, OnState, headers_of
from connectors.genesys.feeds.discovery import CallDiscovery
from connectors.genesys.feeds.text_messages import TextMessages, hand_over_texts
from connectors.journal.writer import Recorder
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import in_daemon_thread

__all__ = ["SUBSCRIPTION", "FeedTiming", "VoiceEventsFeed"]

SUBSCRIPTION = (
    '{"eventTypes":["conversation.started","conversation.updated","conversation.ended"],'
    '"filters":{"entityTypes":["conversation"]}}'
)


@dataclass(frozen=True, slots=True)
class FeedTiming:
    """The feed's waits, all in seconds.

    After `quiet_s` without a byte a ping is sent; without a byte for `pong_s` more the connection is dropped.
    A connection that lasted `healthy_s` resets the backoff (from `base_s` to `cap_s`).
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


class VoiceEventsFeed(FeedBase):
    """Keep the voice event WebSocket at `url` connected and record its messages.

    Every text message goes to `recorder.frames` or `recorder.frame` as bytes, a binary one to `recorder.invalid`; the
    recorder writes after each read. A failed connection is logged and tried again, for as long as the feed runs. With a
    `discovery`, the conversations of the frames are offered to it. Messages about conversations outside of `share` are
    dropped unread.
    """

    def __init__(
        self,
        *,
        url: str,
        tokens: TokenProvider,
        recorder: Recorder,
        name: str = "voice-events",
        on_state: OnState | None = None,
        discovery: CallDiscovery | None = None,
        share: Share = ALL,
        timing: FeedTiming = FeedTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state)
        self._url = url
        self._tokens = tokens
        self._timing = timing
        self._now = clock.now
        self._u = clock.u
        self._discovery = discovery
        self._own = OwnMessages(share)
        self._session: asyncio.Task[_Ended] | None = None

    @property
    def failure(self) -> Exception | None:
        """Return the error that ended the feed; None while it runs, and after a stop."""
        return self._thread.failure or (None if self._discovery is None else self._discovery.failure)

    def start(self) -> None:
        """Start the threads; a feed starts once."""
        super().start()
        if self._discovery is not None:
            self._discovery.start()

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """Close the connection, record the feed as down with `reason`, and wait up to `timeout_s` for its threads.

        Returns in any case; calling it again, or before `start`, does no harm.
        """
        self._thread.interrupt(reason)
        if self._discovery is not None:
            self._discovery.stop(timeout_s)
        self._thread.join(timeout_s)

    def _interrupt(self) -> None:
        if self._session is not None:
            self._session.cancel()

    def _run(self, runner: asyncio.Runner) -> None:
        failures = 0
        while not self._thread.stopping.is_set():
            ended = runner.run(self._listen())
            if self._thread.stopping.is_set():
                break
            self._change("down", ended.reason)  # if it never came up; any other loss is recorded already
            failures = 1 if ended.lasted_s >= self._timing.healthy_s else failures + 1
            wait_s = self._wait_s(ended.cause, failures)
            get_logger(__name__).warning("feed_waits", feed=self._name, reason=ended.reason, wait_s=round(wait_s, 3))
            self._thread.stopping.wait(wait_s)
        self._change("down", self._thread.reason)

    def _wait_s(self, cause: Exception | None, failures: int) -> float:
        """Return the wait after `failures` failures in a row, the last of them because of `cause`."""
        slow_s = backoff_s(64, self._u(), cap_s=self._timing.cap_s)
        if isinstance(cause, InvalidStatus):
            status = cause.response.status_code
            if status == 401 and failures == 1:
                return 0.0  # the token is a fresh one now
            if status == 403:
                return slow_s  # until the client has a role
            asked = retry_after_s(headers_of(cause.response), self._now(), cap_s=self._timing.retry_after_cap_s)
            if asked is not None:
                return asked
        if isinstance(cause, GenesysError) and cause.status is not None and cause.status < 500:
            return slow_s
        return backoff_s(failures, self._u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)

    async def _listen(self) -> _Ended:
        """Connect, subscribe, and record until the connection ends or the feed is stopped."""
        self._session = asyncio.current_task()
        connection: _Connection | None = None
        try:
            if self._thread.stopping.is_set():
                return _Ended(self._thread.reason)
            try:
                token = await self._in_thread(self._tokens.token)
                try:
                    connection = await self._open(token)
                except InvalidStatus as refused:
                    if refused.response.status_code == 401:
                        await self._in_thread(partial(self._tokens.renew, token))
                    raise
                await connection.send(SUBSCRIPTION)
            except InvalidStatus as refused:
                return _Ended(_refusal(refused.response), refused)
            except GenesysError as error:
                return _Ended(str(error), error)
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

    async def _in_thread(self, work: Callable[[], str]) -> str:
        return await in_daemon_thread(work, name=f"token-{self._name}")

    async def _open(self, token: str) -> _Connection:
        def connection(*args: Any, **kwargs: Any) -> _Connection:
            return _Connection(self._recorder, self._discovery, self._own, *args, **kwargs)

        # Off: compression (inflating adds half of the cost of receiving a frame, to save bandwidth that is not
        # scarce), and websockets' keepalive, which pings however much arrives and takes a pong that is queued behind a
        # burst for a dead peer.
        opened = await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            open_timeout=self._timing.open_s,
            close_timeout=self._timing.close_s,
            ping_interval=None,
            max_size=MAX_MESSAGE_BYTES,
            ssl=tls_context() if self._url.startswith("wss:") else None,
            logger=SILENT,
            create_connection=cast("type[ClientConnection]", connection),
        )
        return cast(_Connection, opened)

    async def _record(self, connection: _Connection) -> _Ended:
        """Record the messages of the connection until it ends."""
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
        """Wait until the connection closes or its peer is dead, and return the reason."""
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


class _Connection(ClientConnection):
    """A connection that hands messages to the recorder as they are parsed, and has it write after each of them."""

    def __init__(
        self,
        recorder: Recorder,
        discovery: CallDiscovery | None,
        own: OwnMessages,
        protocol: ClientProtocol,
        **kwargs: Any,
    ) -> None:
        hand_over_texts(protocol)
        super().__init__(protocol, **kwargs)
        self.heard_at = self.loop.time()
        self.failure: Exception | None = None
        self._recorder = recorder
        self._discovery = discovery
        self._own = own
        self._fragments: list[Frame] = []

    def data_received(self, data: bytes) -> None:
        """Note that the peer is alive, whatever it sends."""
        self.heard_at = self.loop.time()
        super().data_received(data)

    def process_event(self, event: Event | TextMessages) -> None:
        """Record messages; leave anything else to the library."""
        if isinstance(event, TextMessages):
            self._record_texts(event)
        elif isinstance(event, Frame) and event.opcode in (TEXT, BINARY, CONT):
            self._fragments.append(event)
            if event.fin:
                self._record_whole(self._fragments)
                self._fragments = []
        else:
            super().process_event(event)

    async def closed(self) -> str:
        """Wait until the connection is closed, and return the reason."""
        try:
            while True:
                await self.recv()  # which gets no message, since `process_event` takes them all
        except ConnectionClosed as closed:
            return str(closed)

    def _record_whole(self, fragments: list[Frame]) -> None:
        message = b"".join(fragment.data for fragment in fragments)
        if fragments[0].opcode is TEXT:
            self._record_texts([message])
        elif self._own.share.index == 0:
            private = can_be_private(message)
            self._record(partial(self._recorder.invalid, private=private), message, "binary message")

    def _record_texts(self, messages: Sequence[bytes]) -> None:
        if messages := self._own.of(messages):
            self._record(self._record_frames, messages)

    def _record_frames(self, messages: Sequence[bytes]) -> None:
        others = [message for message in messages if _is_of_another_feed(message)]
        for message in others:
            self._recorder.invalid(message, "not a voice event: it has no event", private=True)
        if others:
            messages = [message for message in messages if message not in others]
        received = self._recorder.frames(messages)
        if self._discovery is not None:
            self._discovery.observe(received.frames)

    def _record(self, record: Callable[..., None], *message: object) -> None:
        if self.failure is None:
            # An exception must not be raised into asyncio, which would log and forget it.
            try:
                record(*message)
                self._recorder.flush()
            except Exception as error:
                self.failure = error
                self.transport.abort()


def _is_of_another_feed(message: bytes) -> bool:
    """Report whether a message has the keys of a notification: such a message may hold personal data."""
    if message.startswith(b'{"event"') or not can_be_private(message):
        return False
    try:
        content = orjson.loads(message)
    except orjson.JSONDecodeError:
        return False  # which the journal finds, too
    return isinstance(content, dict) and "event" not in content


def _refusal(response: Response) -> str:
    status = response.status_code
    advice = {
        401: "the token was refused; a fresh one is used next",
        403: "access denied; give the OAuth client a role or scope for voice conversation events",
        404: "no event endpoint here; check [genesys] base_url (the API host of your region)",
        429: "rate limited; waiting as asked",
    }.get(status, "see Genesys' status page and check [genesys] base_url (the API host of your region)")
    return f"upgrade refused with {status}: {advice}"
