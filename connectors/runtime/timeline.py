"""A clock for waits: the wall clock's time at the start, advanced by the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Timeline"]


class Timeline:
    """Give epoch seconds that no step of the wall clock changes, so that a wait lasts as long as it should."""

    def __init__(self, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = now() - monotonic()

    def __call__(self) -> float:
        """Return the time on this line."""
        return self._offset + self._monotonic()
