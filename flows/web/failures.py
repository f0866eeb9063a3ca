"""Count the calls that failed as a heat map: the codes of the errors by a label, such as the agent."""

from __future__ import annotations

from typing import Any, Final

from flows.web.model import Model
from flows.web.queries import Span

__all__ = ["LABELS", "failures"]

LABELS: Final = ("agent", "queue", "edge", "provider", "region")
"""The labels by which failures can be looked at; the first is shown at first."""
WITHOUT: Final = "without a code"
SHOWN_CODES: Final = 50
SHOWN_VALUES: Final = 20
# The smallest count of each colour but the lightest, which is for a single failure.
LEVELS: Final = (2, 4, 8)
_OF_SPAN: Final = " FROM incidents WHERE rule = 'CALL_FAILED' AND raised >= ? AND raised < ?"


def failures(model: Model, span: Span, by: str) -> dict[str, Any]:
    """Return the failed calls of a span: a row for each code, a column for each value of the label `by`.

    The codes and the values of most failures come first; `codes_total` and `values_total` are how many there are.
    Failures without that label are in the sums of their row only. A failure without a code counts under its
    disconnect type.
    """
    times = (span.start, span.end)
    path = f'$."{by}"'
    (total,) = model.db.execute(f"SELECT COUNT(*){_OF_SPAN}", times).fetchone()
    codes = model.db.execute(
        f"SELECT IFNULL(code, ?) AS code, COUNT(*) AS count, COUNT(DISTINCT conversation) AS conversations{_OF_SPAN}"
        " GROUP BY 1 ORDER BY count DESC, code",
        (WITHOUT, *times),
    ).fetchall()
    values = model.db.execute(
        f"SELECT json_extract(labels, ?) AS shown, COUNT(*) AS count{_OF_SPAN}"
        " AND shown IS NOT NULL GROUP BY shown ORDER BY count DESC, shown",
        (path, *times),
    ).fetchall()
    counts = model.db.execute(
        f"SELECT IFNULL(code, ?) AS code, json_extract(labels, ?) AS shown, COUNT(*) AS count{_OF_SPAN} GROUP BY 1, 2",
        (WITHOUT, path, *times),
    )
    cells = {(row["code"], row["shown"]): row["count"] for row in counts}
    columns = [row["shown"] for row in values[:SHOWN_VALUES]]
    return {
        "by": by,
        "total": total,
        "columns": columns,
        "rows": [
            {
                "code": row["code"],
                "count": row["count"],
                "conversations": row["conversations"],
                "cells": [_cell(value, cells.get((row["code"], value), 0)) for value in columns],
            }
            for row in codes[:SHOWN_CODES]
        ],
        "codes_total": len(codes),
        "values_total": len(values),
    }


def _cell(value: str, count: int) -> dict[str, Any]:
    level = 1 + sum(count >= least for least in LEVELS) if count else None
    return {"value": value, "count": count, "level": level}
