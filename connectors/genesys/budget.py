"""How many requests a minute Genesys lets one OAuth client make, and how many of them this process has used."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Final
from urllib.parse import urlsplit

__all__ = ["REQUESTS_PER_MINUTE", "RequestBudget", "budget_of"]

REQUESTS_PER_MINUTE: Final = 300
WINDOW_S: Final = 60.0


class RequestBudget:
    """Counts requests; safe to use from any thread. `now` is a monotonic clock, in seconds.

    What somebody waits for is sent and only counted (`spend`). What can wait asks first (`wait_s`), so that it takes
    what the others leave.
    """

    def __init__(self, per_minute: int = REQUESTS_PER_MINUTE, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._now = now
        self._spent: deque[float] = deque(maxlen=per_minute)
        self._held_until = float("-inf")
        self._lock = threading.Lock()

    def spend(self) -> None:
        """Count a request that is being sent."""
        with self._lock:
            self._spent.append(self._now())

    def hold(self, seconds: float) -> None:
        """Let nothing that can wait be sent for so long, because Genesys asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self._now() + seconds)

    def wait_s(self, reserve: int = 0) -> float:
        """Seconds until a request may be sent so that `reserve` more can follow it in its minute; 0 for now."""
        with self._lock:
            now = self._now()
            allowed = max(1, self._per_minute - reserve)
            wait_s = self._held_until - now
            if len(self._spent) >= allowed:
                wait_s = max(wait_s, self._spent[-allowed] + WINDOW_S - now)
            return max(0.0, wait_s)


def budget_of(url: str) -> RequestBudget:
    """The one budget of this process for a Genesys region, from the URL of its API host or its login host."""
    return _budget(urlsplit(url).netloc.lower().removeprefix("api.").removeprefix("login."))


@cache
def _budget(region: str) -> RequestBudget:  # noqa: ARG001 - the key of the cache
    return RequestBudget()
