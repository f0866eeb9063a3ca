"""What sessions leave in the journal, without a socket and on a made-up clock."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from connectors.genesys.feeds.audiohook.monitor import EVENTS_PER_SAMPLE, RECONNECT_S, CallMonitor, MonitoredSession
from connectors.genesys.feeds.audiohook.session import Session
from connectors.genesys.feeds.base import FeedLimits, RecentIds

MEDIA = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
LIMITS = FeedLimits("hook", 200.0, 0.05, None)


class Records:
    """A recorder in memory."""

    def __init__(self) -> None:
        self.frames_: list[tuple[float | None, dict[str, Any]]] = []
        self.watches: dict[str, dict[str, Any]] = {}

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        frame = json.loads(text)
        self.frames_.append((at, frame))
        if frame["event"] == "conversation.ended":
            self.watches.pop(frame["entity"]["id"], None)

    def watch(self, settings: dict[str, Any]) -> None:
        self.watches[settings["conversation_id"]] = settings

    def is_watching(self, conversation_id: str) -> bool:
        return conversation_id in self.watches

    def watch_feed(self, conversation_id: str) -> str | None:
        return self.watches.get(conversation_id, {}).get("feed")

    def events(self) -> list[tuple[str, Any]]:
        return [
            (frame["event"].removeprefix("conversation."), frame["audiohook"].get("event")) for _, frame in self.frames_
        ]


class Line:
    """A session of a monitor, and a client that knows its numbers."""

    def __init__(self, monitor: CallMonitor, session_id: str = "s", now: float = 0.0) -> None:
        self.monitored: MonitoredSession = monitor.session(Session(session_id, "o", now))
        self.session_id = session_id
        self.seq = 0

    def say(self, kind: str, parameters: dict[str, Any], now: float = 0.0, position: str = "PT0S") -> None:
        self.seq += 1
        message = {"version": "2", "id": self.session_id, "type": kind, "seq": self.seq, "serverseq": 0}
        self.monitored.receive(json.dumps(message | {"position": position, "parameters": parameters}), now)

    def open(self, conversation_id: str = "c", now: float = 0.0, **more: Any) -> None:
        parameters = {"organizationId": "o", "conversationId": conversation_id, "media": [MEDIA]}
        self.say("open", parameters | more, now)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def monitor(records: Records) -> CallMonitor:
    return CallMonitor(records, LIMITS, wall=lambda: 1000.0)  # type: ignore[arg-type]


def test_a_frame_says_when_what_has_arrived_was_due(monitor: CallMonitor, records: Records) -> None:
    """The form is that of the voice events: timestamp = arrival less latency, metrics, and the details beside them."""
    line = Line(monitor)
    line.open()
    line.monitored.receive(b"\xff" * 4000, 0.5)
    line.say("discarded", {"start": "PT0.5S", "discarded": "PT0.5S"}, 1.0)
    line.say("ping", {"rtt": "PT0.25S"}, 1.0, "PT1S")
    line.monitored.sample(1.0)
    assert records.watches["c"] == LIMITS.watch("c", "s", codec="g711")
    assert records.watches["c"]["feed"] == "hook"
    at, frame = records.frames_[-1]
    assert at == 1000.0
    assert frame == {
        "event": "conversation.updated",
        "entity": {"id": "c"},
        "timestamp": 999.75,
        "metrics": {"packetLoss": 0.5, "jitter": None},
        "audiohook": {
            "session": "s",
            "rttMs": 250.0,
            "latenessMs": 0.0,
            "audioMs": 500.0,
            "discardedMs": 500.0,
            "unaccountedMs": 0.0,
        },
    }
    assert records.events()[:3] == [("started", "opened"), ("updated", "discarded"), ("updated", "ping")]
    assert records.frames_[1][1]["audiohook"]["discardedMs"] == 500.0


def test_a_flood_of_events_is_measured_and_not_recorded(monitor: CallMonitor, records: Records) -> None:
    """Between two samples, a limited number of events have separate frames; all of them are in the next sample."""
    line = Line(monitor)
    line.open()
    for _ in range(50):
        line.say("discarded", {"start": "PT0S", "discarded": "PT0.01S"}, 0.5)
    assert len(records.frames_) == 1 + EVENTS_PER_SAMPLE
    line.monitored.sample(1.0)
    assert records.frames_[-1][1]["audiohook"]["discardedMs"] == 500.0
    line.say("paused", {}, 1.0)
    assert records.events()[-1] == ("updated", "paused")


def test_a_conversation_waits_for_a_session_that_was_closed_to_reconnect(
    monitor: CallMonitor, records: Records
) -> None:
    """It goes on with the next session, and is over when none has come in time."""
    first = Line(monitor, "s1")
    first.open()
    first.say("close", {"reason": "reconnect"}, 1.0)
    monitor.expire(1.0 + RECONNECT_S - 0.1)
    second = Line(monitor, "s2")
    second.open(now=10.0, continuedSessions=[{"id": "s1", "serverseq": 1, "clientseq": 2}])
    monitor.expire(100.0)
    assert records.events() == [("started", "opened"), ("updated", "closed: reconnect"), ("updated", "opened")]
    assert records.frames_[-1][1]["audiohook"]["continues"] == ["s1"]
    second.say("close", {"reason": "reconnect"}, 101.0)
    monitor.expire(101.0 + RECONNECT_S)
    assert records.events()[-1] == ("ended", "not reconnected")
    assert not records.is_watching("c")


def test_a_conversation_that_waits_is_over_when_the_feed_stops(monitor: CallMonitor, records: Records) -> None:
    """There will be no feed for the next session, so the conversation ends."""
    line = Line(monitor)
    line.open()
    line.say("close", {"reason": "reconnect"}, 1.0)
    monitor.expire()
    assert records.events()[-1] == ("ended", "not reconnected")


def test_a_session_ends_once(monitor: CallMonitor, records: Records) -> None:
    """What comes after the close, the end of the connection among it, is nothing new."""
    line = Line(monitor)
    line.open()
    line.say("close", {"reason": "end"}, 1.0)
    line.monitored.sample(2.0)
    line.monitored.lost(2.0)
    assert records.events() == [("started", "opened"), ("ended", "closed: end")]
    assert (monitor.counts.open, monitor.counts.lost, monitor.counts.reasons) == (0, 0, {"closed: end": 1})


def test_a_session_that_never_opened_leaves_nothing(monitor: CallMonitor, records: Records) -> None:
    """A connection that comes and goes without `open`, or with a bad one, is not a conversation."""
    Line(monitor).monitored.lost(1.0)
    line = Line(monitor)
    line.open(conversation_id="")
    line.monitored.sample(1.0)
    line.monitored.lost(1.0)
    assert records.frames_ == []
    assert monitor.counts.failed == 1


def test_a_session_that_breaks_the_protocol_is_measured_until_it_is_over(
    monitor: CallMonitor, records: Records
) -> None:
    """After an error the client is asked to close; its conversation ends with its connection."""
    line = Line(monitor)
    line.open()
    line.monitored.receive(b"\xff" * 8000, 1.0)
    line.monitored.receive("nonsense", 1.0)
    line.monitored.expire(9.0)
    line.monitored.lost(9.0)
    assert records.events() == [("started", "opened"), ("ended", "lost")]
    assert records.frames_[-1][1]["metrics"]["packetLoss"] == 0.0
    assert records.frames_[-1][1]["timestamp"] == 1000.0
    assert (monitor.counts.failed, monitor.counts.lost) == (1, 1)


def test_what_is_not_taken_any_more_is_not_late(monitor: CallMonitor, records: Records) -> None:
    """While a client that was asked to close has not, its audio is dropped, and nothing gets later and later."""
    line = Line(monitor)
    line.open()
    line.monitored.receive(b"\xff" * 8000, 1.0)
    line.monitored.disconnect("completed", "stopping", 1.0)
    line.monitored.receive(b"\xff" * 8000, 2.0)
    line.monitored.sample(9.0)
    assert records.frames_[-1][1]["audiohook"]["latenessMs"] == 0.0
    line.say("close", {"reason": "disconnect"}, 9.0)
    assert records.events()[-1] == ("ended", "closed: disconnect")


def test_a_conversation_that_has_ended_can_start_again(monitor: CallMonitor, records: Records) -> None:
    """A new session is not a late message: the conversation is watched again."""
    for session_id in ("s1", "s2"):
        line = Line(monitor, session_id)
        line.open()
        assert records.watches["c"]["leg_id"] == session_id
        line.say("close", {"reason": "end"}, 1.0)
    assert [event for event, _ in records.events()] == ["started", "ended", "started", "ended"]


@pytest.mark.parametrize("ways", list(itertools.product(["end", "reconnect", "lost"], repeat=3)))
def test_a_conversation_goes_on_while_it_has_a_session_in_any_order(ways: tuple[str, ...]) -> None:
    """Its end is final when no session is open and none is waited for; a later session has it watched again."""
    for order in sorted(set(itertools.permutations([0, 0, 1, 1, 2, 2]))):
        records = Records()
        monitor = CallMonitor(records, LIMITS, wall=lambda: 1000.0)  # type: ignore[arg-type]
        lines: dict[int, Line] = {}
        opened: set[int] = set()
        is_waited = False
        for now, number in enumerate(order):
            if number not in lines:
                lines[number] = Line(monitor, f"s{number}", now)
                lines[number].open(now=now)
                opened.add(number)
            elif ways[number] == "lost":
                lines[number].monitored.lost(now)
                opened.remove(number)
            else:
                lines[number].say("close", {"reason": ways[number]}, now)
                opened.remove(number)
            is_waited = not opened and ways[number] == "reconnect"
            monitor.expire(now)
            assert records.is_watching("c") == (bool(opened) or is_waited), (order, now)
        monitor.expire()
        assert not records.is_watching("c")
        events = [event for event, _ in records.events() if event != "updated"]
        assert events == ["started", "ended"] * (len(events) // 2), order


def test_a_watch_of_someone_else_is_not_ended(monitor: CallMonitor, records: Records) -> None:
    """The end of the sessions of a conversation that another feed watches is recorded, and its watch stays."""
    for watch in ({"conversation_id": "c"}, {"conversation_id": "c", "feed": "another"}):
        records.watch(watch)
        line = Line(monitor)
        line.open()
        line.say("close", {"reason": "end"}, 1.0)
        assert records.events()[-2:] == [("started", "opened"), ("updated", "closed: end")]
        assert records.watches["c"] == watch


def test_ended_conversations_are_remembered_up_to_a_limit() -> None:
    """The last ones to end are remembered, and the oldest are forgotten."""
    ended = RecentIds(limit=2)
    for conversation_id in ("a", "b", "a", "c"):
        ended.add(conversation_id)
    assert ("a" in ended, "b" in ended, "c" in ended, len(ended)) == (True, False, True, 2)
