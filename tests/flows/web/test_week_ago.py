"""The comparison with the same hour a week ago: from the results of that day, absent without them."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.state import StateLayout
from flows.web import week_ago
from flows.web.ranking import ranking
from flows.web.reader import StateReader
from flows.web.week_ago import HOUR_S, WEEK_S, WeekAgo
from tests.support.callbacks import eventually
from tests.support.state_dirs import BEGAN, StateDir

HOUR = int(BEGAN // HOUR_S) * HOUR_S - BEGAN
WAIT_S = 15.0


def ranked(state: StateDir) -> list[tuple[str, float, int, float | None]]:
    reader = StateReader(state.dir, keep_s=86_400.0)
    reader.read_once()
    one = WeekAgo(StateLayout(state.dir))
    with reader.model.lock:
        one.shares(reader.model)
        eventually(lambda: one.is_read, WAIT_S)
        found = ranking(reader.model, "queue", one.shares(reader.model))
    reader.stop()
    return [(row.value, row.share, row.week_ago_windows, row.week_ago) for row in found.rows if row.share]


def rename(state: StateDir) -> None:
    """Give the results of a week ago the names of their day."""
    for kind in ("windows", "alerts"):
        day = datetime.fromtimestamp(BEGAN + HOUR - WEEK_S, UTC)
        (state.dir / f"{kind}.jsonl").rename(state.dir / f"{kind}-{day:%Y-%m-%d}.jsonl")


@pytest.fixture(params=["days", "one file"])
def state(tmp_path: Path, request: pytest.FixtureRequest) -> StateDir:
    """Sales is worse than a week ago, Support as bad as then, Claims is new, Billing had its troubles before."""
    made = StateDir(tmp_path / "state")
    then = HOUR - WEEK_S
    made.alert(then + 10, "lenient", "raised", 1, threshold=500.0)
    made.window(then - 10, "x", p95=300.0, queue="Billing")
    for number in range(10):
        made.window(then + 60 * number, "a", p95=300.0 if number < 1 else 50.0, queue="Sales")
        made.window(then + 60 * number, "b", p95=300.0 if number < 5 else 50.0, queue="Support")
        made.window(then + 60 * number, "lenient", p95=400.0, queue="Sales")
    made.window(then + HOUR_S, "x", p95=300.0, queue="Sales")
    if request.param == "days":
        rename(made)
    for number in range(4):
        made.window(HOUR + 60 * number, "c", p95=300.0 if number < 3 else 50.0, queue="Sales")
        made.window(HOUR + 60 * number, "d", p95=300.0 if number < 2 else 50.0, queue="Support")
        made.window(HOUR + 60 * number, "e", p95=300.0 if number < 1 else 50.0, queue="Claims")
        made.window(HOUR + 60 * number, "f", queue="Billing")
    return made


EXPECTED = [("Sales", 0.75, 20, 1 / 20), ("Support", 0.5, 10, 0.5), ("Claims", 0.25, 0, None)]


def test_the_worst_of_this_hour_are_compared(state: StateDir) -> None:
    """With the share of the same hour a week ago under the limits of then; the hours beside do not count."""
    assert ranked(state) == EXPECTED


@pytest.mark.parametrize("state", ["days"], indirect=True)
def test_a_compressed_day_gives_the_same(state: StateDir) -> None:
    """The day may have been packed since."""
    for path in state.dir.glob("*-20*.jsonl"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert ranked(state) == EXPECTED


@pytest.mark.parametrize("state", ["days"], indirect=True)
def test_a_large_hour_is_sampled(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are whole in each piece, and counted once where nothing is left out."""
    monkeypatch.setattr(week_ago, "PIECE_BYTES", 500)
    assert ranked(state) == EXPECTED
    monkeypatch.setattr(week_ago, "MAX_BYTES", 70_000)
    assert [row[:2] for row in ranked(state)] == [row[:2] for row in EXPECTED]
    assert 0 < sum(row[2] for row in ranked(state)) < 30


@pytest.mark.parametrize("state", ["days"], indirect=True)
def test_without_results_of_then_there_is_no_comparison(tmp_path: Path, state: StateDir) -> None:
    """Neither in the first week nor when the day was damaged."""
    fresh = StateDir(tmp_path / "fresh")
    fresh.window(0, "a", p95=300.0, queue="Sales")
    assert ranked(fresh) == [("Sales", 1.0, 0, None)]
    (windows,) = state.dir.glob("windows-20*.jsonl")
    packed = gzip.compress(windows.read_bytes())
    windows.unlink()
    for damaged in (b"no gzip", packed[:-20], packed[:10] + b"\xff" + packed[11:]):
        windows.with_name(windows.name + ".gz").write_bytes(damaged)
        assert [row[3] for row in ranked(state)] == [None, None, None]
