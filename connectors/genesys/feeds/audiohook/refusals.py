"""Count and log the connections that an AudioHook feed refuses, and clean up after a crowd of them."""

from __future__ import annotations

from collections import Counter
from typing import Final

from connectors.genesys.feeds.listener import Listener
from connectors.runtime.logs import get_logger
from connectors.runtime.memory import give_back

__all__ = ["Refusals"]

LOG_EVERY_S: Final = 1.0
TIDY_EVERY_S: Final = 60.0


class Refusals:
    """The refused upgrades by reason, and the connections that `listener` closed, once it is set."""

    def __init__(self, feed: str) -> None:
        self.listener: Listener | None = None
        self._feed = feed
        self._by_reason: Counter[str] = Counter()
        self._logged = 0
        self._log_at = 0.0
        self._crowd_seen = 0
        self._tidy_at = 0.0

    def add(self, reason: str) -> None:
        """Count a refused upgrade."""
        self._by_reason[reason] += 1

    @property
    def by_reason(self) -> dict[str, int]:
        """Return the number of upgrades and connections refused, by reason."""
        counts = dict(self._by_reason)
        if self._crowd:
            counts["too many connections"] = self._crowd
        return counts

    def tend(self, now: float) -> None:
        """Log new refusals, once a second at most, and give memory back after a crowd of connections."""
        total = self._by_reason.total() + self._crowd
        if now >= self._log_at and total > self._logged:
            self._log_at = now + LOG_EVERY_S
            self._logged = total
            get_logger(__name__).warning("audiohook_upgrades_refused", feed=self._feed, reasons=self.by_reason)
        if self._crowd > self._crowd_seen and now >= self._tidy_at and self.listener and self.listener.is_quiet:
            self._tidy_at = now + TIDY_EVERY_S
            self._crowd_seen = self._crowd
            give_back()

    @property
    def _crowd(self) -> int:
        return 0 if self.listener is None else self.listener.turned_away
