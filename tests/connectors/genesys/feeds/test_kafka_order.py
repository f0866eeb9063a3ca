"""Frames of Kafka in any order, and over a restart: a call whose end came too early is watched again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.format.owners import ALL
from connectors.format.positions import Position
from connectors.genesys.feeds.base import FeedLimits, Selection
from connectors.genesys.feeds.kafka import _Messages
from connectors.genesys.names import Names
from tests.connectors.genesys.feeds.test_discovery import STORY, event
from tests.support.tape import Tape


def messages_of(tape: Tape) -> _Messages:
    """What records the messages of a topic."""
    return _Messages("bus", tape, FeedLimits("bus"), Selection(), ALL, keep_raw=False, names=Names())


def taken(messages: Sequence[bytes], restarts: Sequence[int] = ()) -> Tape:
    """Record messages, with a restart before some of them."""
    tape = Tape()
    recorder = messages_of(tape)
    for number, message in enumerate(messages):
        if number in restarts:
            recorder = messages_of(tape)
            recorder.recall([json.dumps(frame).encode() for frame in tape.of("frame")])
        recorder.take(message, Position("calls", 0, number), None)
    return tape


@pytest.mark.parametrize("messages", list(itertools.permutations([*STORY, event("updated", 4.0)])))
def test_a_call_with_a_frame_newer_than_its_end_goes_on_in_any_order(messages: tuple[bytes, ...]) -> None:
    """What arrives after an end that came too early decides, or what had overtaken it, whenever the feed was killed."""
    for restart in range(len(messages)):
        assert taken(messages, [restart]).is_watching("on"), restart


@pytest.mark.parametrize("messages", list(itertools.permutations([*STORY, event("ended", 2.5)])))
def test_a_call_whose_newest_frame_is_its_end_is_over_in_any_order(messages: tuple[bytes, ...]) -> None:
    """Frames from before its end, which arrive after it, do not have it watched again, whenever the feed was killed."""
    for restart in range(len(messages)):
        assert not taken(messages, [restart]).is_watching("on"), restart


def test_an_end_that_newer_frames_have_overtaken_is_followed_by_a_watch() -> None:
    """For the dataflow each `conversation.ended` ends a watch."""
    records: list[tuple[str, Any]] = taken([event("updated", 4.0), event("ended", 3.0)]).records
    assert [kind for kind, _ in records] == ["watch", "frame", "frame", "watch"]
