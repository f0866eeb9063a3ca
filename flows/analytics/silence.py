"""End watches that have had no frame for too long, such as those whose `conversation.ended` was lost with a socket.

For each slot one time is kept: that of the last frame, or the begin of the watch before the first one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from connectors.format.tables import silent_at
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT

__all__ = ["FirstFrames", "Silence"]

Floats = NDArray[np.float64]


class Silence:
    """Knows when each watch of a shard has been silent for too long; times in epoch seconds."""

    def __init__(self, columns: SlotColumns, after_s: float) -> None:
        self.after_s = after_s
        # Infinite where no watch is on.
        self._last_at = columns.add("last_frame_at", np.float64, np.inf)
        # No watch is silent for too long before this time. It may be too early, never too late.
        self._earliest = -np.inf

    def begin(self, slot: int, now: float, last_frame_at: float | None) -> None:
        """Take that a watch begins; `last_frame_at` is known if it goes on from the segment before.

        One that would have been silent for too long already begins at `now`.
        """
        last_at = now
        if last_frame_at is not None and silent_at(min(last_frame_at, now), self.after_s) > now:
            last_at = min(last_frame_at, now)
        self._last_at.values[slot] = last_at
        self._earliest = min(self._earliest, last_at + self.after_s)

    def hear(self, slot: NDArray[np.int32], arrival: Floats) -> None:
        """Take frames of watched conversations, in order."""
        self._last_at.values[slot] = arrival  # of a slot's several rows the last one stays

    def end(self, slot: int) -> float:
        """Take that a watch is over; return the time of its last frame, or of its begin."""
        last_at = float(self._last_at.values[slot])
        self._last_at.values[slot] = np.inf
        return last_at

    def change(self, after_s: float, now: float) -> None:
        """Apply another limit; every wait restarts."""
        if after_s != self.after_s:
            self._last_at.values[self._last_at.values < np.inf] = now
            self.after_s, self._earliest = after_s, -np.inf

    def step_clock(self, step_s: float) -> None:
        """Keep how long it has been silent while the time changes by `step_s`."""
        self._last_at.values += step_s
        self._earliest = -np.inf

    def restored(self, after_s: float) -> None:
        """Take that the columns come from a snapshot, and the limit that is in force."""
        self.after_s, self._earliest = after_s, -np.inf

    def due(self, now: float) -> list[tuple[int, float]]:
        """Return the slots that have been silent for too long at `now`, each with the moment, in order of the slots."""
        if now < self._earliest or not self._may_be_due(now):
            return []
        moment = self._moments(slice(None))
        return [(slot, float(moment[slot])) for slot in np.flatnonzero(moment <= now).tolist()]

    def first_return(self, slot: NDArray[np.int32], arrival: Floats) -> int | None:
        """Return the first of some frames that comes when its watch has been silent for too long, None without one.

        The frames span less than the limit, so that only the first one of a slot can.
        """
        if not len(arrival) or not self._may_be_due(float(arrival[-1])):
            return None
        watched = slot != NO_SLOT
        late = np.flatnonzero(watched & (self._moments(slot) <= arrival))
        _, first = np.unique(slot[watched], return_index=True)
        returns = np.intersect1d(late, np.flatnonzero(watched)[first])
        return int(returns[0]) if len(returns) else None

    def _may_be_due(self, now: float) -> bool:
        if now < self._earliest:
            return False
        self._earliest = float(self._last_at.values.min()) + self.after_s - 1e-3
        return now >= self._earliest

    def _moments(self, slots: slice | NDArray[np.int32]) -> Floats:
        moments: Floats = silent_at(self._last_at.values[slots], self.after_s)
        return moments


class FirstFrames:
    """Counts conversations by their first frames; `has_frame` says whether one has come in the watch of a slot."""

    def __init__(self, columns: SlotColumns) -> None:
        self.has_frame = columns.add("has_frame", np.bool_, initial=False)
        # Whether one has come in any watch of this slot.
        self._is_counted = columns.add("is_counted", np.bool_, initial=False)

    def begin(self, slot: int) -> None:
        """Take that a watch begins."""
        self.has_frame.values[slot] = False

    def count(self, slot: NDArray[np.int32]) -> int:
        """Take the slots of frames; return how many conversations have had none before."""
        if self.has_frame.values.take(slot).all():
            return 0
        present = np.zeros(len(self.has_frame.values), np.bool_)
        present[slot] = True
        new = int(np.count_nonzero(present & ~self._is_counted.values))
        self.has_frame.values |= present
        self._is_counted.values |= present
        return new
