"""What a notifications feed finds, and what Genesys refuses of it: one report each, and the rest goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import pytest
from structlog.testing import capture_logs

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, RequestBudget, RetryPolicy
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.channels import Channel
from connectors.genesys.feeds.notifications.discovery import CallFinder, Sources
from connectors.genesys.feeds.notifications.feed import NotificationsFeed, NotificationTiming
from connectors.genesys.feeds.notifications.slots import Slot, Slots
from connectors.genesys.feeds.notifications.topics import DETAIL_EVENTS
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.organisation import FIRST_QUEUE_ID
from connectors.genesys.simulator.server import running
from tests.support.simulators import close_channels
from tests.support.tape import DEADLINE_S, Tape, until

T = TypeVar("T")
FORBIDDEN = Answer(403, {"message": "no", "code": "missing.permissions", "status": 403})


class Refusals:
    """What a feed reports as refused."""

    def __init__(self) -> None:
        self.topics: list[tuple[str, str]] = []

    def __call__(self, feed: str, what: str, details: Mapping[str, str]) -> None:
        if what == "topic_refused":
            self.topics.append((details["topic"], details["reason"]))


@contextmanager
def finding(simulator: NotificationsSimulator, refusals: Refusals, **sources: Any) -> Iterator[Tape]:
    """A feed that looks for the calls of its sources; yields what it records."""
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "secret"), policy=RetryPolicy(attempts=1))
    tape = Tape()
    feed = NotificationsFeed(
        name="desk",
        tokens=tokens,
        endpoints=endpoints,
        sources=Sources(**{"discover": True, **sources}),
        recorder=tape,
        limits=FeedLimits("desk"),
        on_event=refusals,
        timing=NotificationTiming(base_s=0.001, cap_s=0.05),
        policy=RetryPolicy(timeout_s=5, attempts=1),
        clock=Clock(u=lambda: 0.5),
    )
    feed.start()
    try:
        yield tape
    finally:
        feed.stop("test over", timeout_s=DEADLINE_S)
        tokens.close()
    assert feed.failure is None


def test_details_that_are_not_permitted_are_reported_once_for_each_kind() -> None:
    """Not ten times for each call, and no channel is opened again and again, which would evict those in use."""
    refusals = Refusals()
    with running(NotificationsSimulator(conversations=210, forbidden=("v2.detail.",))) as simulator:
        with finding(simulator, refusals, queues=("Support", "Sales", "Billing")) as tape:
            until(lambda: len(tape.watched_by("desk")) >= 200)
            until(lambda: sum(channel.connection is not None for channel in simulator.channels.values()) == 3)
            assert tape.states() == ["up"]
            kinds = {f"v2.detail.events.conversation.{{id}}.{event}" for event in DETAIL_EVENTS}
            until(lambda: {topic for topic, _ in refusals.topics} == kinds)
        assert len(refusals.topics) == len(kinds)
        assert len(simulator.channels) == 3


@pytest.mark.parametrize("kind", ["users", "queues"])
def test_names_that_may_not_be_looked_up_are_reported_and_the_rest_goes_on(kind: str) -> None:
    """A missing permission for users costs the users of the configuration, and not its queues."""
    refusals = Refusals()
    other = "user Ada Abel" if kind == "users" else "queue Sales"
    with running(NotificationsSimulator(conversations=6)) as simulator:
        simulator.script(kind, FORBIDDEN, FORBIDDEN)
        users = {"users": ("Ada Abel",)} if kind == "users" else {}
        queues = (FIRST_QUEUE_ID,) if kind == "users" else (FIRST_QUEUE_ID, "Sales")
        with finding(simulator, refusals, queues=queues, **users) as tape:
            until(lambda: tape.watched_by("desk"))
            assert tape.states() == ["up"]
    [(topic, reason)] = refusals.topics
    assert topic == other
    assert reason.startswith(f"names of {kind} cannot be looked up (403)")


def test_an_activity_query_that_fails_again_and_again_is_logged_once() -> None:
    """With its reason; calls are found by their messages meanwhile."""
    with running(NotificationsSimulator(conversations=6, rate=5)) as simulator:
        simulator.script("activity", *[FORBIDDEN] * 50)
        with capture_logs() as logs, finding(simulator, Refusals(), queues=("Support",)) as tape:
            until(lambda: tape.watched_by("desk"))
            close_channels(simulator)  # each gap is followed by another query
            until(lambda: tape.states() == ["up", "down", "up"])
            until(lambda: simulator.requests["activity"] >= 3)
    assert sum(line["event"] == "activity_query_failed" for line in logs) == 1


class Counting:
    """A feed that counts the subscriptions that are changed."""

    def __init__(self, slots: list[Slot]) -> None:
        self.slots = slots
        self.requests = 0

    async def rest(self, work: Callable[[], T]) -> T:
        self.requests += 1
        for slot in self.slots:
            slot.is_changed = slot.is_awaited = True  # as calls begin and end all the time
        return cast(T, [])


def test_subscriptions_leave_most_of_the_budget() -> None:
    """Although calls begin and end on twenty channels each second, their topics take 120 requests a minute at most."""
    slots = Slots([f"v2.users.u{number}.conversations.calls" for number in range(20_000)])
    for slot in slots.all:
        slot.is_changed, slot.channel = True, Channel(f"ch{slot.number}", "ws://", 1.0)
    feed, slept = Counting(slots.all), 0.0

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        if slept > 60:
            raise asyncio.CancelledError

    unused = cast(Any, None)
    args = (unused, unused, unused, unused, Sources(discover=True), RequestBudget())
    finder = CallFinder("desk", cast(Any, feed), *args, sleep=sleep)
    finder.slots = slots
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(finder.keep_subscribed())
    assert 60 < feed.requests <= 120


def test_new_topics_are_subscribed_before_old_ones_are_given_up() -> None:
    """With calls on many channels, a new call waits for one request, not for a round over all channels."""
    slots = Slots([f"v2.users.u{number}.conversations.calls" for number in range(2500)])
    for number in range(50):
        slots.add_conversation(f"c{number}")
    for slot in slots.all:
        slot.is_changed, slot.is_awaited, slot.channel = False, False, Channel(f"ch{slot.number}", "ws://", 1.0)
    assert slots.next_changed() is None
    slots.all[0].is_changed = slots.all[1].is_changed = True  # given up
    for number in range(20):
        slots.remove_conversation(f"c{number}")
    slots.add_conversation("new")
    found = slots.next_changed()
    assert found is not None
    assert "v2.detail.events.conversation.new.user.start" in found.topics
    found.is_changed = found.is_awaited = False
    assert slots.next_changed() is slots.all[0]
