"""What a shard notes of its conversations, to tell what their windows add to groups: those that share a label's value.

A window of a conversation counts for a group under the labels that it carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.records import GroupSettings
from flows.analytics.group_parts import GroupPart, group_parts, spans_of
from flows.analytics.histograms import NO_HISTOGRAM, Histogram
from flows.analytics.label_texts import LabelTexts
from flows.analytics.ranks import ranks
from flows.analytics.rules import Rule, Transition
from flows.analytics.stalls import Stalls
from flows.analytics.windows import Column, Summaries

__all__ = ["Breaches", "GroupTracker", "Span"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Span(NamedTuple):
    """The settings in force until a time, and there until the frame `row` of the block; `slide_ms` is that of windows.

    `keeps_open`: whether an alert that is raised stays open. `step_s`: by how much the clock steps behind the span.
    """

    until: float
    row: int
    groups: GroupSettings
    max_per_minute: int | None
    keeps_open: bool
    slide_ms: int
    step_s: float | None = None


class GroupTracker:
    """What a shard notes while it applies a block, so that it can tell what its windows add to groups.

    While no groups are configured, it notes incidents only, for they may be open when groups are.
    """

    def __init__(self) -> None:
        self.by: tuple[str, ...] = ()
        self.breaches = Breaches()
        self._closed: list[tuple[Summaries, Histogram, tuple[str, ...]]] = []
        self._changes: list[tuple[float, int, int]] = []

    def breached(self, transition: Transition) -> None:
        """Take a leg's media above a limit as a frame above it."""
        if self.by and transition.state == "raised":
            self.breaches.add(np.array([transition.arrival]), np.array([transition.slot], np.int32))

    def closed(self, windows: Summaries, histogram: Histogram | None) -> None:
        """Note windows that have closed."""
        if self.by and len(windows.slot):
            self._closed.append((windows, histogram or NO_HISTOGRAM, self.by))

    def changed(self, transition: Transition) -> None:
        """Note that an incident was opened or resolved."""
        self._changes.append((transition.arrival, transition.slot, 1 if transition.state == "raised" else -1))

    def parts(
        self, rules: Sequence[Rule], stalls: Stalls, signals: Mapping[int, int], texts: LabelTexts, oldest: float
    ) -> list[GroupPart]:
        """Return what the windows that have closed add to groups, and reset them.

        `rules` and `stalls` know the open incidents, `signals` how many of them a slot has by signals. Frames before
        `oldest` are in no open window.
        """
        found: list[GroupPart] = []
        if self._closed:
            open_now: Ints = np.sum([*(rule.is_open.values for rule in rules), stalls.is_open], axis=0)
            open_now[list(signals)] += np.array(list(signals.values()), np.int64)
            for windows, histogram, by in self._closed:
                breaching = self.breaches.within(windows, len(open_now)) | self._had_open(windows, open_now)
                numbers = ranks(windows.values[:, Column.LABELS].astype(np.int64))[0].tolist()
                labels = orjson.loads(b"[%b]" % b",".join(map(texts.text, numbers)))
                found += group_parts(windows, histogram, breaching, by, dict(zip(numbers, labels, strict=True)))
            self.breaches.forget(oldest)
        self._closed, self._changes = [], []
        return found

    def _had_open(self, windows: Summaries, open_now: Ints) -> NDArray[np.bool_]:
        """Return for each window whether its conversation had an open incident just before its end."""
        found = np.zeros(len(windows.slot), np.bool_)
        changes = np.array(self._changes).reshape(-1, 3)
        spans, span = spans_of(windows)
        for at, end in enumerate(spans[:, 1].tolist()):
            later = changes[changes[:, 0] >= end]
            opened = np.bincount(later[:, 1].astype(np.int64), later[:, 2], len(open_now))
            rows = span == at
            found[rows] = (open_now - opened)[windows.slot[rows]] > 0
        return found


class Breaches:
    """The frames above a limit within the windows that are open: their arrivals and slots."""

    def __init__(self) -> None:
        self._arrival = np.empty(0)
        self._slot = np.empty(0, np.int32)

    def add(self, arrival: Floats, slot: NDArray[np.int32]) -> None:
        """Add frames above a limit."""
        self._arrival = np.append(self._arrival, arrival)
        self._slot = np.append(self._slot, slot)

    def within(self, closed: Summaries, slots: int) -> NDArray[np.bool_]:
        """Return for each window whether it holds such a frame; there are `slots` slots."""
        found = np.zeros(len(closed.slot), np.bool_)
        if not len(self._slot):
            return found
        spans, span = spans_of(closed)
        for at, (start, end) in enumerate(spans.tolist()):
            breaching = np.zeros(slots, np.bool_)
            breaching[self._slot[(self._arrival >= start) & (self._arrival < end)]] = True
            rows = span == at
            found[rows] = breaching[closed.slot[rows]]
        return found

    def forget(self, before: float = -np.inf, slot: int | None = None) -> None:
        """Drop the frames before a time, or of a slot."""
        if not len(self._slot):
            return
        kept = self._arrival >= before if slot is None else self._slot != slot
        self._arrival, self._slot = self._arrival[kept], self._slot[kept]

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        return (self._arrival.copy(), self._slot.copy())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot."""
        self._arrival, self._slot = (array.copy() for array in snapshot)
