"""Sliding windows in arrival time: frames wait in columns, and all windows that a step forward ends close in one go.

Time is cut into panes of one slide each, pane k being `[k·slide, (k+1)·slide)`; window k covers the panes k up to
k + length/slide − 1. Only times are compared, never differences of floats: a boundary is the float nearest to its
whole number of milliseconds, the very number that is written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum, auto
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from connectors.format.records import WindowSettings
from flows.analytics.histograms import Histogram
from flows.analytics.ranks import ranks, stable_order
from flows.analytics.voice_quality import CODECS, codecs, mos_from_r, r_factor

__all__ = ["TEXTS", "Column", "OpenWindows", "Summaries", "Traits", "by_end", "open_windows", "pane_of", "summarise"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codecs = NDArray[np.int8]


class Column(IntEnum):
    """The columns of `Summaries.values`."""

    START = 0
    END = auto()
    FRAMES = auto()
    LATENCY_COUNT = auto()
    LATENCY_MIN = auto()
    LATENCY_MEAN = auto()
    LATENCY_MAX = auto()
    LATENCY_P50 = auto()
    LATENCY_P95 = auto()
    LATENCY_P99 = auto()
    LOSS_COUNT = auto()
    LOSS_MEAN = auto()
    LOSS_MAX = auto()
    MOS = auto()
    CODEC = auto()
    LABELS = auto()
    LEGS = auto()
    EVENT_LAG = auto()


TEXTS: Final = [Column.LABELS, Column.LEGS, Column.EVENT_LAG]
"""The columns that hold numbers of `LabelTexts`."""
# Latencies within 2^39 µs (six days) of zero fit beside a group number in one integer, which sorts ten times faster.
_LATENCY_BITS: Final = 40
_LATENCY_BIAS: Final = 1 << (_LATENCY_BITS - 1)
_NO_LATENCY: Final = (1 << _LATENCY_BITS) - 1
_MAX_GROUPS: Final = 1 << (62 - _LATENCY_BITS)


class Summaries(NamedTuple):
    """Closed windows, one row each, ordered by end, then slot: `slot` int32 (n,), `values` float64, (n, `Column`).

    Times in epoch seconds, latencies in milliseconds, losses as ratios; NaN where no frame carried the metric. The
    codec is a number of `voice_quality.CODECS`; labels, legs and event lags are numbers of `LabelTexts`, 0 for none.
    """

    slot: NDArray[np.int32]
    values: Floats


class Traits(NamedTuple):
    """What windows take from their conversations when they close, by slot: `codec` int8, a number of
    `voice_quality.CODECS`, -1 for that of the settings; `labels` int32, a number of `LabelTexts`.
    """

    codec: Codecs
    labels: NDArray[np.int32]


class Frames(NamedTuple):
    """Frames as columns in arrival order, shapes (n,): slot int32, latency and loss float64, NaN for none."""

    slot: NDArray[np.int32]
    latency_us: Floats
    packet_loss: Floats


class _Pane:
    """The frames of one pane, in columns that grow."""

    def __init__(self, pane: int, frames: Frames) -> None:
        self.pane = pane
        self.count = len(frames.slot)
        self._columns: list[NDArray[Any]] = [column.copy() for column in frames]
        self._is_sorted = False

    @property
    def frames(self) -> Frames:
        """Return all frames so far, as views that do not change when more are added."""
        return Frames._make(column[: self.count] for column in self._columns)

    def add(self, frames: Frames) -> None:
        """Add frames that arrived after the others."""
        count = self.count + len(frames.slot)
        if count > len(self._columns[0]):
            room = 2 * count
            self._columns = [np.concatenate([c, np.empty(room - len(c), c.dtype)]) for c in self._columns]
        for column, more in zip(self._columns, frames, strict=True):
            column[self.count : count] = more
        self.count = count
        self._is_sorted = False

    def sort(self) -> None:
        """Order the frames by slot, and latencies within a slot, once; each window that holds them then sorts quickly.

        A latency may come to stand beside the loss of another frame of its slot, for windows show no single frames.
        Where one is out of bounds, the order stays as it is.
        """
        slot, latency_us, packet_loss = self.frames
        known = ~np.isnan(latency_us)
        if self._is_sorted or np.abs(latency_us[known]).max(initial=0.0) >= _LATENCY_BIAS - 1:
            return
        latency = np.where(known, latency_us + _LATENCY_BIAS, _NO_LATENCY).astype(np.int64)
        ordered = np.sort((slot.astype(np.int64) << _LATENCY_BITS) + latency)
        latency = ordered & _NO_LATENCY
        in_order_us = np.where(latency == _NO_LATENCY, np.nan, latency - float(_LATENCY_BIAS))
        slots = (ordered >> _LATENCY_BITS).astype(np.int32)
        self._columns = [slots, in_order_us, packet_loss.take(stable_order(slot))]
        self._is_sorted = True


_NONE: Final = Summaries(np.empty(0, np.int32), np.empty((0, len(Column))))


def pane_of(arrival: float, slide_ms: int) -> int:
    """Return the pane of an arrival (epoch seconds), exact against the boundaries as they are written out.

    >>> [pane_of(arrival, 5000) for arrival in (14.999999999999998, 15.0, -0.1)]
    [2, 3, -1]
    """
    pane = math.floor(arrival * 1000.0 / slide_ms)
    if pane * slide_ms / 1000.0 > arrival:
        return pane - 1
    if (pane + 1) * slide_ms / 1000.0 <= arrival:
        return pane + 1
    return pane


def _by_pane(arrival: Floats, slide_ms: int) -> Iterator[tuple[int, slice]]:
    """Return the panes of ordered arrivals, one at least, and the rows of each."""
    first, last = pane_of(float(arrival[0]), slide_ms), pane_of(float(arrival[-1]), slide_ms)
    begin = 0
    while first < last:
        end = int(np.searchsorted(arrival, (first + 1) * slide_ms / 1000.0))
        yield first, slice(begin, end)
        first, begin = pane_of(float(arrival[end]), slide_ms), end
    yield last, slice(begin, None)


class OpenWindows:
    """The frames of all windows that have not ended; `close` gives each window exactly once, when time reaches its end.

    Frames must come in arrival order, and not before a time given to `close`: every window that they belong
    to is then still open. Memory is that of the frames of one window length. `codec` is a number of
    `voice_quality.CODECS`, for the MOS of conversations without an own one. With `keeps_histogram`, `histogram` holds
    the latencies of the windows that have closed last.
    """

    def __init__(self, length_ms: int, slide_ms: int, codec: int = 0) -> None:
        self.slide_ms = slide_ms
        self.panes = length_ms // slide_ms
        self._codec = codec
        self._closed: int | None = None
        self._pending: list[_Pane] = []
        self.keeps_histogram = False
        self.histogram: Histogram | None = None

    def add(self, arrival: Floats, frames: Frames) -> None:
        """Add frames with their arrivals (epoch seconds), shape (n,)."""
        if not len(arrival):
            return
        for pane, rows in _by_pane(arrival, self.slide_ms):
            part = Frames._make(column[rows] for column in frames)
            if self._pending and self._pending[-1].pane == pane:
                self._pending[-1].add(part)
            else:
                self._pending.append(_Pane(pane, part))

    def ends_at(self, arrival: float) -> float:
        """Return the end of the last window that holds a frame of this arrival (epoch seconds)."""
        return (pane_of(arrival, self.slide_ms) + self.panes) * self.slide_ms / 1000.0

    def oldest(self, now: float) -> float:
        """Return the start of the earliest window that has not ended at `now`."""
        if now == -math.inf:
            return now
        return (pane_of(now, self.slide_ms) - self.panes + 1) * self.slide_ms / 1000.0

    def close(self, now: float, traits: Traits | None = None) -> Summaries:
        """Close the windows that end at or before `now` (epoch seconds), with what holds for each slot now."""
        if not self._pending or now < (self._first() + self.panes) * self.slide_ms / 1000.0:
            return by_end([])
        return self._close(pane_of(now, self.slide_ms) - self.panes, traits)

    def close_all(self, traits: Traits | None = None) -> Summaries:
        """Close every window that holds a frame, as at the end of a recording."""
        return self._close(self._pending[-1].pane, traits) if self._pending else by_end([])

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes; it shares only what is never changed."""
        return (self._closed, [(pane.pane, _narrowed(pane.frames)) for pane in self._pending])

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot."""
        self._closed = snapshot[0]
        self._pending = [_Pane(pane, _widened(*columns)) for pane, columns in snapshot[1]]

    def _first(self) -> int:
        """Return the number of the window that ends next, of those that hold a waiting frame."""
        first = self._pending[0].pane - self.panes + 1
        return first if self._closed is None else max(first, self._closed + 1)

    def _close(self, last: int, traits: Traits | None) -> Summaries:
        """Close all windows up to number `last`, one at least."""
        first = self._first()
        ending = [pane for pane in self._pending if pane.pane < last + self.panes]
        for pane in ending:
            pane.sort()
        number = np.repeat([pane.pane for pane in ending], [pane.count for pane in ending])
        frames = Frames(*map(np.concatenate, zip(*(pane.frames for pane in ending), strict=True)))
        closed, latencies = summarise(number, frames, first, last, self.panes, self.slide_ms)
        self.histogram = Histogram.of(*latencies) if self.keeps_histogram else None
        _rate(closed, self._codec, traits)
        self._pending = [pane for pane in self._pending if pane.pane > last]
        self._closed = last
        return closed


W = TypeVar("W", bound=OpenWindows)


def open_windows(settings: WindowSettings, kind: type[W] = OpenWindows) -> W:  # type: ignore[assignment]
    """Return the windows of a `[windows]` table, without frames yet."""
    codec = list(CODECS).index(settings.codec)
    return kind(round(settings.length_s * 1000), round(settings.slide_s * 1000), codec)


def _narrowed(frames: Frames) -> tuple[NDArray[Any], ...]:
    """Return the columns, with latencies in four bytes each if they fit: a sixth of a snapshot is latencies."""
    with np.errstate(invalid="ignore"):
        narrow = frames.latency_us.astype(np.int32)
    fits = np.array_equal(narrow, frames.latency_us)
    return frames.slot, narrow if fits else frames.latency_us, frames.packet_loss


def _widened(slot: NDArray[np.int32], latency_us: NDArray[Any], packet_loss: Floats) -> Frames:
    return Frames(slot, latency_us.astype(np.float64), packet_loss)


def by_end(parts: list[Summaries]) -> Summaries:
    """Return all rows by their ends; of windows that end together, those of the earlier part first."""
    parts = [part for part in parts if len(part.slot)]
    if not parts:
        return _NONE
    if len(parts) == 1:
        return parts[0]
    slot = np.concatenate([part.slot for part in parts])
    values = np.concatenate([part.values for part in parts])
    order = np.argsort(values[:, Column.END], kind="stable")
    return Summaries(slot[order], values[order])


def summarise(
    pane: Ints, frames: Frames, first: int, last: int, panes: int, slide_ms: int
) -> tuple[Summaries, tuple[Ints, Floats]]:
    """Summarise the windows `first` to `last` over frames of them, `pane` int64 (n,) of each; a window has `panes`.

    Quantiles are exact nearest-rank values; means are sums of whole microseconds, and of whole 1e-9 of loss, so
    that no order of addition shows in them. MOS, codec and labels are left to `_rate`. With them come the latencies,
    each with the row of its window.
    """
    windows = [pane - back for back in range(panes)]
    inside = [np.flatnonzero((window >= first) & (window <= last)) for window in windows]
    row = np.concatenate(inside)
    if not len(row):
        return by_end([]), (row, np.empty(0))
    window = np.concatenate([window[index] for window, index in zip(windows, inside, strict=True)])
    slots = int(frames.slot.max()) + 1
    lowest = int(window.min())
    groups, group = ranks((window - lowest) * slots + frames.slot[row].astype(np.int64))
    values = np.full((len(groups), len(Column)), np.nan)
    number = groups // slots + lowest
    values[:, Column.START] = number * slide_ms / 1000.0
    values[:, Column.END] = (number + panes) * slide_ms / 1000.0
    values[:, Column.FRAMES] = np.bincount(group, minlength=len(groups))
    latency_us = frames.latency_us[row]
    _latencies(values, group, latency_us)
    _losses(values, group, frames.packet_loss[row])
    return Summaries((groups % slots).astype(np.int32), values), (group, latency_us)


def _rate(closed: Summaries, default: int, traits: Traits | None) -> None:
    """Fill in the labels, and the MOS, to three decimals, each window's by the codec of its conversation."""
    codec = np.full(len(closed.slot), default, np.int8)
    closed.values[:, TEXTS] = 0
    if traits is not None:
        own = traits.codec.take(closed.slot)
        codec = np.where(own < 0, codec, own)
        closed.values[:, Column.LABELS] = traits.labels.take(closed.slot)
    delay_ms, packet_loss = closed.values[:, Column.LATENCY_MEAN], closed.values[:, Column.LOSS_MEAN]
    closed.values[:, Column.MOS] = np.round(mos_from_r(r_factor(delay_ms, packet_loss, codecs(codec))), 3)
    closed.values[:, Column.CODEC] = codec


def _latencies(values: Floats, group: Ints, latency_us: Floats) -> None:
    """Fill in the latency columns of each group that has any; count is 0 where it has none."""
    known = ~np.isnan(latency_us)
    group, latency = group[known], latency_us[known].astype(np.int64)
    count = np.bincount(group, minlength=len(values))
    values[:, Column.LATENCY_COUNT] = count
    if not len(group):
        return
    if np.abs(latency).max() < _LATENCY_BIAS and len(values) < _MAX_GROUPS:
        ordered = np.sort((group << _LATENCY_BITS) + (latency + _LATENCY_BIAS), kind="stable")  # merges panes
        ordered = (ordered & ((1 << _LATENCY_BITS) - 1)) - _LATENCY_BIAS
    else:
        ordered = latency[np.lexsort((latency, group))]
    some = np.flatnonzero(count)
    count = count[some]
    end = np.cumsum(count)
    start = end - count
    # Sums of whole microseconds are exact in float64 up to 2^53, and absurd ones do not overflow.
    total = np.add.reduceat(ordered.astype(np.float64), start)
    milliseconds = ordered / 1000.0
    values[some, Column.LATENCY_MIN] = milliseconds[start]
    values[some, Column.LATENCY_MEAN] = np.round(total / count / 1000.0, 6)
    values[some, Column.LATENCY_MAX] = milliseconds[end - 1]
    for column, percent in ((Column.LATENCY_P50, 50), (Column.LATENCY_P95, 95), (Column.LATENCY_P99, 99)):
        values[some, column] = milliseconds[start + (percent * count + 99) // 100 - 1]


def _losses(values: Floats, group: Ints, packet_loss: Floats) -> None:
    """Fill in the loss columns of each group that has any; count is 0 where it has none."""
    known = ~np.isnan(packet_loss)
    group, loss = group[known], packet_loss[known]
    count = np.bincount(group, minlength=len(values))
    values[:, Column.LOSS_COUNT] = count
    if not len(group):
        return
    begin = np.flatnonzero(np.append(True, group[1:] != group[:-1]))  # of frames of a group that stand together
    group = group[begin]
    billionths = np.bincount(group, weights=np.add.reduceat(np.rint(loss * 1e9), begin), minlength=len(values))
    worst = np.zeros(len(values))
    np.maximum.at(worst, group, np.maximum.reduceat(loss, begin))
    some = count > 0
    values[some, Column.LOSS_MEAN] = np.round(billionths[some] / count[some] / 1e9, 9)
    values[some, Column.LOSS_MAX] = worst[some]
