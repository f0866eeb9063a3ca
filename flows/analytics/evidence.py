"""What an alert shows of its conversation: the window that caused it, or else the last that had ended by its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flows.analytics.alerts import Alert, Change, make_alert
from flows.analytics.rules import Transition
from flows.analytics.windows import END, NO_WINDOW, Summaries

__all__ = ["LastWindows"]


class LastWindows:
    """The last window of each slot that had ended when the last block was over."""

    def __init__(self, slots: int) -> None:
        self._latest = np.tile(NO_WINDOW, (slots, 1))

    def grow(self, slots: int) -> None:
        """Make room for more slots."""
        self._latest = np.concatenate([self._latest, np.tile(NO_WINDOW, (slots - len(self._latest), 1))])

    def forget(self, slot: int) -> None:
        """Drop what is left of a slot whose conversation has ended."""
        self._latest[slot] = NO_WINDOW

    def alerts(self, changes: Sequence[Change], ending: Summaries) -> list[Alert]:
        """The alerts of a block in their order; `ending` are its windows, and those that closed early before it."""
        if not changes:
            return []
        ending_of: dict[int, list[list[float]]] = {}
        concerned = np.isin(ending.slot, [change.transition.slot for change in changes])
        for slot, values in zip(ending.slot[concerned].tolist(), ending.values[concerned].tolist(), strict=True):
            ending_of.setdefault(slot, []).append(values)
        return sorted(
            make_alert(place, change, change.window or self._at(change.transition, ending_of))
            for place, change in enumerate(changes)
        )

    def keep(self, ending: Summaries, now: float) -> None:
        """Keep each slot's last window for the alerts to come, once its end has passed, also if it closed early."""
        ended = ending.values[:, END] <= now
        self._latest[ending.slot[ended]] = ending.values[ended]  # of a slot's several windows the last one stays

    def _at(self, transition: Transition, ending_of: dict[int, list[list[float]]]) -> list[float] | None:
        ended = [values for values in ending_of.get(transition.slot, ()) if values[END] <= transition.arrival]
        window: list[float] = ended[-1] if ended else self._latest[transition.slot].tolist()
        return window if window[END] == window[END] else None

    def snapshot(self, slots: int) -> NDArray[np.float64]:
        """An array of the first `slots` that `restore` takes, sharing nothing with this."""
        return self._latest[:slots].copy()

    def restore(self, snapshot: NDArray[np.float64]) -> None:
        """Take a snapshot's place."""
        self._latest = snapshot.copy()
