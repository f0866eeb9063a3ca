"""Sum up each day of a period."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from flows.report.figures import Totals, totals
from flows.report.incidents import Incident, minutes_in_alert
from flows.report.windows import Windows

__all__ = ["Day", "days_of"]

DAY_S: Final = 86_400
MAX_DAYS: Final = 92


class Day(NamedTuple):
    """Hold the figures of a day in UTC, or of its part in the period; `covered` is None if it is not known."""

    start: float
    end: float
    totals: Totals
    incidents: int
    in_alert_min: float
    covered: float | None


def days_of(
    windows: Windows,
    incidents: Sequence[Incident],
    start: float,
    end: float,
    covered: Callable[[float, float], float | None],
) -> list[Day]:
    """Return the days of a period, the newest of them if there are very many; none for a period within one day.

    A window counts by its end, as in the whole period.
    """
    first = int(start // DAY_S) * DAY_S
    edges = [max(start, float(at)) for at in range(first, int(end) + 1, DAY_S) if at < end]
    if len(edges) < 2:
        return []
    found = []
    for begin, stop in list(zip(edges, [*edges[1:], end], strict=True))[-MAX_DAYS:]:
        own = windows.at((windows.end >= begin) & (windows.end < stop))
        raised = sum(begin <= one.raised < stop for one in incidents)
        minutes = minutes_in_alert(incidents, begin, stop)
        found.append(Day(begin, stop, totals(own), raised, minutes, covered(begin, stop)))
    return found
