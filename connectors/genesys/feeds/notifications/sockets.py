"""The WebSocket of a notification channel: connected, watched over, and read until it is over."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI

from connectors.genesys.client import tls_context
from connectors.genesys.feeds.base import MAX_MESSAGE_BYTES, SILENT
from connectors.genesys.feeds.notifications.channels import Channel
from connectors.runtime.logs import get_logger

__all__ = ["SYSTEM_TOPIC", "ChannelSocket", "NotificationTiming", "RecentlyHeard"]

MAX_REASON: Final = 256
METADATA_TOPIC: Final = "channel.metadata"
SYSTEM_TOPIC: Final = "v2.system."
CHANNEL_IS_OVER: Final = ("token_revoked", "no_longer_subscribed")
PING: Final = '{"message":"ping"}'


@dataclass(frozen=True, slots=True)
class NotificationTiming:
    """The feed's patience, all in seconds.

    Genesys sends a heartbeat every 30 s. After `quiet_s` without a message the feed asks for a pong; after `silent_s`
    without one the connection is dead. A channel is replaced when `renew_ratio` of its life is over, a bit earlier by
    chance, but not sooner than `renew_after_s`, for its end is a time of Genesys' clock, and ours may be a day ahead.
    The old one is read for `overlap_s` more. What was heard in the last `duplicate_s` is not recorded again.
    A connection that lasted `healthy_s` resets the backoff (from `base_s` to `cap_s`). `flush_s` is how long a
    message may stay in the recorder's buffer.
    """

    quiet_s: float = 35.0
    silent_s: float = 45.0
    renew_ratio: float = 0.95
    renew_after_s: float = 60.0
    overlap_s: float = 5.0
    duplicate_s: float = 300.0
    healthy_s: float = 30.0
    flush_s: float = 0.004
    open_s: float = 10.0
    close_s: float = 2.0
    base_s: float = 0.5
    cap_s: float = 60.0
    retry_after_cap_s: float = 300.0


class ChannelSocket:
    """A connection to a channel.

    `replace` is done, with the reason, when the channel should be replaced while it can still be read. When `read` has
    returned, `reason` says why the connection is over, in 256 characters at most, and `is_channel_over` whether the
    channel is, too.
    """

    def __init__(self, websocket: ClientConnection, timing: NotificationTiming, renew_at: float) -> None:
        self._websocket = websocket
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._renew_at = renew_at
        self._asked_at = float("-inf")
        self.opened_at = self.heard_at = self._loop.time()
        self.replace: asyncio.Future[str] = self._loop.create_future()
        self.is_channel_over = False
        self.reason = ""

    @classmethod
    async def connect(cls, channel: Channel, timing: NotificationTiming, renew_at: float) -> ChannelSocket:
        """Connect to a channel, which is to be replaced at `renew_at` of the loop's clock.

        Raises what `websockets.connect` raises. The text of an error may contain the address of a redirect,
        which gives read access to a channel.
        """
        try:
            opened = await connect(
                channel.uri,
                compression=None,
                open_timeout=timing.open_s,
                close_timeout=timing.close_s,
                ping_interval=None,  # the channel's own heartbeat tells more
                max_size=MAX_MESSAGE_BYTES,
                ssl=tls_context() if channel.uri.startswith("wss:") else None,
                logger=SILENT,
            )
        except InvalidURI as error:
            raise ValueError("the address of the channel is no URL") from error
        return cls(opened, timing, renew_at)

    async def read(self, take: Callable[[ChannelSocket, str | bytes], None]) -> None:
        """Hand every message to `take` until the connection is over. Raises what `take` raises."""
        watching = asyncio.create_task(self._watch_over())
        try:
            while True:
                message = await self._websocket.recv()
                self.heard_at = self._loop.time()
                take(self, message)
        except ConnectionClosed as closed:
            self._note(str(closed))
        finally:
            watching.cancel()
            self._websocket.transport.abort()

    def end(self, reason: str, *, is_channel_over: bool = False) -> None:
        """Give the connection up at once; the first reason given is the one that counts."""
        self._note(reason)
        self.is_channel_over = self.is_channel_over or is_channel_over
        self._websocket.transport.abort()

    def ask_for_another(self, reason: str) -> None:
        """Have the channel replaced; until then it is read on."""
        if not self.replace.done():
            self.replace.set_result(reason)

    def handles(self, content: Mapping[str, Any]) -> bool:
        """Handle messages about the channel; return True if the message has no other content."""
        topic, result = content.get("topicName"), content.get("result")
        if topic == METADATA_TOPIC:
            return True
        if topic is None and isinstance(result, str | int | float):
            if str(result) != "200":
                self.end(f"Genesys answered {str(result)[:16]} on the channel", is_channel_over=True)
            return True
        if isinstance(topic, str) and topic.startswith(SYSTEM_TOPIC):
            body = content.get("eventBody")
            self._heed(
                topic.removeprefix(SYSTEM_TOPIC), body.get("systemTopicType") if isinstance(body, Mapping) else ""
            )
        return False

    def _heed(self, topic: str, kind: Any) -> None:
        if topic == "socket_closing":
            self.ask_for_another("Genesys is about to close its socket")
        elif topic == "streaming-subscriptions-expiring":
            self.ask_for_another("its subscriptions are about to expire")
        elif topic in CHANNEL_IS_OVER or kind in CHANNEL_IS_OVER:
            advice = "if this repeats, another program uses the OAuth client; give each one its own"
            get_logger(__name__).warning("channel_taken", advice=advice)
            self.end("Genesys has ended the channel", is_channel_over=True)

    async def close(self) -> None:
        """Take leave; what arrives before the answer still reaches `read`."""
        await self._websocket.close()

    def _note(self, reason: str) -> None:
        self.reason = self.reason or reason[:MAX_REASON]

    async def _watch_over(self) -> None:
        """Ask a quiet channel for a sign of life, end a dead one, and have it replaced before its time is over."""
        timing, loop = self._timing, self._loop
        while True:
            now = loop.time()
            quiet_at, dead_at = self.heard_at + timing.quiet_s, self.heard_at + timing.silent_s
            asked = self._asked_at >= self.heard_at
            if now >= dead_at:
                self.end(f"silent for {timing.silent_s:g} s")
                return
            if now >= self._renew_at:
                self.ask_for_another("its time is almost over")
            if now >= quiet_at and not asked:
                self._asked_at = now
                with contextlib.suppress(ConnectionClosed):
                    await self._websocket.send(PING)
                continue
            due = [min(dead_at, now + timing.quiet_s) if asked else quiet_at]
            due += [] if self.replace.done() else [self._renew_at]
            await asyncio.sleep(max(min(due) - loop.time(), 0.001))


class RecentlyHeard:
    """Remembers messages for a while, so that what two connections tell is taken once.

    A message is known by its topic and its body, however the body's keys are ordered. Genesys' CorrelationId is that
    of the conversation, and says nothing about the message.
    """

    def __init__(self, keep_s: float, *, limit: int = 50_000) -> None:
        self._keep_s = keep_s
        self._limit = limit
        self._heard: OrderedDict[bytes, float] = OrderedDict()
        self.duplicates = 0

    def __len__(self) -> int:
        return len(self._heard)

    def is_repeated(self, topic: str, body: Any, now: float) -> bool:
        """Whether this was heard in the last `keep_s` seconds; `now` is a monotonic clock. It is, from here on.

        Raises TypeError for a body that is nested too deeply, or otherwise cannot be JSON again.
        """
        while self._heard and next(iter(self._heard.values())) <= now - self._keep_s:
            self._heard.popitem(last=False)
        canonical = orjson.dumps([topic, body], option=orjson.OPT_SORT_KEYS)
        mark = hashlib.blake2b(canonical, digest_size=16).digest()
        if mark in self._heard:
            self.duplicates += 1
            return True
        self._heard[mark] = now
        if len(self._heard) > self._limit:
            self._heard.popitem(last=False)
        return False
