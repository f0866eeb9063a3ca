"""The time of a journal: with the monotonic clock, towards the wall clock, and by a record where that is set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.format.decode import decode_block
from connectors.journal.clock import AGREE_S, SLEW_S_PER_S, STEP_S, JournalClock, read_clocks
from connectors.journal.recording import Recording
from connectors.journal.segments import segments
from connectors.journal.writer import BEHIND, SET_BACK, SET_FORWARD, Journal
from tests.support.clocks import FakeClocks

START = 1_700_000_000.0
FRAME = b'{"event":"conversation.updated","entity":{"id":"c"},"timestamp":%r}'


def journal_in(directory: Path, clocks: FakeClocks, steps: list[tuple[float, str]] | None = None) -> Journal:
    noted = [] if steps is None else steps
    return Journal(directory, settings={}, read_clocks=clocks, on_step=lambda *step: noted.append(step))


def written(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for path in segments(directory) for line in path.read_bytes().splitlines()]


def test_while_both_clocks_agree_the_time_is_that_of_the_wall() -> None:
    """Also where they drift apart slowly, as under NTP."""
    clocks = FakeClocks()
    clock = JournalClock(clocks())
    for n in range(1000):
        clocks.advance(1.0)
        clocks.set_wall(0.0005 if n < 500 else -0.0005)
        moment = clock.at(clocks())
        assert moment.received_at == pytest.approx(clocks.wall, abs=AGREE_S)
        assert (moment.arrived_at, moment.step_s) == (None, 0.0)


@pytest.mark.parametrize("by_s", [0.4, -0.4, 0.99, -0.99])
def test_a_small_difference_is_slewed(by_s: float) -> None:
    """The time approaches the wall clock by 5 ms in a second, never goes back, and arrivals are those of the wall."""
    clocks = FakeClocks()
    clock = JournalClock(clocks())
    clocks.set_wall(by_s)
    before = START
    for second in range(1, 300):
        clocks.advance(1.0)
        moment = clock.at(clocks())
        assert moment.step_s == 0.0
        expected = max(abs(by_s) - SLEW_S_PER_S * second, 0.0)
        assert abs(moment.received_at - clocks.wall) == pytest.approx(expected, abs=AGREE_S)
        assert moment.received_at > before
        assert moment.arrived_at in (clocks.wall, None)
        before = moment.received_at
    assert moment == (clocks.wall, None, 0.0)


@pytest.mark.parametrize("by_s", [3600.0, -3600.0, 1.5, -1.5, 2e9])
def test_a_large_difference_is_a_step(by_s: float) -> None:
    """The time goes on from the wall clock at once, whichever way that was set."""
    clocks = FakeClocks()
    clock = JournalClock(clocks())
    clocks.advance(0.25)
    clocks.set_wall(by_s)
    assert clock.at(clocks()) == (clocks.wall, None, by_s)
    clocks.advance(0.25)
    assert clock.at(clocks()) == (clocks.wall, None, 0.0)


def test_a_late_reading_steps_nothing() -> None:
    """A thread that read the clocks before they were set, and waited, is not taken for a step back."""
    clocks = FakeClocks()
    clock = JournalClock(clocks())
    clocks.advance(1.0)
    late = clocks()
    clocks.advance(0.1)
    clocks.set_wall(100.0)
    assert clock.at(clocks()).step_s == 100.0
    assert clock.at(late) == (START + 101.1, START + 1.0, 0.0)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1e-5, 0.001, 0.25, 1.0, 30.0]),
            st.sampled_from([0.0, 0.0, 0.0, 1e-4, 0.3, -0.3, 0.9, -0.9, 5.0, -5.0, 7200.0, -7200.0]),
            st.sampled_from([0.0, 1e-5, 0.2]),
        ),
        max_size=40,
    )
)
def test_time_goes_back_only_by_a_step(changes: list[tuple[float, float, float]]) -> None:
    """However the clocks are moved: never more than a second from the wall clock, and the arrival is that clock's."""
    clocks = FakeClocks()
    clock = JournalClock(clocks())
    before = -math.inf
    for passes_s, set_s, ago_s in changes:
        clocks.advance(passes_s)
        clocks.set_wall(set_s)
        wall = clocks.wall - ago_s
        moment = clock.at(clocks(), wall=wall)
        assert moment.received_at >= before or moment.step_s < 0
        assert abs(moment.received_at - clocks.wall) <= STEP_S + 0.2 + 1e-6
        arrived_at = moment.received_at if moment.arrived_at is None else moment.arrived_at
        assert arrived_at == pytest.approx(wall, abs=AGREE_S)
        before = moment.received_at


def test_the_clocks_of_this_machine_are_read_together() -> None:
    """Two readings are as far apart on one as on the other."""
    first, second = read_clocks(), read_clocks()
    assert second.monotonic >= first.monotonic
    assert second.wall - first.wall == pytest.approx(second.monotonic - first.monotonic, abs=0.01)


@pytest.mark.parametrize(("by_s", "reason"), [(3600.0, SET_FORWARD), (-3600.0, SET_BACK)])
def test_a_step_is_a_record_before_the_one_that_found_it(tmp_path: Path, by_s: float, reason: str) -> None:
    """It is reported and counted; records go on at the new time, and a segment's age is the time that has passed."""
    clocks = FakeClocks(START)
    steps: list[tuple[float, str]] = []
    journal = journal_in(tmp_path, clocks, steps)
    journal.frame(FRAME % START)
    clocks.advance(0.5)
    clocks.set_wall(by_s)
    journal.frame(FRAME % clocks.wall)
    clocks.advance(1.0)
    journal.tick()
    journal.close()
    now = START + 0.5 + by_s
    assert written(tmp_path)[1:] == [
        {"received_at": START, "frame": orjson.loads(FRAME % START)},
        {"received_at": now, "clock": {"step_s": by_s, "reason": reason}},
        {"received_at": now, "frame": orjson.loads(FRAME % now)},
        {"received_at": now + 1, "tick": True},
    ]
    assert steps == [(by_s, reason)]
    assert journal.clock_steps == 1
    assert len(segments(tmp_path)) == 1


def test_while_it_slews_latency_is_that_of_the_wall_clock(tmp_path: Path) -> None:
    """The arrival by the wall clock stands beside the journal's time, and is what the decoder measures with."""
    clocks = FakeClocks(START)
    journal = journal_in(tmp_path, clocks)
    clocks.set_wall(-0.5)
    for _ in range(3):
        clocks.advance(1.0)
        journal.frames([FRAME % (clocks.wall - 0.125)] * 2, via="a")
    journal.close()
    lines = written(tmp_path)[1:]
    assert [line["arrived_at"] for line in lines] == [START + at - 0.5 for at in (1, 1, 2, 2, 3, 3)]
    assert [line["received_at"] for line in lines] == pytest.approx([START + at * 0.995 for at in (1, 1, 2, 2, 3, 3)])
    decoded = decode_block(segments(tmp_path)[0].read_bytes())
    assert decoded.latency_us.tolist() == [125_000.0] * 6
    assert decoded.arrival.tolist() == [line["received_at"] for line in lines]


@pytest.mark.parametrize("crashed", [False, True])
def test_a_restart_behind_the_last_record_steps_back(tmp_path: Path, crashed: bool) -> None:
    """The next segment begins at the time of the last record and then steps; the one after it goes on from there."""
    clocks = FakeClocks(START)
    steps: list[tuple[float, str]] = []
    journal = journal_in(tmp_path, clocks)
    journal.feed("voice-events", "up", "connected")
    if not crashed:
        journal.feed("voice-events", "down", "stopped")
    journal.close()
    clocks.set_wall(-7200.0)
    journal = journal_in(tmp_path, clocks, steps)
    clocks.advance(1.0)
    journal.tick()
    journal.close()
    records = [(record["received_at"] - START, *(set(record) - {"received_at"})) for record in written(tmp_path)]
    assert records[-4:] == [(0.0, "settings"), (0.0, "feed"), (-7200.0, "clock"), (-7199.0, "tick")]
    assert steps == [(-7200.0, BEHIND)]
    clocks.advance(1.0)
    journal = journal_in(tmp_path, clocks, steps)
    journal.tick()
    journal.close()
    assert written(tmp_path)[-1] == {"received_at": START - 7198, "tick": True}
    assert len(steps) == 1


def test_a_restart_later_is_no_step(tmp_path: Path) -> None:
    """Time passed while nothing ran."""
    clocks = FakeClocks(START)
    steps: list[tuple[float, str]] = []
    journal_in(tmp_path, clocks).close()
    clocks.advance(90_000.0)
    journal = journal_in(tmp_path, clocks, steps)
    journal.tick()
    journal.close()
    assert not steps
    assert written(tmp_path)[-1]["received_at"] == START + 90_000


def test_segments_are_in_the_order_of_their_numbers_where_the_clock_was_set_back(tmp_path: Path) -> None:
    """Their times overlap then, which refuses files of any other names."""
    clocks = FakeClocks(START)
    for _ in range(3):
        journal = journal_in(tmp_path, clocks)
        clocks.advance(100.0)
        clocks.set_wall(-150.0)
        journal.tick()
        clocks.advance(10.0)
        journal.tick()
        journal.close()
    paths = segments(tmp_path)
    assert Recording(paths[::-1]).paths == paths
