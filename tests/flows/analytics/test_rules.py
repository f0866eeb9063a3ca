"""Incidents of one rule: raised, kept open, resolved; told frame by frame, and in any portions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.records import AlertSettings
from flows.analytics.rules import Rule, Transition, Values
from flows.analytics.slot_columns import SlotColumns

LIMIT = 100.0


def new_rule(slots: int) -> Rule:
    return Rule(SlotColumns(slots), "latency")


def values(frames: Sequence[tuple[float, float]], slot: int = 0, first_row: int = 0) -> Values:
    """Frames (arrival, value) of one slot; rows count from `first_row`."""
    size = len(frames)
    return Values(
        np.arange(first_row, first_row + size),
        np.full(size, slot, np.int32),
        np.array([arrival for arrival, _ in frames], np.float64),
        np.array([value for _, value in frames], np.float64),
        np.full(size, LIMIT),
    )


def told(transitions: Sequence[Transition]) -> list[tuple[int, str]]:
    return [(transition.row, transition.reason or transition.state) for transition in transitions]


RAISED, RECOVERED = "raised", "recovered"


@pytest.mark.parametrize(
    ("settings", "frames", "expected"),
    [
        pytest.param({}, [(0, 100), (1, 99)], [], id="at the limit is not a breach"),
        pytest.param({}, [(0, 100.001)], [(0, RAISED)], id="above the limit is one"),
        pytest.param({}, [(0, 200), (1, 200), (99, 200)], [(0, RAISED)], id="an open incident is silent"),
        pytest.param({}, [(0, 200), (9, 0), (10, 0)], [(0, RAISED), (2, RECOVERED)], id="after the quiet time"),
        pytest.param({}, [(0, 200), (99, 95)], [(0, RAISED)], id="between clear level and limit it stays open"),
        pytest.param(
            {}, [(0, 200), (5, 91), (10, 0), (15, 90)], [(0, RAISED), (3, RECOVERED)], id="quiet since above level"
        ),
        pytest.param({}, [(0, 200), (1e6, 200), (1e6, 0)], [(0, RAISED)], id="silence does not resolve"),
        pytest.param(
            {}, [(0, 200), (10, 0), (10, 200)], [(0, RAISED), (1, RECOVERED), (2, RAISED)], id="again at once"
        ),
        pytest.param({"clear_after_s": 0}, [(0, 200), (0, 0)], [(0, RAISED), (1, RECOVERED)], id="no quiet time"),
        pytest.param({"clear_ratio": 1}, [(0, 200), (10, 100)], [(0, RAISED), (1, RECOVERED)], id="clear at the limit"),
        pytest.param({"clear_ratio": 0}, [(0, 200), (10, 0.1), (19.9, 0)], [(0, RAISED)], id="above zero"),
        pytest.param(
            {"clear_ratio": 0}, [(0, 200), (10, 0), (20, 0)], [(0, RAISED), (1, RECOVERED)], id="clear at zero"
        ),
        pytest.param({"raise_n": 2, "raise_m": 3}, [(0, 200), (1, 0), (2, 200)], [(2, RAISED)], id="2 of 3"),
        pytest.param({"raise_n": 2, "raise_m": 3}, [(0, 200), (1, 0), (2, 0), (3, 200)], [], id="2 of 4 is not 2 of 3"),
        pytest.param({"raise_n": 3, "raise_m": 3}, [(0, 200), (1, 200), (2, 200)], [(2, RAISED)], id="3 of 3"),
        pytest.param(
            {"raise_n": 2, "raise_m": 3, "clear_after_s": 0},
            [(0, 200), (1, 200), (2, 0), (3, 200), (4, 200)],
            [(1, RAISED), (2, RECOVERED), (4, RAISED)],
            id="after a resolve the history is empty",
        ),
        pytest.param(
            {"policy": "frame"},
            [(0, 200), (0, 200), (1, 0), (2, 101)],
            [(0, RAISED), (1, RAISED), (3, RAISED)],
            id="each",
        ),
    ],
)
def test_an_incident_comes_and_goes(
    settings: dict[str, float], frames: list[tuple[float, float]], expected: list[tuple[int, str]]
) -> None:
    """Whether the frames come together or one by one."""
    alert_settings = AlertSettings(**settings)  # type: ignore[arg-type]
    assert told(new_rule(4).evaluate(values(frames), alert_settings, frozen=None)) == expected
    rule = new_rule(4)
    single = [rule.evaluate(values([frame], 0, row), alert_settings, frozen=None) for row, frame in enumerate(frames)]
    assert told([transition for transitions in single for transition in transitions]) == expected


def test_a_transition_carries_its_frame() -> None:
    """The resolving frame has its own value and time, and the incident's beginning."""
    rule = new_rule(1)
    (raised, resolved) = rule.evaluate(values([(5, 200), (15, 50)]), AlertSettings(), frozen=None)
    assert raised == Transition(0, 0, "raised", None, 200.0, 5.0, LIMIT, 5.0, 0)
    assert resolved == Transition(1, 0, "resolved", "recovered", 50.0, 15.0, LIMIT, 5.0, 0)


def test_incidents_of_one_time_are_told_apart() -> None:
    """By their ordinal, which restarts at another time; so do the alerts of policy `frame`."""
    rule = new_rule(1)
    frames = [(0, 200), (0, 0), (0, 200), (0, 0), (1, 200)]
    transitions = rule.evaluate(values(frames), AlertSettings(clear_after_s=0), frozen=None)
    assert [(change.began_at, change.ordinal) for change in transitions] == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0)]
    transitions = rule.evaluate(values([(1, 200), (1, 200)]), AlertSettings(policy="frame"), frozen=None)
    assert [(change.began_at, change.ordinal) for change in transitions] == [(1, 1), (1, 2)]


def test_nothing_resolves_while_a_feed_is_lost() -> None:
    """Incidents are still raised then; when the feed is back, the quiet time of open incidents restarts."""
    rule = new_rule(2)
    assert told(rule.evaluate(values([(0, 200), (100, 0)]), AlertSettings(), frozen=np.ones(2, np.bool_))) == [
        (0, "raised")
    ]
    rule.feed_returned(101, np.ones(2, np.bool_))
    assert rule.evaluate(values([(110.9, 0)]), AlertSettings(), frozen=None) == []
    assert told(rule.evaluate(values([(111, 0)]), AlertSettings(), frozen=None)) == [(0, "recovered")]
    rule.feed_returned(112, np.ones(2, np.bool_))
    assert told(rule.evaluate(values([(113, 200), (123, 0)]), AlertSettings(), frozen=None)) == [
        (0, "raised"),
        (1, "recovered"),
    ]


def test_an_end_resolves_and_forgets_the_breaches_before() -> None:
    """With the reason `ended`, and the value of the last frame if it has one; a new watch counts from nothing."""
    rule = new_rule(2)
    settings = AlertSettings(raise_n=2, raise_m=2)
    rule.evaluate(values([(0, 200), (1, 200)]), settings, frozen=None)
    assert rule.end(0, 7, 2.0, None, LIMIT) == Transition(7, 0, "resolved", "ended", None, 2.0, LIMIT, 1.0, 0)
    assert rule.end(0, 7, 2.0, None, LIMIT) is None
    rule.evaluate(values([(3, 200)]), settings, frozen=None)
    assert rule.end(0, 8, 3.0, 200.0, LIMIT) is None
    assert rule.evaluate(values([(4, 200)]), settings, frozen=None) == []


def test_slots_do_not_touch_each_other() -> None:
    """Frames of several conversations in one block, one of them raised before; one forgotten slot starts afresh."""
    columns = SlotColumns(1)
    rule = Rule(columns, "latency")
    columns.grow(3)
    settings = AlertSettings(raise_n=1, raise_m=2)
    rule.evaluate(values([(0, 200)], slot=2), settings, frozen=None)
    mixed = Values(
        np.arange(4), np.array([2, 0, 1, 2], np.int32), np.full(4, 20.0), np.array([0, 200, 50, 200]), np.full(4, LIMIT)
    )
    changes = rule.evaluate(mixed, settings, frozen=None)
    assert [(change.row, change.slot, change.state) for change in changes] == [
        (0, 2, "resolved"),
        (1, 0, "raised"),
        (3, 2, "raised"),
    ]
    assert rule.is_open.values.tolist() == [True, False, True]
    rule.end(2, 4, 20.0, None, LIMIT)
    rule.forget(2)
    (raised,) = rule.evaluate(values([(20, 200)], slot=2), settings, frozen=None)
    assert (raised.state, raised.ordinal) == ("raised", 0)


frames_of_slots = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from([0.0, 0.0, 1.0, 9.0, 10.0]), st.sampled_from([0.0, 90.0, 90.5, 100.0, 150.0])
    ),
    max_size=30,
)


@settings(deadline=None)
@given(
    frames_of_slots,
    st.integers(0, 30),
    st.integers(0, 30),
    st.sampled_from([(1, 1), (2, 3), (3, 3)]),
    st.none() | st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_portions_and_restarts_change_nothing(
    steps: list[tuple[int, float, float]], first: int, second: int, n_of_m: tuple[int, int], lost: list[bool] | None
) -> None:
    """All at once, or in three portions with a restart between each two."""
    frozen = None if lost is None else np.array(lost)
    arrival = np.cumsum([step for _, step, _ in steps])
    columns = Values(
        np.arange(len(steps)),
        np.array([slot for slot, _, _ in steps], np.int32),
        np.asarray(arrival, np.float64),
        np.array([value for _, _, value in steps], np.float64),
        np.full(len(steps), LIMIT),
    )
    alert_settings = AlertSettings(raise_n=n_of_m[0], raise_m=n_of_m[1])
    expected = new_rule(3).evaluate(columns, alert_settings, frozen=frozen)
    found: list[Transition] = []
    rule = new_rule(3)
    edges = [0, *sorted((first, second)), len(steps)]
    for begin, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        part = Values(*(column[begin:end] for column in columns))  # type: ignore[arg-type]
        found += rule.evaluate(part, alert_settings, frozen=frozen)
        kept, rule = rule.snapshot(), new_rule(3)
        rule.restore(kept)
    assert found == expected


@pytest.mark.parametrize(
    ("limit", "value", "resolves"),
    [(0.011, 0.0099, True), (0.011, 0.00990001, False), (0.07, 0.063, True), (150.0, 135.0, True)],
)
def test_the_clear_level_is_rounded(limit: float, value: float, resolves: bool) -> None:
    """0.011 × 0.9 in floats is a little below 0.0099, which is at the level all the same."""
    rule = new_rule(1)
    frames = values([(0.0, 1e6), (20.0, value)])._replace(limit=np.full(2, limit))
    found = rule.evaluate(frames, AlertSettings(), frozen=None)
    assert told(found) == ([(0, RAISED), (1, RECOVERED)] if resolves else [(0, RAISED)])


@pytest.mark.parametrize("began", [1767225600.1, 1767225600.7, 1700000000.123457])
def test_ten_seconds_of_quiet_are_ten_seconds(began: float) -> None:
    """Whatever floats make of the difference of the two times, one by one and together."""
    for frames in ([(began, 200.0), (round(began + 10, 6), 0.0)], [(began, 200.0), (round(began + 9.999999, 6), 0.0)]):
        rule, alone = new_rule(1), new_rule(1)
        found = told(rule.evaluate(values(frames), AlertSettings(), frozen=None))
        assert found == ([(0, RAISED), (1, RECOVERED)] if frames[1][0] == round(began + 10, 6) else [(0, RAISED)])
        one_by_one = [
            alone.evaluate(values([one], first_row=at), AlertSettings(), frozen=None) for at, one in enumerate(frames)
        ]
        assert told([transition for part in one_by_one for transition in part]) == found
