"""Rank the values of a dimension in this hour, against the same hour a week ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from flows.web.model import Model
from flows.web.queries import now_of

__all__ = ["Ranked", "Ranking", "ranking"]

HOUR_S: Final = 3600
WEEK_S: Final = 7 * 24 * HOUR_S
SHOWN: Final = 10

_THIS_HOUR: Final = """
SELECT value, SUM(windows) AS windows, SUM(breaching) AS breaching FROM cells
WHERE name = ? AND minute >= ? AND minute < ? GROUP BY value
ORDER BY 1.0 * SUM(breaching) / MAX(SUM(windows), 1) DESC, SUM(windows) DESC, value LIMIT ?
"""
# What is no longer kept by minute is kept by hour; an hour may be in both.
_WEEK_AGO: Final = """
SELECT SUM(windows), SUM(breaching) FROM (
  SELECT windows, breaching FROM cells WHERE name = ?1 AND value = ?2 AND minute >= ?3 AND minute < ?3 + 3600
  UNION ALL SELECT windows, breaching FROM hours WHERE name = ?1 AND value = ?2 AND hour = ?3)
"""


class Ranked(NamedTuple):
    """Hold the share of windows in breach of a value, and how many windows there were; None where there were none."""

    value: str
    windows: int
    share: float
    week_ago_windows: int
    week_ago: float | None


class Ranking(NamedTuple):
    """Hold the worst values of an hour that began at `hour`, epoch seconds."""

    hour: int
    rows: list[Ranked]


def ranking(model: Model, name: str, shares: Mapping[tuple[str, str], tuple[int, float]] | None = None) -> Ranking:
    """Return the worst values of a label or of the feeds in the newest hour.

    `shares` has those of a week ago that the model no longer holds, with the number of windows.
    """
    hour = int(now_of(model) // HOUR_S) * HOUR_S
    found = model.db.execute(_THIS_HOUR, (name, hour, hour + HOUR_S, SHOWN)).fetchall()
    rows = []
    for value, windows, breaching in found:
        before, bad = model.db.execute(_WEEK_AGO, (name, value, hour - WEEK_S)).fetchone()
        then = (before, bad / before) if before else (shares or {}).get((name, value), (0, None))
        rows.append(Ranked(value, windows, breaching / windows, *then))
    return Ranking(hour, rows)
