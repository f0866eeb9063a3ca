"""Single records that windows show beside their frames: the media of legs, and the lag of late events.

There are few of them. They wait by slot until the windows that hold them have closed.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from connectors.format.media import LegMedia
from flows.analytics.label_texts import LabelTexts
from flows.analytics.legs import leg_windows
from flows.analytics.slots import NO_SLOT
from flows.analytics.windows import Column, Summaries

__all__ = ["WindowRecords", "lag_window"]

_US_PER_MS: Final = 1000


class _Waiting(NamedTuple):
    """Records by slot, each with its arrival in epoch seconds, in order of arrival."""

    of_slot: dict[int, list[tuple[float, Any]]]

    def add(self, slot: int, arrival: float, record: Any) -> None:
        self.of_slot.setdefault(slot, []).append((arrival, record))

    def forget_before(self, start: float) -> None:
        for slot in [slot for slot, records in self.of_slot.items() if records[0][0] < start]:
            kept = [record for record in self.of_slot[slot] if record[0] >= start]
            if kept:
                self.of_slot[slot] = kept
            else:
                del self.of_slot[slot]


class WindowRecords:
    """The records of all conversations of a shard that are in windows which have not closed."""

    def __init__(self) -> None:
        self._media = _Waiting({})
        self._lags = _Waiting({})

    def add_media(self, slot: int, arrival: float, media: LegMedia) -> None:
        """Add a media record that arrived at that time, epoch seconds, unless its conversation is not watched."""
        if slot != NO_SLOT:
            self._media.add(slot, arrival, media)

    def add_lag(self, slot: int, arrival: float, lag_us: int) -> None:
        """Add a late event that arrived at that time, epoch seconds, `lag_us` microseconds after it was sent."""
        self._lags.add(slot, arrival, lag_us)

    def attach(self, closed: Summaries, texts: LabelTexts) -> None:
        """Fill in the legs and the lags of windows that close."""
        columns = ((self._media, Column.LEGS, leg_windows), (self._lags, Column.EVENT_LAG, lag_window))
        for waiting, column, text_of in columns:
            if not waiting.of_slot:
                continue
            for row in np.flatnonzero(np.isin(closed.slot, list(waiting.of_slot))).tolist():
                start, end = closed.values[row, [Column.START, Column.END]].tolist()
                records = waiting.of_slot[int(closed.slot[row])]
                if found := [record for arrival, record in records if start <= arrival < end]:
                    closed.values[row, column] = texts.number(text_of(found))

    def forget(self, slot: int) -> None:
        """Drop the records of a slot whose conversation has ended and whose windows have closed."""
        for waiting in (self._media, self._lags):
            waiting.of_slot.pop(slot, None)

    def forget_before(self, start: float) -> None:
        """Drop the records that no window holds which starts at that time or later, epoch seconds."""
        for waiting in (self._media, self._lags):
            waiting.forget_before(start)

    def clear(self) -> None:
        """Drop all records: their windows have closed early."""
        for waiting in (self._media, self._lags):
            waiting.of_slot.clear()

    def snapshot(self) -> tuple[Any, ...]:
        """Return plain values that `restore` takes."""
        media = {
            slot: [(arrival, tuple(media)) for arrival, media in records]
            for slot, records in self._media.of_slot.items()
        }
        return media, {slot: list(records) for slot, records in self._lags.of_slot.items()}

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot."""
        media, lags = snapshot
        self._media = _Waiting(
            {slot: [(arrival, LegMedia(*media)) for arrival, media in records] for slot, records in media.items()}
        )
        self._lags = _Waiting({slot: list(records) for slot, records in lags.items()})


def lag_window(lags_us: list[int]) -> dict[str, Any]:
    """Return the JSON object of the lags, in microseconds, of the late events of a window; its values are milliseconds.

    >>> lag_window([60_210_000, 1_500])
    {'count': 2, 'min': 1.5, 'mean': 30105.75, 'max': 60210.0}
    """
    lags_ms = [lag_us / _US_PER_MS for lag_us in lags_us]
    mean = round(math.fsum(lags_ms) / len(lags_ms), 6)
    return {"count": len(lags_ms), "min": min(lags_ms), "mean": mean, "max": max(lags_ms)}
