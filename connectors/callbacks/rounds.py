"""Call a function of an event loop again soon, and tell whether the loop itself was late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Rounds"]

_SHORTEST_S = 0.01
_LATE_S = 0.05
_MOST_LATE = 5


class Rounds:
    """Call `work` after the shortest of the waits that were asked for since the last call."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._next: asyncio.TimerHandle | None = None
        self._late = 0

    def begin(self) -> bool:
        """Take that the work begins; return whether the loop was so late that answers may wait to be read.

        It was not if it always is: after some rounds in a row the work is to be done all the same.
        """
        if self._next is None:
            return False
        late = asyncio.get_running_loop().time() > self._next.when() + _LATE_S
        self._next.cancel()
        self._next = None
        self._late = self._late + 1 if late and self._late < _MOST_LATE else 0
        return self._late > 0

    def again(self, after_s: float = _SHORTEST_S) -> None:
        """Ask for a call after a wait."""
        loop, after_s = asyncio.get_running_loop(), max(after_s, _SHORTEST_S)
        if self._next is None or self._next.when() > loop.time() + after_s:
            if self._next is not None:
                self._next.cancel()
            self._next = loop.call_later(after_s, self._work)

    @property
    def wanted(self) -> bool:
        """Report whether a call was asked for."""
        return self._next is not None
