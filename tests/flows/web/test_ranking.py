"""The worst values of an hour, against the same hour a week ago, which may no longer be kept by minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.web.ranking import ranking
from flows.web.reader import StateReader
from tests.support.state_dirs import BEGAN, StateDir

# A window of BEGAN + NEXT_HOUR is the first of an hour.
NEXT_HOUR = 3600 - BEGAN % 3600
WEEK = 7 * 86_400


@pytest.mark.parametrize("keep_hours", [24, 167.9, 168, 400])
def test_an_hour_is_compared_with_that_of_a_week_ago(tmp_path: Path, keep_hours: float) -> None:
    """Whether the minutes of a week ago are kept, were rolled up by the hour, or half of each; other hours do not."""
    state = StateDir(tmp_path / "state")
    bad = {"sales": (3, 1), "support": (0, 6), "new": (0, 2)}
    for minute in range(6):
        at = NEXT_HOUR + 600 * minute
        for queue in ("sales", "support"):
            state.window(at, f"old-{queue}", p95=300.0 if minute < bad[queue][0] else 40.0, queue=queue)
    state.window(NEXT_HOUR + 3600, "another hour", p95=300.0, queue="sales")
    reader = StateReader(state.dir, keep_s=keep_hours * 3600)
    reader.read_once()
    state.window(NEXT_HOUR + WEEK - 60, "the hour before", p95=300.0, queue="sales")
    for minute in range(6):
        at = NEXT_HOUR + WEEK + 300 * minute
        for queue, (_, many) in bad.items():
            state.window(at, f"now-{queue}", p95=300.0 if minute < many else 40.0, queue=queue)
    state.record(WEEK + NEXT_HOUR + 1600, tick=True)
    reader.read_once()
    with reader.model.lock:
        found = ranking(reader.model, "queue")
        kept = [row[0] for row in reader.model.db.execute("SELECT DISTINCT hour FROM hours ORDER BY 1")]
    reader.stop()
    assert found.hour == BEGAN + NEXT_HOUR + WEEK
    assert [(row.value, row.windows, row.share) for row in found.rows] == [
        ("support", 6, 1.0),
        ("new", 6, 2 / 6),
        ("sales", 6, 1 / 6),
    ]
    assert [row.week_ago for row in found.rows] == [0.0, None, 0.5]
    assert (kept == []) == (keep_hours == 400)


def test_sums_by_hour_are_forgotten_after_eight_days(tmp_path: Path) -> None:
    """What is older than the oldest hour that can be asked for does not stay in memory."""
    state = StateDir(tmp_path / "state")
    reader = StateReader(state.dir, keep_s=3600.0)
    for day in range(12):
        state.window(day * 86_400, "a", queue="q")
        reader.read_once()
    hours = [row[0] for row in reader.model.db.execute("SELECT DISTINCT hour FROM hours")]
    reader.stop()
    assert (max(hours) - min(hours)) / 86_400 == 8
