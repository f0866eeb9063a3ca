"""Ends that EventBridge delivers too early, or too late: it keeps no order, and delivers an event more than once."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.genesys.feeds.base import FeedLimits, Selection
from connectors.genesys.feeds.eventbridge.recorder import EventRecorder
from connectors.genesys.feeds.notifications.messages import MessageRecorder
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
