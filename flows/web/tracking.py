"""Follow the course of an incident: its peak, and the values from a minute before to a minute after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from flows.web.lines import Window

__all__ = ["Shape", "Tracked", "values_of"]

AFTER_S: Final = 60.0
MAX_POINTS: Final = 120
# Which value of a window each rule looks at.
METRIC: Final = {"LATENCY_THRESHOLD_EXCEEDED": 1, "PACKET_LOSS_DETECTED": 2, "LOW_MOS": 3}


# The end of a window, its highest latency (ms), highest loss (ratio) and MOS, None where it has none. A plain tuple, as
# the garbage collector does not look at tuples of numbers again: there are twelve for each conversation.
Shape = tuple[float, float | None, float | None, float | None]


def values_of(window: Window) -> Shape:
    """Return the values of a window that an incident may be about."""
    return (
        window.end,
        None if window.latency_ms is None else window.latency_ms.max,
        None if window.packet_loss is None else window.packet_loss.max,
        None if window.mos is None else window.mos.value,
    )


class Tracked:
    """Follow one incident through the windows of its conversation. `points` are pairs of a window's end and value."""

    __slots__ = ("_index", "_worse", "peak", "points", "raised", "resolved")

    def __init__(self, rule: str, raised: float, value: float | None, before: Iterable[Shape]) -> None:
        self._index = METRIC[rule]
        self._worse = min if rule == "LOW_MOS" else max
        self.raised = raised
        self.resolved: float | None = None
        self.peak = value
        begin = raised - AFTER_S
        self.points: list[tuple[float, float | None]] = [
            (shape[0], shape[self._index]) for shape in before if shape[0] > begin
        ]

    @staticmethod
    def can_follow(rule: str) -> bool:
        """Return whether windows show the value of a rule."""
        return rule in METRIC

    def take(self, start: float, shape: Shape) -> bool:
        """Take the next window of the conversation. Returns False when the incident needs no more."""
        end = shape[0]
        if self.resolved is not None and end > self.resolved + AFTER_S:
            return False
        value = shape[self._index]
        self.points.append((end, value))
        overlaps = end > self.raised and (self.resolved is None or start < self.resolved)
        if overlaps and value is not None:
            self.peak = value if self.peak is None else self._worse(self.peak, value)
        if len(self.points) > MAX_POINTS:
            self.points = self._thinned()
        return True

    def _thinned(self) -> list[tuple[float, float | None]]:
        """Return half the points: the worse value of each two, at the later end."""
        halves: list[tuple[float, float | None]] = []
        for (_, first), (end, second) in zip(self.points[::2], self.points[1::2], strict=False):
            known = [value for value in (first, second) if value is not None]
            halves.append((end, self._worse(known) if known else None))
        return halves + self.points[len(halves) * 2 :]
