"""The time of a live journal: what it does when the machine's clock is set.

It advances with the monotonic clock from a reading of the wall clock. While the two agree within a millisecond, the
journal's time is the wall clock's. While they differ by up to a second, it approaches the wall clock by 5 milliseconds
in each second. Where they differ by more, the wall clock was set or the machine was suspended: the journal's time steps
to it, which the journal tells by a `clock` record.

Nothing here reads a clock: `read_clocks` is for the journal to call.
"""

from __future__ import annotations

import math
import time
from typing import Final, NamedTuple

__all__ = ["AGREE_S", "SLEW_S_PER_S", "STEP_S", "JournalClock", "Moment", "Reading", "read_clocks"]

STEP_S: Final = 1.0
AGREE_S: Final = 0.001
SLEW_S_PER_S: Final = 0.005
# Between two readings of clocks the thread may lose the processor.
_MAX_APART_S: Final = 50e-6
_DECIMALS: Final = 6


class Reading(NamedTuple):
    """Both clocks at one moment, in seconds; the wall clock since 1970."""

    wall: float
    monotonic: float


class Moment(NamedTuple):
    """A moment of a journal.

    `received_at` is the journal's time there. `arrived_at` is the wall clock's, None if that is the same. `step_s` says
    by how much the journal's time has just changed, 0 if it has not.
    """

    received_at: float
    arrived_at: float | None = None
    step_s: float = 0.0


def read_clocks() -> Reading:
    """Read both clocks of this machine."""
    for _ in range(3):
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        if after - before <= _MAX_APART_S:
            break
    return Reading(wall, (before + after) / 2)


class JournalClock:
    """The time of one journal, from its opening at `reading` on; `last` is the time of the last record that is in it.

    A journal goes on from its last record if that is up to a second ahead of the wall clock. If it is more, the first
    moment steps back to the wall clock. A gap before the opening is not a step: time passed while nothing ran.
    """

    def __init__(self, reading: Reading, last: float = -math.inf) -> None:
        self._time = max(last, reading.wall)
        self._monotonic = reading.monotonic
        self._given = last

    @property
    def time(self) -> float:
        """Return the journal's time, as of the last reading."""
        return self._time

    def at(self, reading: Reading, *, wall: float | None = None) -> Moment:
        """Return the moment of a reading, not before the last one; `wall` is when it was, if that was a little before.

        A reading that is older than the one before, of a thread that had to wait, moves nothing.
        """
        step_s = self._advance(reading)
        if step_s:
            self._given = self._time
        arrived = reading.wall if wall is None else wall
        time = self._time - (reading.wall - arrived)
        if abs(time - arrived) < AGREE_S:
            time = arrived
        self._given = time = max(time, self._given)
        return Moment(time, None if abs(arrived - time) < AGREE_S else arrived, step_s)

    def _advance(self, reading: Reading) -> float:
        """Let time pass up to a reading; by how much it stepped."""
        elapsed = reading.monotonic - self._monotonic
        if elapsed < 0:
            return 0.0
        self._monotonic = reading.monotonic
        expected = self._time + elapsed
        ahead = reading.wall - expected
        if abs(ahead) > STEP_S:
            self._time = reading.wall
            return round(ahead, _DECIMALS)
        if abs(ahead) < AGREE_S:
            self._time = reading.wall
        else:
            slewed = max(-SLEW_S_PER_S * elapsed, min(ahead, SLEW_S_PER_S * elapsed))
            self._time = round(expected + slewed, _DECIMALS)
        return 0.0
