"""Which conversations go on, by the legs that messages have shown."""

from __future__ import annotations

import itertools
import json
import random
from math import inf, nan
from typing import Any

import pytest

from connectors.format.notifications import Leg
from connectors.genesys.feeds.base import FeedLimits, Selection, WatchRules, is_sampled
from connectors.genesys.feeds.notifications.legs import Conversations, KnownLegs
from connectors.genesys.feeds.notifications.messages import MessageRecorder
from tests.support.tape import Tape

QUEUE = "v2.routing.queues.q.conversations.calls"
CALL = "77777777-0000-4000-8000-000000000002"
START = 1_757_070_005.0


def detail(event: str, participant: str, at: float) -> dict[str, Any]:
    """A detail event of the call."""
    body = {"eventTime": int(at * 1000), "conversationId": CALL, "participantId": participant, "mediaType": "VOICE"}
    return {"topicName": f"v2.detail.events.conversation.{CALL}.{event}", "eventBody": body}


def leg(id_: str, purpose: str, start: float, end: float | None = None, *, answered: bool = True) -> dict[str, Any]:
    """A participant of a snapshot."""
    times: dict[str, Any] = {"startTime": start, **({"connectedTime": start} if answered else {})}
    if end is not None:
        return {"id": id_, "purpose": purpose, "state": "terminated", **times, "endTime": end}
    return {"id": id_, "purpose": purpose, "state": "connected" if answered else "alerting", **times}


def snapshot(*legs: dict[str, Any]) -> dict[str, Any]:
    """A snapshot of the call."""
    return {"topicName": QUEUE, "eventBody": {"id": CALL, "participants": list(legs)}}


def watched_after(messages: tuple[dict[str, Any], ...]) -> bool:
    """Whether the call is watched when a feed has received these messages."""
    tape = Tape()
    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection())
    for message in messages:
        recorder.record(json.dumps(message), message)
    assert len(tape.of("frame")) == len(messages)
    return tape.is_watching(CALL)


NOT_ANSWERED = [
    snapshot(leg("a1", "agent", START, answered=False)),
    snapshot(leg("a1", "agent", START, START + 8, answered=False)),
    snapshot(leg("a1", "agent", START, START + 8, answered=False), leg("a2", "agent", START + 9)),
    detail("user.start", "a2", START + 12),
]
REQUEUED = [
    detail("customer.start", "c", START),
    snapshot(leg("c", "customer", START), leg("a1", "agent", START + 1, answered=False)),
    snapshot(leg("c", "customer", START), leg("a1", "agent", START + 1, START + 5, answered=False)),
    detail("user.end", "a1", START + 5),
    snapshot(leg("c", "customer", START), leg("a2", "agent", START + 7)),
]
CONFERENCE = [
    detail("customer.start", "c1", START),
    detail("customer.start", "c2", START + 4),
    detail("user.start", "a1", START + 1),
    detail("customer.end", "c1", START + 9),
]
OUTLIVED = [  # a list of legs without the one that goes on
    snapshot(leg("c", "customer", START, START + 5), leg("a1", "agent", START, START + 5)),
    snapshot(
        leg("c", "customer", START, START + 5), leg("a1", "agent", START, START + 5), leg("x", "external", START + 6)
    ),
]
GOES_ON = [NOT_ANSWERED, REQUEUED, CONFERENCE, OUTLIVED]
OVER = [
    [*NOT_ANSWERED, detail("customer.end", "c", START + 60), detail("user.end", "a2", START + 60)],
    [*REQUEUED, detail("customer.end", "c", START + 60)],
    [*CONFERENCE, detail("customer.end", "c2", START + 60)],
    [
        snapshot(leg("c", "customer", START), leg("a1", "agent", START + 1)),
        snapshot(leg("c", "customer", START, START + 5), leg("a1", "agent", START + 1, START + 5)),
    ],
]


@pytest.mark.parametrize("messages", GOES_ON)
def test_a_call_goes_on_in_any_order_of_its_messages(messages: list[dict[str, Any]]) -> None:
    """A call with a living leg is watched, whichever of its messages comes last."""
    for order in itertools.permutations(messages):
        assert watched_after(order), [message["topicName"] for message in order]


@pytest.mark.parametrize("messages", OVER)
def test_a_call_is_over_in_any_order_of_its_messages(messages: list[dict[str, Any]]) -> None:
    """A call without a living leg is not watched, whichever of its messages comes last."""
    orders = list(itertools.permutations(messages))
    for order in random.Random(1).sample(orders, min(len(orders), 200)):
        assert not watched_after(order), [message["topicName"] for message in order]


@pytest.mark.parametrize(("messages", "goes_on"), [*((one, True) for one in GOES_ON), *((one, False) for one in OVER)])
def test_a_restart_changes_nothing(messages: list[dict[str, Any]], goes_on: bool) -> None:
    """Killed between any two messages in any order, a feed that recalls what was recorded decides as one that was not.

    Its records are the same, too, so that the watch ends and begins where it did.
    """
    chance = random.Random(5)
    for _ in range(100):
        order, cut = chance.sample(messages, len(messages)), chance.randrange(len(messages) + 1)
        tapes = Tape(), Tape()
        for tape, cuts in zip(tapes, ((), (cut,)), strict=True):
            recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection())
            for number, message in enumerate(order):
                if number in cuts:
                    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection())
                    recorder.recall(json.dumps(frame).encode() for frame in tape.of("frame"))
                recorder.record(json.dumps(message), message)
        whole, restarted = tapes
        assert restarted.is_watching(CALL) == goes_on
        assert restarted.records == whole.records


def test_what_is_recalled_begins_no_watch() -> None:
    """A call that was not chosen, or has ended, is not watched because it is remembered."""
    tape = Tape()
    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection())
    recorder.recall(json.dumps(message).encode() for message in REQUEUED)
    assert tape.records == []


def test_a_call_that_is_listed_long_after_its_end_goes_on() -> None:
    """A list may be some seconds old; half a minute later it is right, and the end was wrong."""
    now = 100.0
    tape = Tape()
    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection(), now=lambda: now)
    for message in OVER[3]:
        recorder.record(json.dumps(message), message)
    for later, watched in ((5.0, False), (60.0, True)):
        now = 100.0 + later
        recorder.found(CALL, {"queue": "q"})
        assert tape.is_watching(CALL) == watched
    end = snapshot(leg("c", "customer", START, START + 90), leg("a1", "agent", START + 1, START + 90))
    recorder.record(json.dumps(end), end)
    assert not tape.is_watching(CALL)


def test_the_order_of_merging_is_of_no_account() -> None:
    """What is known of legs is the same in whatever order random facts about them are learnt."""
    chance = random.Random(7)
    times = [nan, 1.0, 2.0, 3.0, inf]
    for _ in range(300):
        facts = [
            (
                [Leg(chance.choice("abc"), chance.random() < 0.3, chance.choice(times[:-1]), chance.choice(times))],
                chance.random() < 0.4,
                chance.random() < 0.3,
            )
            for _ in range(5)
        ]
        results = set()
        for order in (facts, facts[::-1], chance.sample(facts, 5)):
            known = KnownLegs()
            for legs, ended, left in order:
                known.learn(legs, ended=ended, customer_left=left)
            results.add(known.is_over)
        assert len(results) == 1


def test_memory_is_bounded() -> None:
    """The conversations not heard from for longest are forgotten, and a conversation keeps 200 legs."""
    conversations = Conversations(limit=3)
    for id_ in "abcad":
        conversations.of(id_).learn([Leg(f"l{n}", False, 1.0, nan) for n in range(1000)], ended=False)
    assert len(conversations) == 3
    assert not conversations.of("a").is_over


def test_labels_follow_the_call() -> None:
    """Labels are in the watch; a new agent changes them, and the direction of the first leg stays."""
    tape = Tape()
    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=Selection())
    for event, more in (
        ("customer.start", {"direction": "INBOUND", "queueId": "q1", "provider": "Edge"}),
        ("user.start", {"direction": "OUTBOUND", "userId": "u1", "divisionId": "d1", "queueId": "q1"}),
        ("acd.end", {"queueId": "q1"}),
        ("user.start", {"userId": "u2"}),
    ):
        message = detail(event, "p", START)
        message["eventBody"] |= more
        recorder.record(json.dumps(message), message)
    first = {"queue": "q1", "provider": "Edge", "direction": "inbound"}
    assert [watch.get("labels") for watch in tape.of("watch")] == [
        first,
        {**first, "agent": "u1", "division": "d1"},
        {**first, "agent": "u2", "division": "d1"},
    ]


def test_what_is_not_selected_is_counted_once() -> None:
    """A sample, a match and a maximum keep conversations out, each told once with the reason."""
    refused: list[tuple[str, str]] = []
    rules = WatchRules(sample=0.5, max_watched=1, match={"queue": ("q1",)})
    tape = Tape()
    selection = Selection(rules, watching=lambda: len(tape.watched_by("n")), refused=lambda *what: refused.append(what))
    recorder = MessageRecorder("n", tape, FeedLimits("n"), selection=selection)
    ids = [f"c{n}" for n in range(40)]
    sampled = [id_ for id_ in ids if is_sampled(id_, 0.5)]
    assert 10 < len(sampled) < 30
    for id_ in [*ids, *ids]:
        body = {"eventTime": 1, "conversationId": id_, "queueId": "q2" if id_ == sampled[0] else "q1"}
        message = {"topicName": f"v2.detail.events.conversation.{id_}.acd.start", "eventBody": body}
        recorder.record(json.dumps(message), message)
    assert tape.watched_by("n") == [sampled[1]]
    assert sorted(refused) == sorted(
        [("sample", id_) for id_ in ids if id_ not in sampled]
        + [("match", sampled[0])]
        + [("max", id_) for id_ in sampled[2:]]
    )


def test_the_sample_is_the_documented_one() -> None:
    """The first 8 bytes of SHA-256, big-endian, below the share of 2^64."""
    assert is_sampled("c1", 0.8163)
    assert not is_sampled("c1", 0.8162)
    assert [is_sampled("conversation", share) for share in (0.0, 1.0)] == [False, True]
