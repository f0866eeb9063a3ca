"""An event older than the newest of its session has no latency, whatever the cut, the shards and the stops."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tests.support.recordings import Replayed, replay_blocks

SEMANTICS = Path(__file__).parents[3] / "docs/semantics.md"
START = 1757114302.0
SETTINGS = json.dumps(
    {"received_at": START, "settings": {"alerts": {"unwatched": "default"}, "defaults": {"max_latency_ms": 300}}}
).encode()
TOPIC = "v2.detail.events.conversation.c."
Event = tuple[str, str, float]
USER_START, USER_END = ("user.start", "s2", 1.0), ("user.end", "s2", 61.0)


def message(event: Event, **body: Any) -> dict[str, Any]:
    """Return an event of a session, sent some seconds behind the start."""
    name, session, sent = event
    content = {"conversationId": "c", "eventTime": round((START + sent) * 1000), "mediaType": "VOICE", **body}
    if session:
        content["sessionId"] = session
    return {"topicName": TOPIC + name, "eventBody": content}


def journalled(at: float, event: Event) -> bytes:
    return json.dumps({"received_at": START + at, "frame": message(event)}).encode()


def bare(at: float, event: Event) -> bytes:
    return json.dumps({**message(event), "receivedAt": START + at}).encode()


def eventbridge(at: float, event: Event) -> bytes:
    detail = message(event)
    record = {"id": f"e{at}", "detail-type": detail["topicName"], "detail": detail}
    return json.dumps({"received_at": START + at, "frame": record}).encode()


def replayed(lines: list[bytes]) -> Replayed:
    """Replay lines in one block and in a block each, with a restart behind each; both give the same."""
    whole = replay_blocks([[SETTINGS, *lines]], 1)
    for shards in (1, 3):
        blocks = [[SETTINGS], *([line] for line in lines)]
        pieces = replay_blocks(blocks, shards, stops=frozenset(range(len(blocks))))
        assert pieces.late_us == whole.late_us
        assert pieces.windows == whole.windows
        assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]
    return whole


@pytest.mark.parametrize("form", [journalled, bare, eventbridge])
def test_a_start_behind_the_end_of_its_session_raises_nothing(form: Any) -> None:
    """It comes a minute late, which is the lag of that event; it counts as a frame and has no latency."""
    lines = [form(61.2, USER_END), form(61.21, USER_START)]
    whole = replayed(lines)
    assert whole.alerts == []
    assert whole.late_us == [60_210_000]
    assert [(window["frames"], window["latency_ms"]["count"]) for window in whole.windows] == [(2, 1)] * 2
    assert whole.windows[0]["latency_ms"]["max"] == pytest.approx(200.0)
    lag = {"count": 1, "min": 60_210.0, "mean": 60_210.0, "max": 60_210.0}
    assert [window["event_lag_ms"] for window in whole.windows] == [lag, lag]


def test_the_example_of_the_documentation_is_computed() -> None:
    """The page shows the end of a window with a late event, as it is written."""
    [window, *_] = replayed([journalled(61.2, USER_END), journalled(61.21, USER_START)]).windows
    shown = {name: window[name] for name in ("latency_ms", "packet_loss", "mos", "labels", "event_lag_ms")}
    assert json.dumps(shown, separators=(",", ":"))[1:-1] in SEMANTICS.read_text(encoding="utf-8")


def test_windows_show_the_lags_of_their_own_late_events() -> None:
    """Each window has the late events that arrived in it; one without has no such key."""
    middle = ("user.hold", "s2", 30.0)
    lines = [journalled(61.0, USER_END), journalled(61.5, middle), journalled(67.0, USER_START)]
    windows = replayed(lines).windows
    lags = {window["start"] - START: window.get("event_lag_ms") for window in windows}
    first = {"count": 1, "min": 31_500.0, "mean": 31_500.0, "max": 31_500.0}
    both = {"count": 2, "min": 31_500.0, "mean": 48_750.0, "max": 66_000.0}
    last = {"count": 1, "min": 66_000.0, "mean": 66_000.0, "max": 66_000.0}
    assert lags == {53.0: first, 58.0: both, 63.0: last}
    assert "event_lag_ms" not in replayed([journalled(61.0, USER_END)]).windows[0]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(("user.end", "s1", 61.0), id="another session"),
        pytest.param(("user.end", "", 61.0), id="no session"),
        pytest.param(("user.end", "s2", 1.0), id="as old"),
    ],
)
def test_other_events_have_their_latency(first: Event) -> None:
    """A delay that no newer event of the session has overtaken is one that an event takes."""
    whole = replayed([journalled(61.2, first), journalled(61.21, USER_START)])
    assert whole.late_us == []
    assert len(whole.alerts) == 1
    assert max(window["latency_ms"]["max"] for window in whole.windows) == 60_210.0


def test_sessions_are_known_by_the_communication_too() -> None:
    """A transcription event names its session `communicationId`."""
    newer = message(("user.end", "", 61.0), communicationId="s2")
    lines = [json.dumps({**newer, "receivedAt": START + 61.2}).encode(), bare(61.21, USER_START)]
    assert replayed(lines).late_us == [60_210_000]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_any_order_is_judged_by_what_came_before(order: tuple[int, ...]) -> None:
    """Of two sessions, in any order, those are late that follow a newer one of their own."""
    events = [USER_START, USER_END, ("customer.start", "s1", 0.0), ("user.acw", "s1", 30.0)]
    arrivals = [(62.0 + place, events[index]) for place, index in enumerate(order)]
    late = [
        round((at - sent) * 1e6)
        for place, (at, (_, session, sent)) in enumerate(arrivals)
        if any(other[1] == session and other[2] > sent for _, other in arrivals[:place])
    ]
    assert replayed([journalled(at, event) for at, event in arrivals]).late_us == late


def test_an_end_that_is_late_resolves_without_a_value() -> None:
    """The last event of a conversation has no latency either, which its incident would show."""
    slow, late = ("user.start", "s1", 1.0), ("customer.end", "s1", 0.5)
    whole = replayed([journalled(2.0, slow), journalled(3.0, late)])
    found = [json.loads(alert.body) for alert in whole.alerts]
    assert [(alert["state"], alert["metricValue"]) for alert in found] == [("raised", 1000.0), ("resolved", None)]
    assert whole.late_us == [2_500_000]


def test_unwatched_events_are_not_late() -> None:
    """Events before the watch of their conversation are dropped, and nothing is known of them."""
    watch = json.dumps({"received_at": START + 61.2, "watch": {"conversation_id": "c"}}).encode()
    lines = [journalled(61.2, USER_END), watch, journalled(61.21, USER_START)]
    whole = replay_blocks([lines], 1)
    assert (whole.unwatched, whole.late_us) == (1, [])
    assert len(whole.alerts) == 1
