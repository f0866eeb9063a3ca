"""Send to a receiver no faster than it allows: a pure value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from connectors.callbacks.policy import Outcome

__all__ = ["Pace", "is_throttled"]

_PASSED_ON: Final = re.compile(r"HTTP error 429\b")  # Teams answers 200 and says so in the body
_FIRST_GAP_S: Final = 1.0
_LONGEST_GAP_S: Final = 60.0
_SHORTEST_GAP_S: Final = 0.05
_SHORTENED: Final = 0.9
_LONGEST_AFTER_SUCCESS_S: Final = 10.0


def is_throttled(outcome: Outcome) -> bool:
    """Report whether a receiver asks for fewer requests.

    >>> is_throttled(Outcome(status=429)), is_throttled(Outcome(status=503))
    (True, False)
    """
    passed_on = outcome.status is not None and _PASSED_ON.search(outcome.body) is not None
    return outcome.throttled or outcome.status == 429 or passed_on


@dataclass(frozen=True, slots=True)
class Pace:
    """Hold when the next attempt at a receiver may begin; its times are of a monotonic clock.

    Attempts begin at once until the receiver asks for fewer. Then they begin one at a time, `gap_s` apart, and none
    before the time that `Retry-After` names. A second, and twice the gap each time that it asks again, up to a minute;
    each answer that does not ask shortens the gap by a tenth, or to ten seconds. So a service that takes a message a
    second gets one a second, and hardly any message uses up its attempts.
    """

    gap_s: float = 0.0
    next_at: float = 0.0
    asked_at: float = float("-inf")

    def admits(self, now: float, in_flight: int) -> bool:
        """Return whether one more attempt may begin at `now` while `in_flight` are under way."""
        return now >= self.next_at and not (self.gap_s and in_flight)

    def begun(self, now: float) -> Pace:
        """Return the pace after the begin of an attempt."""
        return Pace(self.gap_s, max(self.next_at, now + self.gap_s), self.asked_at) if self.gap_s else self

    def after(self, outcome: Outcome, *, began: float, now: float) -> Pace:
        """Return the pace after an attempt.

        >>> pace = Pace().after(Outcome(status=429, retry_after_s=3.0), began=0.0, now=0.5)
        >>> pace.gap_s, pace.next_at, pace.after(Outcome(status=200), began=3.5, now=3.6).gap_s
        (1.0, 3.5, 0.9)
        """
        if not is_throttled(outcome):
            gap_s = min(self.gap_s * _SHORTENED, _LONGEST_AFTER_SUCCESS_S)
            return Pace(gap_s if gap_s >= _SHORTEST_GAP_S else 0.0, self.next_at, self.asked_at)
        was_under_way = began < self.asked_at  # with the one that was answered first
        gap_s = self.gap_s if was_under_way else min(2 * self.gap_s, _LONGEST_GAP_S) or _FIRST_GAP_S
        return Pace(gap_s, max(self.next_at, now + max(outcome.retry_after_s or 0.0, gap_s)), now)
