"""Show how values are spread: helps to choose a limit before it is tried out."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flows.web.model import Model
from flows.web.queries import Span
from flows.web.spreads import SCALES

__all__ = ["BINS", "Histogram", "histograms"]

BINS: Final = 50


class Histogram(NamedTuple):
    """The number of minutes of conversations in each bin of a metric; the last bin holds everything above.

    `low` and `width` are those of the bins, in the unit of the limit. `above` is the share of minutes beyond the limit
    that most conversations have (`limit`, None without one), to the width of a fine bin: 1 ms, 0.02 %, 0.01 of MOS.
    `below` says that a limit is a lower one.
    """

    field: str
    name: str
    low: float
    width: float
    counts: list[int]
    limit: float | None
    above: float | None
    below: bool


_NAMES: Final = {
    "max_latency_ms": "Highest p95 latency of a minute",
    "packet_loss_threshold": "Mean packet loss of a minute",
    "mos_below": "Lowest MOS of a minute",
}


def histograms(model: Model, span: Span) -> list[Histogram]:
    """Return a histogram for each metric that was measured in a span."""
    found = []
    for (field, scale), fine in zip(SCALES.items(), model.spreads.between(model.db, span.start, span.end), strict=True):
        total = int(fine.sum())
        if not total:
            continue
        counts = fine.reshape(BINS, -1).sum(axis=1).tolist()
        limit, is_low = _limit(model, field), field == "mos_below"
        above = None
        if limit is not None:
            place = min(max(round((limit - scale.low) / scale.width), 0), scale.bins)
            above = int((fine[:place] if is_low else fine[place:]).sum()) / total
        width = scale.width * scale.bins / BINS
        found.append(Histogram(field, _NAMES[field], scale.low, width, counts, limit, above, is_low))
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
