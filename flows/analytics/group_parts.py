"""Sum the windows of a shard's conversations for all groups at once.

All sums are of whole numbers, so that they are the same however the conversations are spread over shards. Latencies
are counted in buckets that are 1 % wide, so that quantiles of a group are within 0.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.analytics.histograms import Histogram
from flows.analytics.ranks import ranks
from flows.analytics.voice_quality import CODECS
from flows.analytics.windows import Column, Summaries

__all__ = ["GroupPart", "group_parts", "spans_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class GroupPart(NamedTuple):
    """What one shard adds to a group's window; latencies in whole microseconds, losses in 1e-9, MOS in 1e-3."""

    name: str
    value: str
    start: float
    end: float
    conversations: int
    breaching: int
    frames: int
    latency: tuple[int, float, float, float]
    loss: tuple[int, float, float]
    mos: tuple[int, float, float]
    codecs: tuple[bool, ...]
    histogram: dict[int, int]


def spans_of(closed: Summaries) -> tuple[Floats, Ints]:
    """Return the distinct starts and ends of windows, shape (m, 2), and for each window the place of its own."""
    times = closed.values[:, [Column.START, Column.END]]
    is_first = np.ones(len(times), np.bool_)
    is_first[1:] = np.any(times[1:] != times[:-1], axis=1)  # windows are ordered by end
    return times[is_first], np.cumsum(is_first) - 1


def group_parts(
    closed: Summaries,
    histogram: Histogram,
    breaching: NDArray[np.bool_],
    by: Sequence[str],
    labels: Mapping[int, Mapping[str, str]],
) -> list[GroupPart]:
    """Return what windows, shape (n,), add to their groups; `labels` has those of each number among them."""
    parts: list[GroupPart] = []
    spans, span = spans_of(closed)
    number = closed.values[:, Column.LABELS].astype(np.int64)
    for name in by:
        values, of_number = _values(name, labels)
        rows = np.flatnonzero(of_number[number] >= 0)
        if not len(rows):
            continue
        keys, group = ranks(span[rows] * len(values) + of_number[number[rows]])
        of_window = np.full(len(number), -1)
        of_window[rows] = group
        histograms = histogram.of_groups(of_window).by_row(len(keys))
        sums = _sums(closed.values[rows], breaching[rows], group)
        for key, of_key, buckets in zip(keys.tolist(), sums, histograms, strict=True):
            start, end = spans[key // len(values)].tolist()
            parts.append(GroupPart._make((name, values[key % len(values)], start, end, *of_key, buckets)))
    return parts


def _values(name: str, labels: Mapping[int, Mapping[str, str]]) -> tuple[list[str], Ints]:
    """Return the values of a label in order, and for each number of labels the place of its value, -1 for none."""
    values = sorted({one[name] for one in labels.values() if name in one})
    place = {value: at for at, value in enumerate(values)}
    of_number = np.full(max(labels, default=0) + 1, -1)
    for number, one in labels.items():
        if name in one:
            of_number[number] = place[one[name]]
    return values, of_number


def _sums(values: Floats, breaching: NDArray[np.bool_], group: Ints) -> Iterator[tuple[Any, ...]]:
    """Return for each group the fields of a `GroupPart` from `conversations` to `codecs`; each has a window."""
    order = np.argsort(group, kind="stable")
    begin = np.flatnonzero(np.append(True, np.diff(group[order]) != 0))
    column = values[order].T
    latencies, losses, mos = column[Column.LATENCY_COUNT], column[Column.LOSS_COUNT], column[Column.MOS]
    is_rated = ~np.isnan(mos)
    is_codec = [is_rated & (column[Column.CODEC] == codec) for codec in range(len(CODECS))]
    latency_us, loss = column[Column.LATENCY_MEAN] * latencies * 1000.0, column[Column.LOSS_MEAN] * losses * 1e9
    counts = [np.ones(len(order)), breaching[order], column[Column.FRAMES], latencies, losses, is_rated, *is_codec]
    totals = [np.rint(_known(total, 0.0)) for total in (latency_us, loss, mos * 1000.0)]
    least = [_known(column[one], np.inf) for one in (Column.LATENCY_MIN, Column.MOS)]
    most = [_known(column[Column.LATENCY_MAX], -np.inf), _known(column[Column.LOSS_MAX], 0.0)]
    found = (
        np.add.reduceat(np.array(counts, np.int64), begin, axis=1),
        np.add.reduceat(np.array(totals), begin, axis=1),
        np.minimum.reduceat(np.array(least), begin, axis=1),
        np.maximum.reduceat(np.array(most), begin, axis=1),
    )
    for count, total, low, high in zip(*(rows.T.tolist() for rows in found), strict=True):
        conversations, breaches, frames, with_latency, with_loss, rated, *rated_as = count
        latency = with_latency, total[0], low[0], high[0]
        loss_part, mos_part = (with_loss, total[1], high[1]), (rated, total[2], low[1])
        yield conversations, breaches, frames, latency, loss_part, mos_part, tuple(map(bool, rated_as))


def _known(column: Floats, none: float) -> Floats:
    return np.where(np.isnan(column), none, column)
