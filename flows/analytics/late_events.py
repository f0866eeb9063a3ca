"""Late events: those older than one of the same session that came before them.

Genesys sends the events of a session in any order. How long a late one took is not the time that an event takes now, so
it is measured as the lag of an event, and not as latency: the frame counts, and its latency is unknown.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from flows.analytics.shards import ShardBlock
from flows.analytics.window_records import WindowRecords

__all__ = ["LateEvents"]

_MAX_SESSIONS: Final = 200


class LateEvents:
    """The newest event of each session, by slot: epoch seconds by the hash of the session."""

    def __init__(self, records: WindowRecords) -> None:
        self._records = records
        self._newest: dict[int, dict[int, float]] = {}

    def without_latency(
        self, frames: ShardBlock, slot: NDArray[np.int32], watched: NDArray[np.bool_], late_us: list[int]
    ) -> ShardBlock:
        """Return the frames, those of late events without a latency, which is added to `late_us` in microseconds
        and to the records of windows.

        `slot` int32 and `watched` bool have the shape of the frames' columns. Frames without a latency are not late.
        """
        if not len(frames.events.row):
            return frames
        begin, end = np.searchsorted(frames.events.row, [frames.row[0], frames.row[-1] + 1]).tolist()
        if begin == end:
            return frames
        row, session, sent_at = (column[begin:end] for column in frames.events)
        place = np.minimum(np.searchsorted(frames.row, row), len(frames.row) - 1)
        is_kept = (frames.row[place] == row) & watched[place] & (session != 0) & ~np.isnan(sent_at)
        place = place[is_kept]
        events = (place, slot[place], session[is_kept], sent_at[is_kept])
        late = [at for at, *event in zip(*(column.tolist() for column in events), strict=True) if self._is_late(*event)]
        late = [at for at in late if not np.isnan(frames.latency_us[at])]
        if not late:
            return frames
        lags_us = frames.latency_us[late].astype(np.int64).tolist()
        for at, lag_us in zip(late, lags_us, strict=True):
            self._records.add_lag(int(slot[at]), float(frames.arrival[at]), lag_us)
        late_us += lags_us
        latency_us = frames.latency_us.copy()
        latency_us[late] = np.nan
        return frames._replace(latency_us=latency_us)

    def _is_late(self, slot: int, session: int, sent_at: float) -> bool:
        """Take an event of a session, and tell whether a newer one came before it."""
        newest = self._newest.setdefault(slot, {})
        if sent_at < newest.get(session, -np.inf):
            return True
        newest.pop(session, None)
        newest[session] = sent_at
        if len(newest) > _MAX_SESSIONS:
            del newest[next(iter(newest))]
        return False

    def forget(self, slot: int) -> None:
        """Drop the sessions of a slot whose conversation has ended."""
        self._newest.pop(slot, None)

    def snapshot(self) -> dict[int, dict[int, float]]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        return {slot: dict(newest) for slot, newest in self._newest.items()}

    def restore(self, snapshot: dict[int, dict[int, float]]) -> None:
        """Take over a snapshot."""
        self._newest = {slot: dict(newest) for slot, newest in snapshot.items()}
