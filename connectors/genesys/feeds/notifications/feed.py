"""The Notifications feed: keep notification channels connected and record their messages.

Delivery guarantee: best effort. Genesys keeps nothing for a channel that is not connected; messages sent while the feed
is down are lost, and the times when it was down are recorded, with the reason. A channel is replaced before it expires:
the new one is connected before the old one is dropped, and a message of both is recorded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from websockets.exceptions import InvalidStatus, WebSocketException

from connectors.errors import GenesysError
from connectors.genesys.client import Clock, GenesysClient, RetryPolicy, Tokens, budget_of
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import (
    DelayedFlush,
    FeedBase,
    FeedLimits,
    OnEvent,
    OnState,
    Selection,
    WatchRules,
    headers_of,
    ignore_event,
)
from connectors.genesys.feeds.notifications.channels import Channel, NotificationsRest
from connectors.genesys.feeds.notifications.enrichment import Enricher, EnrichTiming, MediaQueue
from connectors.genesys.feeds.notifications.messages import MessageRecorder, parse_object
from connectors.genesys.feeds.notifications.sockets import ChannelSocket, NotificationTiming, RecentlyHeard
from connectors.genesys.feeds.notifications.topics import in_channels
from connectors.journal.writer import Recorder
from connectors.retry import backoff_s, retry_after_s
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import in_daemon_thread

__all__ = ["NotificationTiming", "NotificationsFeed"]


METADATA_TOPIC = "channel.metadata"
SYSTEM_TOPIC = "v2.system."
CLOSING_TOPIC = "v2.system.socket_closing"
EXPIRING_TOPIC = "v2.system.streaming-subscriptions-expiring"
CHANNEL_IS_OVER = ("token_revoked", "no_longer_subscribed")


class _Slot:
    """Some of the topics, the channel that they are subscribed on, and the connection to it."""

    def __init__(self, number: int, topics: Sequence[str]) -> None:
        self.number = number
        self.topics = topics
        self.channel: Channel | None = None
        self.renew_at = 0.0
        self.current: ChannelSocket | None = None


class _NotOpened(NamedTuple):
    """Why there is no connection."""

    reason: str
    cause: Exception


class NotificationsFeed(FeedBase):
    """Keep as many channels as `topics` need connected, and record their messages.

    A conversation is watched from its first message on, under `limits`, if `rules` take it; see `MessageRecorder`.
    Heartbeats and pongs are not recorded; messages that are not JSON, or cannot be handled, become `invalid` records
    with the reason. The feed is up while every channel is connected. A failed connection is logged and tried again, for
    as long as the feed runs. A topic that Genesys refuses goes to `on_event`, and the others are subscribed.

    With an `enrich_queue`, an end is recorded with a top-level `"enrich": true`, and the conversation ends with the
    media record that analytics gives later, or with an empty one. After a gap, or a restart, analytics is also asked
    about the conversations that were going on: their ends may have been missed.
    """

    def __init__(
        self,
        *,
        name: str,
        tokens: Tokens,
        endpoints: Endpoints,
        topics: Sequence[str],
        recorder: Recorder,
        limits: FeedLimits,
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        keep_raw: bool = False,
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        enrich_queue: Path | None = None,
        timing: NotificationTiming = NotificationTiming(),  # noqa: B008 - frozen
        enrich_timing: EnrichTiming = EnrichTiming(),  # noqa: B008 - frozen
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state)
        self._on_event = on_event
        self._timing = timing
        self._now = clock.now
        self._u = clock.u
        self._slots = [_Slot(number, group) for number, group in enumerate(in_channels(topics), 1)]
        waiting = replace(clock, sleep=self._sleep)

        def rest() -> NotificationsRest:
            return NotificationsRest(GenesysClient(endpoints, tokens, policy=policy, clock=waiting))

        def enricher(path: Path) -> Enricher:
            budget = budget_of(endpoints.api_url)
            queue = MediaQueue(path, now=clock.now)
            return Enricher(queue, rest(), recorder, budget, name=name, timing=enrich_timing, clock=clock)

        selection = Selection(rules, watching=lambda: len(recorder.watched_by(name)), refused=self._not_watched)
        self._messages = MessageRecorder(name, recorder, limits, selection=selection, keep_raw=keep_raw)
        self._rest = rest()
        self._enricher: Enricher | None = None
        self._make_enricher = None if enrich_queue is None else lambda: enricher(enrich_queue)
        self._recent = RecentlyHeard(timing.duplicate_s)
        self._refused: set[str] = set()
        self._flush = DelayedFlush(recorder, timing.flush_s, self._fail)
        self._main: asyncio.Task[None] | None = None
        self._reading: dict[asyncio.Task[None], ChannelSocket] = {}

    @property
    def failure(self) -> Exception | None:
        """The error that ended the feed; None while it runs, and after a stop."""
        return self._thread.failure or (None if self._enricher is None else self._enricher.failure)

    @property
    def duplicates(self) -> int:
        """The number of messages not recorded because they had been already."""
        return self._recent.duplicates

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """Close the connections, record the feed as down with `reason`, and wait up to `timeout_s` for its threads.

        Returns in any case; calling it again, or before `start`, does no harm.
        """
        self._thread.interrupt(reason)
        if self._enricher is not None:
            self._enricher.stop(timeout_s)
        self._thread.join(timeout_s)

    def _interrupt(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _sleep(self, seconds: float) -> None:
        """Wait between two requests. Raises GenesysError when the feed is stopped."""
        if self._thread.stopping.wait(seconds):
            raise GenesysError("abandoned: the feed is being stopped")

    def _run(self, runner: asyncio.Runner) -> None:
        if self._make_enricher is not None:
            self._enricher = self._messages.enricher = self._make_enricher()
            self._enricher.start()
        runner.run(self._stay_connected())

    async def _stay_connected(self) -> None:
        """Keep every slot connected until the feed is stopped. Raises what the recorder raises."""
        self._main = asyncio.current_task()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest_is_free = asyncio.Lock()
        keeping = [asyncio.create_task(self._guarded(self._keep(slot))) for slot in self._slots]
        try:
            if not self._thread.stopping.is_set():
                await asyncio.wait({self._failed})  # which, unlike awaiting it, a stop does not cancel
        except asyncio.CancelledError:
            if not self._thread.stopping.is_set():
                raise
        finally:
            self._main = None  # from here on a stop has nothing to interrupt: the rest is quick and must be whole
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            # What arrives before the server's answer to the close is still recorded.
            await asyncio.gather(*(connection.close() for connection in self._reading.values()))
            if self._reading:
                await asyncio.wait(self._reading, timeout=self._timing.close_s)
        if self._failed.done():
            self._failed.result()
        self._flush.now()
        self._change("down", self._thread.reason)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some of the feed's work; an exception ends the feed."""
        try:
            await work
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _keep(self, slot: _Slot) -> None:
        """Keep a connection for the topics of a slot."""
        failures = 0
        while True:
            opened = await self._open(slot)
            if isinstance(opened, _NotOpened):
                failures += 1
                if slot.current is None:
                    self._down(slot, opened.reason)
                await self._pause(slot, opened.reason, self._wait_s(opened.cause, failures))
                continue
            self._switch(slot, opened)
            reading = asyncio.create_task(self._guarded(self._listen(slot, opened)))
            self._reading[reading] = opened
            reading.add_done_callback(self._reading.pop)
            awaited: set[asyncio.Future[Any]] = {reading, opened.replace}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():  # and it is read on until there is another one
                slot.channel = None
                get_logger(__name__).info(
                    "channel_replaced", feed=self._name, channel=slot.number, reason=opened.replace.result()
                )
                continue
            lasted_s = asyncio.get_running_loop().time() - opened.opened_at
            failures = 1 if lasted_s >= self._timing.healthy_s else failures + 1
            if opened.is_channel_over:
                slot.channel = None
            wait_s = 0.0 if opened.is_channel_over and failures == 1 else self._backoff_s(failures)
            await self._pause(slot, opened.reason, wait_s)

    async def _pause(self, slot: _Slot, reason: str, wait_s: float) -> None:
        get_logger(__name__).warning(
            "feed_waits", feed=self._name, channel=slot.number, reason=reason, wait_s=round(wait_s, 3)
        )
        await asyncio.sleep(wait_s)

    def _backoff_s(self, failures: int) -> float:
        return backoff_s(failures, self._u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)

    def _wait_s(self, cause: Exception, failures: int) -> float:
        """Return the wait after `failures` failures in a row, the last of them because of `cause`."""
        if isinstance(cause, InvalidStatus):
            if cause.response.status_code in (401, 404) and failures == 1:
                return 0.0  # the channel is gone, and the next one is new
            asked_s = retry_after_s(headers_of(cause.response), self._now(), cap_s=self._timing.retry_after_cap_s)
            if asked_s is not None:
                return asked_s
        if isinstance(cause, GenesysError) and cause.status is not None and cause.status < 500:
            return self._backoff_s(64)  # until the client has a role, or the minute is over
        return self._backoff_s(failures)

    async def _open(self, slot: _Slot) -> ChannelSocket | _NotOpened:
        """Connect to the slot's channel, or to a new one if it has none."""
        try:
            channel = slot.channel
            if channel is None:
                async with self._rest_is_free:
                    channel = await in_daemon_thread(lambda: self._rest.open_channel(slot.topics), name="notifications")
                self._warn_of(channel)
                share = self._timing.renew_ratio - 0.05 * self._u()  # so that not all are replaced at once
                slot.renew_at = asyncio.get_running_loop().time() + channel.life_s * share
                slot.channel = channel
            return await ChannelSocket.connect(channel, self._timing, slot.renew_at)
        except GenesysError as error:
            return _NotOpened(str(error), error)
        except InvalidStatus as refused:
            slot.channel = None
            return _NotOpened(f"upgrade refused with {refused.response.status_code}", refused)
        except (OSError, EOFError, ValueError, WebSocketException) as error:
            # No more than its kind: the text may quote the address of a channel, with which anyone can read it.
            return _NotOpened(f"cannot connect: {type(error).__name__}", error)

    def _warn_of(self, channel: Channel) -> None:
        """Report each topic that Genesys has refused, once."""
        for topic, reason in channel.refused:
            if topic not in self._refused:
                self._refused.add(topic)
                get_logger(__name__).warning("topic_refused", feed=self._name, topic=topic, reason=reason)
                self._on_event(self._name, "topic_refused", {"topic": topic, "reason": reason})

    def _not_watched(self, reason: str, conversation_id: str) -> None:
        self._on_event(self._name, "not_watched", {"reason": reason, "conversation": conversation_id})

    def _switch(self, slot: _Slot, new: ChannelSocket) -> None:
        """Let a new connection take the place of the slot's old one, which is read for a while yet."""
        old, slot.current = slot.current, new
        if old is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._timing.overlap_s, old.end, "replaced")
        if not self._is_up and all(each.current is not None for each in self._slots):
            topics = [topic for each in self._slots for topic in each.topics]
            refused = len(self._refused.intersection(topics))
            but = f", {refused} refused" if refused else ""
            self._change("up", f"connected: {len(topics) - refused} topic(s) on {len(self._slots)} channel(s){but}")
            if self._enricher is not None:
                self._enricher.look_for_ends()

    async def _listen(self, slot: _Slot, connection: ChannelSocket) -> None:
        """Record the messages of a connection until it ends; if there is no other one, the feed is down."""
        await connection.read(self._take)
        self._flush.now()
        if slot.current is not connection:
            return
        slot.current = None
        self._down(slot, connection.reason)

    def _down(self, slot: _Slot, reason: str) -> None:
        if not self._thread.stopping.is_set():
            of_several = "" if len(self._slots) == 1 else f"channel {slot.number} of {len(self._slots)}: "
            self._change("down", of_several + reason)

    def _take(self, connection: ChannelSocket, message: str | bytes) -> None:
        """Record a message, or do what it says about the channel."""
        self._flush.soon()
        if isinstance(message, bytes):
            self._messages.invalid(message, "binary message")
            return
        try:
            content = parse_object(message)
            if self._is_handled(connection, content):
                return
        except Exception as error:  # nothing is recorded in there: whatever it is, it is about this message alone
            self._messages.cannot_handle(message, error)
            return
        self._messages.record(message, content)

    def _is_handled(self, connection: ChannelSocket, content: Mapping[str, Any]) -> bool:
        """Do what a message says about the channel; True if there is nothing more, or the message is a duplicate."""
        topic, body, result = content.get("topicName"), content.get("eventBody"), content.get("result")
        if topic == METADATA_TOPIC:
            return True
        if topic is None and isinstance(result, str | int | float):
            if str(result) != "200":
                connection.end(f"Genesys answered {str(result)[:16]} on the channel", is_channel_over=True)
            return True
        if not isinstance(topic, str):
            return False
        if topic.startswith(SYSTEM_TOPIC):
            self._heed(connection, topic, body)
            return False
        return self._recent.is_repeated(topic, body, connection.heard_at)

    def _heed(self, connection: ChannelSocket, topic: str, body: Any) -> None:
        kind = body.get("systemTopicType") if isinstance(body, Mapping) else None
        if topic == CLOSING_TOPIC:
            connection.ask_for_another("Genesys is about to close its socket")
        elif topic == EXPIRING_TOPIC:
            connection.ask_for_another("its subscriptions are about to expire")
        elif topic.removeprefix(SYSTEM_TOPIC) in CHANNEL_IS_OVER or kind in CHANNEL_IS_OVER:
            get_logger(__name__).warning(
                "channel_taken",
                feed=self._name,
                advice="if this repeats, another program uses the OAuth client; give each one its own",
            )
            connection.end("Genesys has ended the channel", is_channel_over=True)
