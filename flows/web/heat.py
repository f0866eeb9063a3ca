"""Make the heat map of the fleet: a row for each value of a dimension, a column for each minute or few minutes."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import orjson

from flows.web.model import MINUTE_S, Model
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
    """Hold one value of a dimension in one column of time. `level` is 0 to 4, None where nothing was received."""

    start: int
    windows: int
    breaching: int
    conversations: int
    value: float | None
    level: int | None
    gap_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one value of a dimension: its cells, the figures of the whole span, and its share in the span before."""

    value: str
    cells: list[Cell]
    windows: int
    breaching: int
    minutes: int
    p95: float | None
    loss: float | None
    mos: float | None
    before: float | None


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Hold rows by minutes in breach, worst first; `total` rows exist.

    `cut_s` is how much of its beginning is empty because a large fleet has too many values to keep all.
    """

    columns: list[int]
    rows: list[Row]
    total: int
    cut_s: float


# Both return the page's values in the order of its rows; what is summed up over many rows is summed up by SQLite.
_RANKED: Final = """
SELECT value AS key, value, COUNT(*) OVER () AS total FROM cells
WHERE name = :name AND minute >= :start AND minute < :end GROUP BY value
ORDER BY SUM(breaching > 0) DESC, 1.0 * SUM(breaching) / MAX(SUM(windows), 1) DESC, value LIMIT :limit OFFSET :offset
"""
# A conversation is ranked by its whole length, which is kept up to date: its minutes may be millions of rows.
_RANKED_CONVERSATIONS: Final = """
SELECT n AS key, id AS value, COUNT(*) OVER () AS total FROM conversations WHERE last >= :start AND first < :end
ORDER BY breaching DESC, 1.0 * breaching / MAX(windows, 1) DESC, p95 DESC, id LIMIT :limit OFFSET :offset
"""
_SUMS: Final = """
minute / :step * :step AS start, SUM(windows) AS windows, SUM(breaching) AS breaching, SUM(breaching > 0) AS minutes,
MAX(p95) AS p95, SUM(loss_sum) AS loss_sum, SUM(loss_count) AS loss_count, MIN(mos) AS mos
"""
_CELLS: Final = f"""
SELECT value AS key, MAX(conversations) AS conversations, {_SUMS} FROM cells WHERE name = :name
AND minute IN (SELECT value FROM json_each(:minutes)) AND value IN (SELECT value FROM json_each(:keys))
GROUP BY key, start
"""  # noqa: S608 - texts of ours
_CELLS_OF_CONVERSATIONS: Final = f"""
SELECT n AS key, 1 AS conversations, {_SUMS} FROM minutes
WHERE minute IN (SELECT value FROM json_each(:minutes)) AND n IN (SELECT value FROM json_each(:keys))
GROUP BY key, start
"""  # noqa: S608 - texts of ours
_BEFORE: Final = """
SELECT value AS key, 1.0 * SUM(breaching) / SUM(windows) AS share FROM cells WHERE name = :name
AND minute IN (SELECT value FROM json_each(:minutes)) AND value IN (SELECT value FROM json_each(:keys)) GROUP BY key
"""


def heat_map(model: Model, span: Span, name: str, metric: str, page: int) -> HeatMap:
    """Return the heat map of a dimension."""
    begin, end = int(span.start // span.step) * span.step, int(-(-span.end // span.step) * span.step)
    columns = list(range(begin, end, span.step))
    of_conversations = name == "conversation"
    place = {"name": name, "start": begin, "end": end, "limit": PAGE, "offset": page * PAGE}
    ranked = model.db.execute(_RANKED_CONVERSATIONS if of_conversations else _RANKED, place).fetchall()
    keys = orjson.dumps([row["key"] for row in ranked]).decode()
    wanted = {"name": name, "keys": keys, "step": span.step, "minutes": _minutes(begin, end)}
    found: dict[Any, dict[int, sqlite3.Row]] = defaultdict(dict)
    for row in model.db.execute(_CELLS_OF_CONVERSATIONS if of_conversations else _CELLS, wanted):
        found[row["key"]][row["start"]] = row
    before: dict[str, float] = {}
    if not of_conversations:
        earlier = wanted | {"minutes": _minutes(2 * begin - end, begin)}
        before = {row["key"]: row["share"] for row in model.db.execute(_BEFORE, earlier)}
    gaps = gaps_of(model)
    feeds = {gap.feed for gap in gaps} | {row[0] for row in model.db.execute("SELECT DISTINCT name FROM feeds")}
    silent = {start: _silence(gaps, len(feeds), start, start + span.step) for start in columns}
    rows = [_row(row["value"], found[row["key"]], columns, metric, silent, before.get(row["key"])) for row in ranked]
    cut = model.cut.get("" if of_conversations else name, 0.0)
    return HeatMap(
        columns, rows, _total(model, ranked, place, of_conversations=of_conversations), max(cut - begin, 0.0)
    )


def _total(model: Model, ranked: list[sqlite3.Row], place: dict[str, Any], *, of_conversations: bool) -> int:
    """Return how many rows exist; a page after the last one does not say it."""
    if ranked:
        return int(ranked[0]["total"])
    (total,) = model.db.execute(
        "SELECT COUNT(*) FROM conversations WHERE last >= :start AND first < :end"
        if of_conversations
        else "SELECT COUNT(DISTINCT value) FROM cells WHERE name = :name AND minute >= :start AND minute < :end",
        place,
    ).fetchone()
    return int(total)


def _minutes(begin: int, end: int) -> str:
    return orjson.dumps(list(range(begin, end, MINUTE_S))).decode()


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
    value: str,
    own: dict[int, sqlite3.Row],
    columns: list[int],
    metric: str,
    silent: dict[int, float],
    before: float | None,
) -> Row:
    cells = [_cell(start, own.get(start), metric, silent[start]) for start in columns]
    rows = list(own.values())
    whole = _figures(rows)
    minutes = sum(row["minutes"] for row in rows)
    figures = (whole["latency"], whole["loss"], whole["mos"])
    return Row(value, cells, whole["windows"], whole["breaching"], minutes, *figures, before)


def _cell(start: int, own: sqlite3.Row | None, metric: str, gap_s: float) -> Cell:
    if own is None:
        return Cell(start, 0, 0, 0, None, None, gap_s)
    sums = _figures([own])
    value = sums[metric]
    return Cell(start, sums["windows"], sums["breaching"], own["conversations"], value, level_of(metric, value), gap_s)


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
