"""The heat map of the fleet: a row for each value of a dimension, a column for each minute or few minutes."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from flows.web.model import Model
from flows.web.queries import PAGE, Gap, Span, gaps_of

__all__ = ["METRICS", "Cell", "HeatMap", "Row", "heat_map", "level_of"]

# The lower ends of the levels 1 to 4; those of MOS are upper ends.
METRICS: Final = {
    "breach": ("share of windows in breach", (1e-9, 0.02, 0.05, 0.10)),
    "latency": ("highest p95 latency", (100.0, 150.0, 200.0, 300.0)),
    "loss": ("mean packet loss", (0.005, 0.01, 0.02, 0.05)),
    "mos": ("lowest MOS", (4.0, 3.6, 3.1, 2.6)),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a dimension in one column of time. `level` is 0 to 4, None where nothing was heard."""

    start: int
    windows: int
    breaching: int
    conversations: int
    value: float | None
    level: int | None
    gap_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One value of a dimension: its cells, and the figures of the whole span."""

    value: str
    cells: list[Cell]
    windows: int
    breaching: int
    minutes: int
    p95: float | None
    loss: float | None
    mos: float | None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Rows by minutes in breach, worst first; `total` rows exist."""

    columns: list[int]
    rows: list[Row]
    total: int


_CELLS: Final = """
SELECT value, minute, windows, breaching, conversations, p95, loss_sum, loss_count, mos FROM cells
WHERE name = :name AND minute >= :start AND minute < :end
"""
_OF_CONVERSATIONS: Final = """
SELECT id AS value, minute, m.windows, m.breaching, 1 AS conversations, m.p95, loss_sum, loss_count, m.mos
FROM minutes AS m JOIN conversations USING (n) WHERE minute >= :start AND minute < :end AND n IN (
  SELECT n FROM minutes WHERE minute >= :start AND minute < :end GROUP BY n
  ORDER BY SUM(breaching > 0) DESC, SUM(breaching) DESC, MAX(p95) DESC LIMIT :limit OFFSET :offset)
"""


def heat_map(model: Model, span: Span, name: str, metric: str, page: int) -> HeatMap:
    """Return the heat map of a dimension."""
    columns = list(
        range(int(span.start // span.step) * span.step, int(-(-span.end // span.step) * span.step), span.step)
    )
    place = {"name": name, "start": columns[0], "end": columns[-1] + span.step}
    found: dict[str, list[sqlite3.Row]] = defaultdict(list)
    paged = name == "conversation"
    query = _OF_CONVERSATIONS if paged else _CELLS
    for row in model.db.execute(query, place | {"limit": PAGE, "offset": page * PAGE}):
        found[row["value"]].append(row)
    gaps = gaps_of(model)
    feeds = {gap.feed for gap in gaps} | {row[0] for row in model.db.execute("SELECT DISTINCT name FROM feeds")}
    silent = {start: _silence(gaps, len(feeds), start, start + span.step) for start in columns}
    rows = [_row(value, own, columns, span.step, metric, silent) for value, own in found.items()]
    rows.sort(key=lambda row: (-row.minutes, -row.breaching / max(row.windows, 1), row.value))
    total = len(rows)
    if paged:
        (total,) = model.db.execute(
            "SELECT COUNT(DISTINCT n) FROM minutes WHERE minute >= :start AND minute < :end", place
        ).fetchone()
    return HeatMap(columns, rows if paged else rows[page * PAGE : (page + 1) * PAGE], total)


def level_of(metric: str, value: float | None) -> int | None:
    """Return how bad a value is, from 0 to 4.

    >>> [level_of("breach", share) for share in (0.0, 0.01, 0.02, 0.5, None)]
    [0, 1, 2, 4, None]
    >>> [level_of("mos", mos) for mos in (4.4, 3.9, 3.5, 3.0, 2.0)]
    [0, 1, 2, 3, 4]
    """
    if value is None:
        return None
    ends = METRICS[metric][1]
    return sum(value < end for end in ends) if metric == "mos" else sum(value >= end for end in ends)


def _silence(gaps: list[Gap], feeds: int, start: float, end: float) -> float:
    """Return for how many seconds of a column no feed was connected."""
    by_feed: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for gap in gaps:
        left, right = max(gap.start, start), min(gap.end or end, end)
        if right > left:
            by_feed[gap.feed].append((left, right))
    if not feeds or len(by_feed) < feeds:
        return 0.0
    edges = sorted({edge for spans in by_feed.values() for one in spans for edge in one})
    return sum(
        right - left
        for left, right in pairwise(edges)
        if all(any(a <= left and right <= b for a, b in spans) for spans in by_feed.values())
    )


def _row(
    value: str, own: list[sqlite3.Row], columns: list[int], step: int, metric: str, silent: dict[int, float]
) -> Row:
    by_column: dict[int, list[sqlite3.Row]] = defaultdict(list)
    for row in own:
        by_column[row["minute"] // step * step].append(row)
    cells = [_cell(start, by_column.get(start, []), metric, silent[start]) for start in columns]
    whole = _figures(own)
    minutes = sum(row["breaching"] > 0 for row in own)
    return Row(
        value, cells, whole["windows"], whole["breaching"], minutes, whole["latency"], whole["loss"], whole["mos"]
    )


def _cell(start: int, own: list[sqlite3.Row], metric: str, gap_s: float) -> Cell:
    sums = _figures(own)
    conversations = max((row["conversations"] for row in own), default=0)
    value = sums[metric] if own else None
    return Cell(start, sums["windows"], sums["breaching"], conversations, value, level_of(metric, value), gap_s)


def _figures(rows: list[sqlite3.Row]) -> dict[str, Any]:
    windows, breaching = sum(r["windows"] for r in rows), sum(r["breaching"] for r in rows)
    losses = sum(r["loss_count"] for r in rows)
    return {
        "windows": windows,
        "breaching": breaching,
        "breach": breaching / windows if windows else None,
        "latency": max((r["p95"] for r in rows if r["p95"] is not None), default=None),
        "loss": sum(r["loss_sum"] for r in rows) / losses if losses else None,
        "mos": min((r["mos"] for r in rows if r["mos"] is not None), default=None),
    }
