"""Count how the values of a minute are spread, once for each minute: an hour of a large fleet is summed up fast."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["SCALES", "Scale", "Spreads"]

# A minute is counted when no more windows of it are expected; until then its rows are read for each view.
SETTLED_S: Final = 120
Counts = np.ndarray[Any, np.dtype[np.int64]]


class Scale(NamedTuple):
    """Say where the fine bins of a metric begin, how wide they are, and how many there are."""

    value: str
    low: float
    width: float
    bins: int


# The value is an expression over the table of minutes.
SCALES: Final = {
    "max_latency_ms": Scale("p95", 0.0, 1.0, 500),
    "packet_loss_threshold": Scale("1.0 * loss_sum / NULLIF(loss_count, 0)", 0.0, 0.0002, 500),
    "mos_below": Scale("mos", 1.0, 0.01, 400),
}
_ROWS: Final = f"SELECT {', '.join(scale.value for scale in SCALES.values())} FROM minutes WHERE minute = ?"  # noqa: S608 - texts of ours


class Spreads:
    """Hold for each settled minute how many conversations had a value in each fine bin of each metric.

    The last fine bin holds everything above.
    """

    def __init__(self) -> None:
        self._of: dict[int, list[Counts]] = {}
        self._open: set[int] = set()

    def changed(self, minutes: Iterable[int]) -> None:
        """Take that rows of these minutes have changed."""
        for minute in minutes:
            self._of.pop(minute, None)
            self._open.add(minute)

    def fill(self, db: sqlite3.Connection, newest: float) -> None:
        """Count the minutes that are settled by a time, and forget those that are no longer kept."""
        for minute in sorted(self._open):
            if minute + SETTLED_S > newest:
                break
            self._of[minute] = _counted(db, minute)
            self._open.discard(minute)
        (oldest,) = db.execute("SELECT MIN(minute) FROM minutes").fetchone()
        if oldest is not None:
            for minute in [one for one in self._of if one < oldest]:
                del self._of[minute]

    def between(self, db: sqlite3.Connection, start: float, end: float) -> list[Counts]:
        """Return the counts of the minutes that begin between two times, for each of SCALES."""
        minutes = [one for one in (*self._of, *self._open) if start <= one < end]
        found = [self._of.get(minute) or _counted(db, minute) for minute in minutes]
        return [
            np.sum([counts[place] for counts in found] or [np.zeros(scale.bins, np.int64)], axis=0, dtype=np.int64)
            for place, scale in enumerate(SCALES.values())
        ]


def _counted(db: sqlite3.Connection, minute: int) -> list[Counts]:
    cursor = db.cursor()
    cursor.row_factory = None  # tuples become an array faster
    rows = np.array(cursor.execute(_ROWS, (minute,)).fetchall() or np.empty((0, len(SCALES))), dtype=np.float64)
    found = []
    for scale, values in zip(SCALES.values(), rows.T, strict=True):
        known = values[~np.isnan(values)]
        # Rounded, so that a value on the edge of a bin is not in the one before.
        places = np.floor(np.round((known - scale.low) / scale.width, 6)).clip(0, scale.bins - 1).astype(np.int64)
        found.append(np.bincount(places, minlength=scale.bins))
    return found
