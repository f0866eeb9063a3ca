"""Steps of the clock: what waits goes on waiting, windows of before a step back are closed, and no cut shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.analytics.precedence import Overrides
from tests.flows.analytics.test_reference import SHARDS, cut, cuts_of_30, recordings, unhurried
from tests.support.recordings import replay_blocks

START = 1_700_000_000.0
STEPS_S = [-7200.0, -2.5, -1.25, 1.25, 2.5, 45.0, 7200.0]
RULES = {"alerts": {"clear_after_s": 2, "stalled_after_s": 3}, "windows": {"length_s": 4, "slide_s": 2}}


def record(at: float, **kind: Any) -> bytes:
    return json.dumps({"received_at": at, **kind}).encode()


def watch(at: float, conversation_id: str) -> bytes:
    return record(at, watch={"conversation_id": conversation_id, "max_latency_ms": 100, "packet_loss_threshold": 0.02})


def clock(at: float, step_s: float) -> bytes:
    return record(at, clock={"step_s": step_s, "reason": "for a test"})


class Event:
    """Something that happens `after_s` seconds later; or the clock is set by `step_s`."""

    def __init__(self, after_s: float, kind: str, conversation_id: str, latency_ms: float, step_s: float) -> None:
        self.after_s = after_s
        self.kind = kind
        self.conversation_id = conversation_id
        self.latency_ms = latency_ms
        self.step_s = step_s if kind == "clock" else 0.0

    def __repr__(self) -> str:
        return f"Event{(self.after_s, self.kind, self.conversation_id, self.latency_ms, self.step_s)}"

    def line(self, at: float) -> bytes:
        match self.kind:
            case "tick":
                return record(at, tick=True)
            case "up" | "down":
                return record(at, feed={"name": "f", "state": self.kind})
            case "watch":
                return watch(at, self.conversation_id)
        frame = {
            "event": "conversation.ended" if self.kind == "ended" else "conversation.updated",
            "entity": {"id": self.conversation_id},
            "timestamp": at - self.latency_ms / 1000,
        }
        return record(at, frame=frame)


def events(kinds: Sequence[str], steps_s: Sequence[float] = STEPS_S) -> st.SearchStrategy[list[Event]]:
    one = st.builds(
        Event,
        st.sampled_from([0.0, 0.25, 0.25, 0.5, 1.0, 3.25]),
        st.sampled_from(kinds),
        st.sampled_from("cd"),
        st.sampled_from([20.0, 20.0, 95.0, 400.0]),
        st.sampled_from(steps_s),
    )
    return st.lists(one, max_size=40)


def journal(happening: list[Event], *, stepping: bool) -> list[bytes]:
    """The lines, with the clock records or as if the clock had never been set."""
    lines = [record(START, settings=RULES), watch(START, "c"), watch(START, "d")]
    at = START
    for event in happening:
        if event.kind == "clock":
            if stepping:
                at += event.step_s
                lines.append(clock(at, event.step_s))
            continue
        at += event.after_s
        lines.append(event.line(at))
    return lines


@settings(unhurried, max_examples=150)
@given(events(["frame"] * 6 + ["tick", "up", "down", "watch", "ended", "clock", "clock"]))
def test_alerts_are_those_of_a_clock_that_was_never_set(happening: list[Event]) -> None:
    """The same alerts, at the same distances, whichever way and however often the clock is set; ids are unique."""
    lines = journal(happening, stepping=True)
    stepped = replay_blocks([lines], 2)
    steady = replay_blocks([journal(happening, stepping=False)], 2)
    keys = ("conversationId", "alertType", "state", "reason", "metricValue", "threshold")
    bodies = [[json.loads(alert.body) for alert in replayed.alerts] for replayed in (stepped, steady)]
    found, expected = ([[body[key] for key in keys] for body in of_one] for of_one in bodies)
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    of_frames = [body for body in bodies[0] if body["alertType"] != "STREAM_STALLED"]
    assert {body["timestamp"] for body in of_frames} <= {json.loads(line)["received_at"] for line in lines}
    assert len({body["alertId"] for body in of_frames}) == len(of_frames)
    assert stepped.unwatched == steady.unwatched
    # One that is watched again counts again when its windows have ended, and steps back end windows.
    ended = {event.conversation_id for event in happening if event.kind == "ended"}
    if not any(event.kind == "watch" and event.conversation_id in ended for event in happening):
        assert stepped.conversations == steady.conversations


@settings(unhurried, max_examples=100)
@given(events(["frame"] * 8 + ["tick", "clock"], [-7200.0, -45.0, -2.5, -1.25]))
def test_windows_are_those_of_the_journals_between_steps_back(happening: list[Event]) -> None:
    """At a step back the open windows are emitted, and those of the new time have only its frames."""
    lines = journal(happening, stepping=True)
    found = replay_blocks([lines], 1)
    eras: list[list[bytes]] = [[]]
    for line in lines:
        if b'"clock"' in line:
            at = json.loads(line)["received_at"]
            eras.append([record(at, settings=RULES), watch(at, "c"), watch(at, "d")])
        else:
            eras[-1].append(line)
    assert found.windows == [window for era in eras for window in replay_blocks([era], 1).windows]


@settings(unhurried, max_examples=60)
@given(
    recordings(),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1_700_000_000.0, 1_700_000_009.5, -12.5])), max_size=4),
    cuts_of_30,
    SHARDS,
    st.frozensets(st.integers(0, 8)),
)
def test_no_cut_no_stop_and_no_number_of_shards_shows_where_the_clock_steps(
    recorded: tuple[list[bytes], Overrides],
    steps: list[tuple[float, float]],
    cuts: list[int],
    shards: int,
    stops: frozenset[int],
) -> None:
    """Whatever else is in the journal, other blocks, shards and restarts give the same lines."""
    lines, overrides = recorded
    for where, at in steps:
        lines.insert(round(where * len(lines)), clock(at, 1.5))
    whole = replay_blocks([lines], 1, overrides)
    pieces = replay_blocks(cut(lines, cuts), shards, overrides, stops)
    # Sorted, for windows that changed settings cut in two have one place in the order of a block.
    assert sorted(map(json.dumps, pieces.windows)) == sorted(map(json.dumps, whole.windows))
    assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]
    assert pieces.rejected == whole.rejected
    assert (pieces.unwatched, pieces.conversations) == (whole.unwatched, whole.conversations)


def test_an_hour_forward_and_back_freezes_nothing() -> None:
    """The field's case: +1 h for 8 s, then right again. Windows go on, and an incident resolves in its time."""
    at, lines = START, [record(START, settings=RULES), watch(START, "c")]
    for second in range(60):
        if second in (10, 18):
            step_s = 3600.0 if second == 10 else -3600.0
            at += step_s
            lines.append(clock(at, step_s))
        lines.append(Event(0, "frame", "c", 400.0 if second == 5 else 20.0, 0).line(at))
        at += 1
    replayed = replay_blocks([lines], 1)
    bodies = [json.loads(alert.body) for alert in replayed.alerts]
    assert [(body["state"], body["timestamp"] - START) for body in bodies] == [("raised", 5), ("resolved", 7)]
    ends = [window["end"] - START for window in replayed.windows]
    assert ends[-20:] == [float(end) for end in range(24, 64, 2)]
    assert 3612.0 in ends
