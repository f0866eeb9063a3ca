"""The course of an incident: its peak, and the values of its conversation from a minute before to a minute after it."""

from __future__ import annotations

from typing import Final, NamedTuple

from flows.web.lines import Window

__all__ = ["Shape", "Tracked", "values_of"]

AFTER_S: Final = 60.0
MAX_POINTS: Final = 120
# Which value of a window each rule looks at.
METRIC: Final = {"LATENCY_THRESHOLD_EXCEEDED": 0, "PACKET_LOSS_DETECTED": 1, "LOW_MOS": 2}


class Shape(NamedTuple):
    """What one window contributes: highest latency (ms), highest loss (ratio), MOS; None where it has none."""

    latency_ms: float | None
    packet_loss: float | None
    mos: float | None


def values_of(window: Window) -> Shape:
    """Return the values of a window that an incident may be about."""
    return Shape(
        None if window.latency_ms is None else window.latency_ms.max,
        None if window.packet_loss is None else window.packet_loss.max,
        None if window.mos is None else window.mos.value,
    )


class Tracked:
    """Follow one incident through the windows of its conversation. `points` are pairs of a window's end and value."""

    __slots__ = ("_index", "_worse", "peak", "points", "raised", "resolved")

    def __init__(self, rule: str, raised: float, value: float | None, before: list[tuple[float, Shape]]) -> None:
        self._index = METRIC[rule]
        self._worse = min if rule == "LOW_MOS" else max
        self.raised = raised
        self.resolved: float | None = None
        self.peak = value
        self.points = [(end, shape[self._index]) for end, shape in before if end > raised - AFTER_S]

    @staticmethod
    def can_follow(rule: str) -> bool:
        """Return whether windows show the value of a rule."""
        return rule in METRIC

    def take(self, start: float, end: float, shape: Shape) -> bool:
        """Take the next window of the conversation. Returns False when the incident needs no more."""
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
        halves = []
        for (_, first), (end, second) in zip(self.points[::2], self.points[1::2], strict=False):
            known = [value for value in (first, second) if value is not None]
            halves.append((end, self._worse(known) if known else None))
        return halves + self.points[len(halves) * 2 :]
