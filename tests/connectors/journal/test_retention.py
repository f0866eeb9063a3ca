"""How long segments are kept: by the time that has passed, whatever the wall clock says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.journal.retention import Retention
from connectors.journal.segments import SNAPSHOTS_BACK, RetentionWatermark, segments
from connectors.state.ages import PLAUSIBLE_GAP_S, FileAges
from tests.support.clocks import FakeClocks

HOUR_S = 3600.0
START = 1_700_000_000.0
CENTURY_S = 100 * 365 * 86_400.0


def retention(directory: Path, clocks: FakeClocks, needed: str = "00000003.jsonl") -> Retention:
    """Three segments, of which a restart needs the last; they are kept for an hour."""
    (directory / "journal").mkdir(exist_ok=True)
    safe = RetentionWatermark()
    for _ in range(SNAPSHOTS_BACK):
        safe.note(needed)
    for number in (1, 2, 3):
        path = directory / "journal" / f"0000000{number}.jsonl"
        if not list(directory.glob("journal-ages.json")):
            path.write_bytes(b'{"received_at":1,"tick":true}\n')
            os.utime(path, (clocks.wall, clocks.wall))
    return Retention(directory / "journal", safe, keep_s=HOUR_S, read_clocks=clocks)


def left(directory: Path) -> list[str]:
    return [path.name.partition(".")[0][-1] for path in segments(directory / "journal")]


def pass_hours(tidying: Retention, clocks: FakeClocks, hours: float) -> None:
    for _ in range(round(hours * 60)):
        clocks.advance(60)
        tidying.tidy()


def test_segments_are_removed_when_their_time_has_passed(tmp_path: Path) -> None:
    """Not before it, and never one that a restart needs or that is being written."""
    clocks = FakeClocks(START)
    tidying = retention(tmp_path, clocks)
    pass_hours(tidying, clocks, 1)
    assert left(tmp_path) == ["1", "2", "3"]
    pass_hours(tidying, clocks, 0.1)
    assert left(tmp_path) == ["3"]
    pass_hours(tidying, clocks, 5)
    assert left(tmp_path) == ["3"]


@pytest.mark.parametrize("by_s", [CENTURY_S, -CENTURY_S / 2, 86_400.0])
def test_a_clock_that_is_set_makes_no_segment_older(tmp_path: Path, by_s: float) -> None:
    """Set to another year in the middle of a run, it neither removes a segment early nor keeps one permanently."""
    clocks = FakeClocks(START)
    tidying = retention(tmp_path, clocks)
    pass_hours(tidying, clocks, 0.5)
    clocks.set_wall(by_s)
    pass_hours(tidying, clocks, 0.4)
    assert left(tmp_path) == ["1", "2", "3"]
    pass_hours(tidying, clocks, 0.2)
    assert left(tmp_path) == ["3"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("gap_s", "expected"),
    [(60.0, ["1", "2", "3"]), (HOUR_S * 1.1, ["3"]), (CENTURY_S, ["1", "2", "3"]), (-CENTURY_S / 2, ["1", "2", "3"])],
)
def test_the_time_between_two_runs_counts_if_it_is_plausible(
    tmp_path: Path, known: bool, gap_s: float, expected: list[str]
) -> None:
    """With the ages of the run before and without them: an hour counts, a century is a clock that is wrong."""
    clocks = FakeClocks(START)
    before = retention(tmp_path, clocks)
    if known:
        before.tidy()
    clocks.set_wall(gap_s)
    retention(tmp_path, clocks).tidy() if known else before.tidy()
    assert left(tmp_path) == expected
    assert gap_s < PLAUSIBLE_GAP_S or expected == ["1", "2", "3"]


def test_ages_that_cannot_be_read_are_counted_anew(tmp_path: Path) -> None:
    """A damaged file is a warning, and the segments' own times count."""
    clocks = FakeClocks(START)
    tidying = retention(tmp_path, clocks)
    ages = tmp_path / "journal-ages.json"
    for damage in (b"", b"[]", b'{"ages":{"x":1},"wall":1}', b"\xff"):
        ages.write_bytes(damage)
        clocks.advance(10)
        files = {path.stem[-1]: path for path in segments(tmp_path / "journal")}
        found = FileAges(ages).update(files, clocks.wall, clocks.monotonic, current="3")
        assert found == {"1": clocks.wall - START, "2": clocks.wall - START, "3": 0.0}
    tidying.tidy()
    assert left(tmp_path) == ["1", "2", "3"]
