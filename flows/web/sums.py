"""Add up windows in memory, and write the sums to the tables of the read model once for many windows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from flows.web.lines import Window
from flows.web.tables import CELL, CONVERSATION, MINUTE

__all__ = ["Batch", "Places"]

# The dimensions of a conversation with its values: all, the feed, each label.
Places = tuple[tuple[str, str], ...]
# How long windows of a minute may be late for the count of its conversations.
SEEN_S: Final = 300


class _Sums:
    """Hold sums of some windows; `conversations` counts those that are new in their minute."""

    __slots__ = ("breaching", "conversations", "frames", "loss_count", "loss_sum", "mos", "p95", "windows")

    def __init__(self) -> None:
        self.windows = self.breaching = self.frames = self.loss_count = self.conversations = 0
        self.loss_sum = 0.0
        self.p95: float | None = None
        self.mos: float | None = None

    def row(self) -> tuple[float | None, ...]:
        return (self.p95, self.loss_sum, self.loss_count, self.mos)


class _Whole:
    """Hold what some windows of a conversation add to its row."""

    __slots__ = ("breaching", "first", "frames", "last", "loss", "model", "mos", "p95", "windows")

    def __init__(self, window: Window) -> None:
        self.first, self.last = window.start, window.end
        self.windows = self.breaching = self.frames = 0
        self.p95: float | None = None
        self.loss: float | None = None
        self.mos: float | None = None
        self.model: str | None = None


class Batch:
    """Collect windows; `size` is the number that is not written yet."""

    def __init__(self) -> None:
        self.size = 0
        self._minutes: dict[tuple[int, int], _Sums] = defaultdict(_Sums)
        self._cells: dict[tuple[str, str, int], _Sums] = defaultdict(_Sums)
        self._wholes: dict[int, _Whole] = {}
        self._seen: dict[int, dict[int, Places]] = defaultdict(dict)

    def add(self, n: int, places: Places, window: Window, minute: int, *, breaching: bool) -> None:
        """Add a window of a conversation to its minute and its dimensions."""
        self.size += 1
        frames = window.frames
        latency, loss, mos = window.latency_ms, window.packet_loss, window.mos
        p95 = None if latency is None else latency.p95
        lost, counted = (0.0, 0) if loss is None else (loss.mean * loss.count, loss.count)
        value = None if mos is None else mos.value
        targets = [self._minutes[minute, n], *[self._cells[name, place, minute] for name, place in places]]
        for sums in targets:
            sums.windows += 1
            sums.breaching += breaching
            sums.frames += frames
            sums.loss_sum += lost
            sums.loss_count += counted
            if p95 is not None and (sums.p95 is None or p95 > sums.p95):
                sums.p95 = p95
            if value is not None and (sums.mos is None or value < sums.mos):
                sums.mos = value
        if self._seen[minute].get(n) is not places:
            self._count(n, places, minute)
        whole = self._wholes.get(n)
        if whole is None:
            whole = self._wholes[n] = _Whole(window)
        whole.first, whole.last = min(whole.first, window.start), max(whole.last, window.end)
        whole.windows += 1
        whole.breaching += breaching
        whole.frames += frames
        if p95 is not None and (whole.p95 is None or p95 > whole.p95):
            whole.p95 = p95
        if loss is not None and (whole.loss is None or loss.max > whole.loss):
            whole.loss = loss.max
        if mos is not None:
            whole.model = mos.model
            if whole.mos is None or mos.value < whole.mos:
                whole.mos = mos.value

    def flush(self, db: sqlite3.Connection, newest: float) -> set[int]:
        """Write the sums, and forget which conversations were seen long before `newest`. Returns the minutes."""
        minutes = {minute for minute, _ in self._minutes}
        db.executemany(
            MINUTE, [(m, n, s.windows, s.breaching, s.frames, *s.row()) for (m, n), s in self._minutes.items()]
        )
        cells = self._cells.items()
        db.executemany(CELL, [(*key, s.windows, s.breaching, s.conversations, s.frames, *s.row()) for key, s in cells])
        db.executemany(
            CONVERSATION,
            [
                (w.first, w.last, w.windows, w.breaching, w.frames, w.p95, w.loss, w.mos, w.model, n)
                for n, w in self._wholes.items()
            ],
        )
        self.size = 0
        self._minutes.clear()
        self._cells.clear()
        self._wholes.clear()
        for minute in [minute for minute in self._seen if minute < newest - SEEN_S]:
            del self._seen[minute]
        return minutes

    def _count(self, n: int, places: Places, minute: int) -> None:
        """Count a conversation where it is new in a minute: everywhere, or at its new labels."""
        before: Sequence[tuple[str, str]] = self._seen[minute].get(n, ())
        for name, place in places:
            if (name, place) not in before:
                self._cells[name, place, minute].conversations += 1
        self._seen[minute][n] = places if not before else (*places, *(one for one in before if one not in places))
