"""The Notifications feed: keep notification channels connected and record their messages.

Delivery guarantee: best effort. Genesys keeps nothing for a channel that is not connected; messages sent while the feed
is down are lost, and the times when it was down are recorded, with the reason. A channel is replaced before it expires:
the new one is connected before the old one is dropped, and a message of both is recorded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from websockets.exceptions import InvalidStatus, WebSocketException

from connectors.errors import GenesysError
from connectors.format.owners import ALL, Share
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
    ignore_event,
)
from connectors.genesys.feeds.notifications.channels import NotificationsRest
from connectors.genesys.feeds.notifications.discovery import CallFinder, Directory, Sources
from connectors.genesys.feeds.notifications.enrichment import Enricher, EnrichTiming, MediaQueue
from connectors.genesys.feeds.notifications.extras import Extras, Surroundings, make_workers
from connectors.genesys.feeds.notifications.messages import MessageRecorder, WatchHooks, parse_object
from connectors.genesys.feeds.notifications.slots import Slot, Slots
from connectors.genesys.feeds.notifications.sockets import (
    SYSTEM_TOPIC,
    ChannelSocket,
    NotificationTiming,
    RecentlyHeard,
)
from connectors.genesys.feeds.notifications.sweep import Sweeper
from connectors.genesys.feeds.notifications.waits import Waits
from connectors.genesys.feeds.notifications.workers import Worker
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import in_daemon_thread
from connectors.runtime.timeline import Timeline

__all__ = ["NotificationTiming", "NotificationsFeed"]


T = TypeVar("T")


class _NotOpened(NamedTuple):
    """Why there is no connection."""

    reason: str
    cause: Exception


class NotificationsFeed(FeedBase):
    """Keep as many channels connected as `topics` and those of `sources` need, and record their messages.

    A conversation is watched from its first message on, under `limits`, if `rules` take it; see `MessageRecorder`.
    Messages about conversations outside of `share` are dropped. `recorded` are the last messages of the runs before.
    Heartbeats and pongs are not recorded; messages that are not JSON, or cannot be handled, become `invalid` records
    with the reason. The feed is up while every channel is connected. A failed connection is logged and tried again, for
    as long as the feed runs. A topic that Genesys refuses goes to `on_event`, and the others are subscribed.

    With an `enrich_queue`, an end is recorded with a top-level `"enrich": true`, and the conversation ends with the
    media record that analytics gives later, or with an empty one. After a gap, or a restart, analytics is also asked
    about the conversations that were going on: their ends may have been missed. `extras` are further requests.
    """

    def __init__(
        self,
        *,
        name: str,
        tokens: Tokens,
        endpoints: Endpoints,
        topics: Sequence[str] = (),
        sources: Sources = Sources(),  # noqa: B008 - frozen
        recorder: Recorder,
        limits: FeedLimits,
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        share: Share = ALL,
        keep_raw: bool = False,
        names: Names = Names(),  # noqa: B008 - without state
        recorded: Iterable[bytes] = (),
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        enrich_queue: Path | None = None,
        extras: Extras = Extras(),  # noqa: B008 - frozen
        timing: NotificationTiming = NotificationTiming(),  # noqa: B008 - frozen
        enrich_timing: EnrichTiming = EnrichTiming(),  # noqa: B008 - frozen
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state)
        self._on_event, self._clock = on_event, clock
        self._timing, self._enrich_timing, self._waits = timing, enrich_timing, Waits(timing, clock)
        self._timeline = Timeline(clock.now, clock.monotonic)
        self._topics, self._sources, self._names = topics, sources, names
        self._enrich_queue, self._extras, self._limits = enrich_queue, extras, limits
        self._workers: list[Worker] = []
        self._budget = budget_of(endpoints.api_url)
        self._new_client = partial(
            GenesysClient, endpoints, tokens, policy=policy, clock=replace(clock, sleep=self._sleep)
        )
        self._rest = NotificationsRest(client := self._new_client())
        selection = Selection.of_feed(name, recorder, rules, on_event)
        self._messages = MessageRecorder(
            name, recorder, limits, selection=selection, share=share, keep_raw=keep_raw, names=names
        )
        self._messages.recall(recorded)
        surroundings = (self._rest, self._messages, recorder.is_watching, sources, self._budget)
        self._finder = found = CallFinder(name, self, Directory(client), *surroundings)
        self._messages.hooks = WatchHooks(found.started, found.ended)
        self._enricher: Enricher | None = None
        self._recent, self._refused = RecentlyHeard(timing.duplicate_s), set[str]()
        self._flush = DelayedFlush(recorder, timing.flush_s, self._fail)
        self._main: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()
        self._reading: dict[asyncio.Task[None], ChannelSocket] = {}

    @property
    def failure(self) -> Exception | None:
        """Return the error that ended the feed; None while it runs, and after a stop."""
        failures = [worker.failure for worker in self._workers]
        failures.append(None if self._enricher is None else self._enricher.failure)
        return self._thread.failure or next((failure for failure in failures if failure is not None), None)

    @property
    def duplicates(self) -> int:
        """Return the number of messages not recorded because they had been already."""
        return self._recent.duplicates

    def figures(self) -> Mapping[str, float]:
        """Return the messages received again, and the topics and channels in use."""
        return {"duplicates": self.duplicates, **self._finder.slots.figures(self._clock.monotonic())}

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """Close the connections, record the feed as down with `reason`, and wait up to `timeout_s` for its threads.

        Returns in any case; calling it again, or before `start`, does no harm.
        """
        self._thread.interrupt(reason)
        if self._enricher is not None:
            self._enricher.stop(timeout_s)
        for worker in self._workers:
            worker.stop(timeout_s)
        self._thread.join(timeout_s)

    def _interrupt(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _sleep(self, seconds: float) -> None:
        """Wait between two requests. Raises GenesysError when the feed is stopped."""
        if self._thread.stopping.wait(seconds):
            raise GenesysError("abandoned: the feed is being stopped")

    def _run(self, runner: asyncio.Runner) -> None:
        enriches = self._enrich_queue is not None
        of_feed = (self._name, self._recorder, self._limits, self._budget, self._clock)
        feed = Surroundings(*of_feed, enriches, self._messages.share, self._names)
        self._workers = make_workers(self._extras, feed, self._new_client)
        sweeper = next((worker for worker in self._workers if isinstance(worker, Sweeper)), None)
        if self._enrich_queue is not None:
            self._enricher = self._messages.enricher = Enricher(
                MediaQueue(self._enrich_queue, now=self._timeline, longest_wait_s=self._enrich_timing.longest_s),
                NotificationsRest(self._new_client()),
                self._recorder,
                self._budget,
                name=self._name,
                timing=self._enrich_timing,
                clock=replace(self._clock, now=self._timeline),
                on_over=None if sweeper is None else sweeper.enriched,
            )
            self._enricher.start()
        for worker in self._workers:
            worker.start()
        runner.run(self._stay_connected())

    async def _stay_connected(self) -> None:
        """Keep every slot connected until the feed is stopped. Raises what the recorder raises."""
        self._main = asyncio.current_task()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest_is_free = asyncio.Lock()
        self._begin(self._messages.follow_names())
        self._begin(self._open_slots())
        try:
            if not self._thread.stopping.is_set():
                await asyncio.wait({self._failed})  # which, unlike awaiting it, a stop does not cancel
        except asyncio.CancelledError:
            if not self._thread.stopping.is_set():
                raise
        finally:
            self._main = None  # from here on a stop has nothing to interrupt: the rest is quick and must be whole
            working = list(self._working)
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
            # What arrives before the server's answer to the close is still recorded.
            await asyncio.gather(*(connection.close() for connection in self._reading.values()))
            if self._reading:
                await asyncio.wait(self._reading, timeout=self._timing.close_s)
        if self._failed.done():
            self._failed.result()
        self._flush.now()
        self._change("down", self._thread.reason)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some of the feed's work beside the rest, until it ends or the feed is stopped."""
        task = asyncio.create_task(self._guarded(work))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _open_slots(self) -> None:
        """Find out the topics, and keep connections for them."""
        failures = 0
        while True:
            failures += 1
            try:
                topics = [*self._topics, *await self._finder.topics()]
            except GenesysError as error:
                self._change("down", str(error))
                await asyncio.sleep(self._waits.after(error, failures))
                continue
            if topics:
                break
            self._change("down", "none of the queues and users of the configuration exists")
            await asyncio.sleep(self._waits.backoff_s(64))
        self._finder.slots = Slots(topics)
        for slot in self._finder.slots.all:
            self.open_slot(slot)
        for conversation_id in self._recorder.watched_by(self._name):
            self._finder.started(conversation_id)
        if self._finder.edges is not None:
            self._begin(self._finder.edges.keep_asking())
        if self._sources.discover:
            self._begin(self._finder.keep_subscribed())
            self._begin(self._finder.keep_looking())

    def open_slot(self, slot: Slot) -> None:
        """Keep a connection for a slot from now on; for the finder."""
        self._begin(self._keep(slot))

    async def rest(self, work: Callable[[], T]) -> T:
        """Make REST calls in a thread, one at a time; raises what they raise."""
        async with self._rest_is_free:
            return await in_daemon_thread(work, name="notifications")

    def report(self, what: str, details: Mapping[str, str]) -> None:
        """Report an event; topics only once."""
        topic = details.get("topic")
        if topic is not None and topic in self._refused:
            return
        if topic is not None:
            self._refused.add(topic)
            get_logger(__name__).warning("topic_refused", feed=self._name, **details)
        self._on_event(self._name, what, details)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some of the feed's work; an exception ends the feed."""
        try:
            await work
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _keep(self, slot: Slot) -> None:
        """Keep a connection for the topics of a slot."""
        failures = 0
        while True:
            opened = await self._open(slot)
            if isinstance(opened, _NotOpened):
                failures += 1
                if slot.current is None:
                    self._down(slot, opened.reason)
                await self._pause(slot, opened.reason, self._waits.after(opened.cause, failures))
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
            wait_s = 0.0 if opened.is_channel_over and failures == 1 else self._waits.backoff_s(failures)
            await self._pause(slot, opened.reason, wait_s)

    async def _pause(self, slot: Slot, reason: str, wait_s: float) -> None:
        get_logger(__name__).warning(
            "feed_waits", feed=self._name, channel=slot.number, reason=reason, wait_s=round(wait_s, 3)
        )
        await asyncio.sleep(wait_s)

    async def _open(self, slot: Slot) -> ChannelSocket | _NotOpened:
        """Connect to the slot's channel, or to a new one if it has none."""
        try:
            channel = slot.channel
            if channel is None:
                topics, slot.is_changed = list(slot.topics), False
                # A new channel a minute, for details that are not permitted, would evict those that are connected.
                may_be_empty = not slot.is_essential
                channel = await self.rest(lambda: self._rest.open_channel(topics, may_be_empty=may_be_empty))
                self._finder.refused(channel.refused)
                share = self._timing.renew_ratio - 0.05 * self._clock.u()  # so that not all are replaced at once
                lasts_s = max(channel.life_s * share, self._timing.renew_after_s)
                slot.renew_at = asyncio.get_running_loop().time() + lasts_s
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

    def _switch(self, slot: Slot, new: ChannelSocket) -> None:
        """Let a new connection take the place of the slot's old one, which is read for a while yet."""
        old, slot.current = slot.current, new
        if old is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(self._timing.overlap_s, old.end, "replaced")
        slots = self._finder.slots.essential
        if not self._is_up and all(each.current is not None for each in slots):
            topics = [topic for each in slots for topic in each.topics]
            refused = sum(self._finder.slots.name_of(topic) in self._refused for topic in topics)
            but = f", {refused} refused" if refused else ""
            self._change("up", f"connected: {len(topics) - refused} topic(s) on {len(slots)} channel(s){but}")
            self._finder.gap_is_over.set()
            if self._enricher is not None:
                self._enricher.look_for_ends()

    async def _listen(self, slot: Slot, connection: ChannelSocket) -> None:
        """Record the messages of a connection until it ends; if there is no other one, the feed is down."""
        await connection.read(self._take)
        self._flush.now()
        if slot.current is not connection:
            return
        slot.current = None
        self._down(slot, connection.reason)

    def _down(self, slot: Slot, reason: str) -> None:
        if slot.is_essential and not self._thread.stopping.is_set():
            count = len(self._finder.slots.essential)
            of_several = "" if count == 1 else f"channel {slot.number} of {count}: "
            self._change("down", of_several + reason)

    def _take(self, connection: ChannelSocket, message: str | bytes) -> None:
        """Record a message, or do what it says about the channel."""
        self._flush.soon()
        if isinstance(message, bytes):
            self._messages.invalid(message, "binary message")
            return
        try:
            content = parse_object(message)
            if connection.handles(content) or self._is_repeated(connection, content):
                return
        except Exception as error:  # nothing is recorded in there: whatever it is, it is about this message alone
            self._messages.cannot_handle(message, error)
            return
        self._messages.record(message, content)

    def _is_repeated(self, connection: ChannelSocket, content: Mapping[str, Any]) -> bool:
        topic = content.get("topicName")
        if not isinstance(topic, str) or topic.startswith(SYSTEM_TOPIC):
            return False
        return self._recent.is_repeated(topic, content.get("eventBody"), connection.heard_at)
