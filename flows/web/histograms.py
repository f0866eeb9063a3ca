"""How values are spread: helps to choose a limit before it is tried out."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flows.web.model import Model
from flows.web.queries import Span

__all__ = ["Histogram", "histograms"]

BINS: Final = 50


class Histogram(NamedTuple):
    """The number of minutes of conversations in each bin of a metric; the last bin holds everything above.

    `low` and `width` are those of the bins, in the unit of the limit. `above` is the share of minutes beyond the limit
    that most conversations have (`limit`, None without one); `below` says that a limit is a lower one.
    """

    field: str
    name: str
    low: float
    width: float
    counts: list[int]
    limit: float | None
    above: float | None
    below: bool


# The field of the form, what is shown, an expression over the table of minutes, the first bin, the width of a bin.
_METRICS: Final = (
    ("max_latency_ms", "Highest p95 latency of a minute", "p95", 0.0, 10.0),
    ("packet_loss_threshold", "Mean packet loss of a minute", "1.0 * loss_sum / NULLIF(loss_count, 0)", 0.0, 0.002),
    ("mos_below", "Lowest MOS of a minute", "mos", 1.0, 0.08),
)


def histograms(model: Model, span: Span) -> list[Histogram]:
    """Return a histogram for each metric that was measured in a span."""
    found = []
    for field, name, value, low, width in _METRICS:
        rows = model.db.execute(
            f"SELECT MAX(MIN(CAST(({value} - ?) / ? AS INTEGER), ?), 0), COUNT(*) FROM minutes"  # noqa: S608 - texts of ours
            f" WHERE minute >= ? AND minute < ? AND {value} IS NOT NULL GROUP BY 1",
            (low, width, BINS - 1, span.start, span.end),
        ).fetchall()
        if not rows:
            continue
        counts = [0] * BINS
        for place, count in rows:
            counts[place] = count
        limit, is_low = _limit(model, field), field == "mos_below"
        above = None if limit is None else _share(model, span, value, limit, "<" if is_low else ">")
        found.append(Histogram(field, name, low, width, counts, limit, above, is_low))
    return found


def _limit(model: Model, field: str) -> float | None:
    """Return the limit that most conversations have."""
    if field == "mos_below":
        limit: Any = model.settings.get("alerts", {}).get("mos_below")
        return None if limit is None else float(limit)
    row = model.db.execute(
        f"SELECT {field} FROM conversations WHERE {field} IS NOT NULL GROUP BY 1 ORDER BY COUNT(*) DESC, 1 LIMIT 1"  # noqa: S608 - texts of ours
    ).fetchone()
    return None if row is None else float(row[0])


def _share(model: Model, span: Span, value: str, limit: float, sign: str) -> float:
    row = model.db.execute(
        f"SELECT AVG({value} {sign} ?) FROM minutes WHERE minute >= ? AND minute < ? AND {value} IS NOT NULL",  # noqa: S608 - texts of ours
        (limit, span.start, span.end),
    ).fetchone()
    return float(row[0])
