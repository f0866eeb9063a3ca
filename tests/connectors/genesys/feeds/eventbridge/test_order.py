"""Ends that EventBridge delivers too early, or too late: it keeps no order, and delivers an event more than once."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from connectors.genesys.feeds.base import FeedLimits, Selection, WatchRules, ignore_event
from connectors.genesys.feeds.eventbridge.recorder import EventRecorder, event_recorder
from connectors.genesys.feeds.notifications.messages import MessageRecorder
from connectors.genesys.names import Names
from connectors.journal.events import recorded_event_ids
from connectors.journal.recall import recorded_frames
from connectors.journal.writer import Journal
from tests.connectors.genesys.feeds.notifications.test_legs import CALL, GOES_ON, OVER
from tests.support.tape import Tape

CHANCE = random.Random(15)


def event(number: int, message: dict[str, Any]) -> bytes:
    """An event of EventBridge with a notification in it."""
    topic = message["topicName"].replace(CALL, "{id}")
    return json.dumps({"id": f"e{number}", "detail-type": topic, "detail": message}).encode()


def watched_after(events: Sequence[bytes]) -> bool:
    """Whether the call is watched when a feed has received these events; each is delivered again at random."""
    tape = Tape()
    events_ = EventRecorder(MessageRecorder("bus", tape, FeedLimits("bus"), selection=Selection()))
    for number, one in enumerate(events):
        assert events_.take(one).recorded == 1
        again = CHANCE.choice(events[: number + 1])
        assert events_.take(again).known == 1
    assert len(tape.of("frame")) == len(events)
    return tape.is_watching(CALL)


@pytest.mark.parametrize("messages", GOES_ON)
def test_a_call_goes_on_in_any_order_of_its_events(messages: list[dict[str, Any]]) -> None:
    """A call with a living leg is watched, whichever of its events comes last."""
    for order in itertools.permutations([event(*one) for one in enumerate(messages)]):
        assert watched_after(order), order


@pytest.mark.parametrize("messages", OVER)
def test_a_call_is_over_in_any_order_of_its_events(messages: list[dict[str, Any]]) -> None:
    """A call without a living leg is not watched, whichever of its events comes last."""
    orders = list(itertools.permutations([event(*one) for one in enumerate(messages)]))
    for order in CHANCE.sample(orders, min(len(orders), 200)):
        assert not watched_after(order), order


@pytest.mark.parametrize(("messages", "goes_on"), [*((one, True) for one in GOES_ON), *((one, False) for one in OVER)])
def test_a_kill_between_two_events_changes_nothing(
    messages: list[dict[str, Any]], goes_on: bool, tmp_path: Path
) -> None:
    """A journal that was not closed is opened again, and its events are recalled: nothing is lost or begun for good."""
    for number in range(8):
        directory = tmp_path / str(number)
        order = CHANCE.sample([event(*one) for one in enumerate(messages)], len(messages))
        cut = CHANCE.randrange(len(messages) + 1)
        for done, part in ((0, order[:cut]), (cut, order[cut:])):
            journal = Journal(directory, settings={})
            recorder = journal.recorder("bus")
            known, recorded = recorded_event_ids(directory, "bus", 100), recorded_frames(directory, "bus")
            assert len(recorded) == len(known) == done
            events = event_recorder(
                "bus",
                recorder,
                FeedLimits("bus"),
                rules=WatchRules(),
                known=known,
                keep_raw=False,
                on_event=ignore_event,
                names=Names(),
                recorded=recorded,
            )
            recorder.feed("bus", "up", "connected")
            for one in part:
                assert events.take(one).recorded == 1
            recorder.flush()
        assert recorder.is_watching(CALL) == goes_on, (order, cut)
