"""Clocks that a test moves."""

from __future__ import annotations

from collections.abc import Callable

from connectors.journal.clock import Reading

__all__ = ["FakeClocks", "same_clocks"]


def same_clocks(now: Callable[[], float]) -> Callable[[], Reading]:
    """A wall clock and a monotonic clock that show the same."""

    def read() -> Reading:
        at = now()
        return Reading(at, at)

    return read


class FakeClocks:
    """A wall clock and a monotonic clock: time passes on both, and the wall clock can be set."""

    def __init__(self, wall: float = 1_700_000_000.0, monotonic: float = 500.0) -> None:
        self.wall = wall
        self.monotonic = monotonic

    def __call__(self) -> Reading:
        return Reading(self.wall, self.monotonic)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.monotonic += seconds

    def set_wall(self, by_s: float) -> None:
        """Set the wall clock, as `date -s` does; a suspended machine looks the same."""
        self.wall += by_s
