"""Latencies counted in buckets that are 1 % wide: such counts can be added up, and give quantiles within 0.5 %."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.analytics.ranks import ranks

__all__ = ["NO_HISTOGRAM", "Histogram", "bucket_of", "counted", "middle_us"]

Ints = NDArray[np.int64]

_GAMMA: Final = 1.01
_LOG_GAMMA: Final = float(np.log(_GAMMA))


class Histogram(NamedTuple):
    """How many latencies of which window are in which bucket: `row` of the window, `bucket`, `times`; int64 (n,).

    Ordered by row, then bucket.
    """

    row: Ints
    bucket: Ints
    times: Ints

    @classmethod
    def of(cls, row: Ints, latency_us: NDArray[np.float64]) -> Histogram:
        """Count latencies, shape (n,), NaN for none, by the row of their window and by their bucket."""
        known = ~np.isnan(latency_us)
        return counted(row[known], bucket_of(latency_us[known]))

    def of_groups(self, group: Ints) -> Histogram:
        """Return the sums of groups of windows; `group` int64 (n,) has that of each row, -1 for none."""
        of_row = group[self.row]
        grouped = of_row >= 0
        return counted(of_row[grouped], self.bucket[grouped], self.times[grouped])

    def by_row(self, rows: int) -> list[dict[int, int]]:
        """Return the buckets of each of `rows` rows, and how many latencies are in each."""
        bounds = np.searchsorted(self.row, np.arange(rows + 1)).tolist()
        bucket, times = self.bucket.tolist(), self.times.tolist()
        return [dict(zip(bucket[begin:end], times[begin:end], strict=True)) for begin, end in pairwise(bounds)]


NO_HISTOGRAM: Final = Histogram(*(np.empty(0, np.int64) for _ in range(3)))


def counted(row: Ints, bucket: Ints, times: Ints | None = None) -> Histogram:
    """Return the sum of `times`, once each by default, of equal buckets of equal rows; all int64 (n,)."""
    if not len(row):
        return NO_HISTOGRAM
    first = int(bucket.min())
    buckets = int(bucket.max()) - first + 1
    # One number for each pair, for those sort ten times faster than pairs do.
    pairs, pair = ranks(row * buckets + (bucket - first))
    return Histogram(pairs // buckets, pairs % buckets + first, np.bincount(pair, times).astype(np.int64))


def bucket_of(latency_us: NDArray[np.float64]) -> Ints:
    """Return the bucket of each latency: 0 for zero, then one for each 1 % more, negative ones for negative latencies.

    >>> bucket_of(np.array([0.0, 1.0, 1000.0, 1020.0, -1000.0])).tolist()
    [0, 1, 695, 697, -695]
    """
    size = np.abs(latency_us)
    bucket = np.floor(np.log(np.maximum(size, 1.0)) / _LOG_GAMMA).astype(np.int64) + 1
    return np.where(size < 1.0, 0, np.where(latency_us < 0, -bucket, bucket))


def middle_us(bucket: int) -> float:
    """Return the value that is at most 0.5 % from all values of a bucket.

    >>> round(middle_us(695)), middle_us(0)
    (1003, 0.0)
    """
    if bucket == 0:
        return 0.0
    middle = float(2.0 * _GAMMA ** abs(bucket) / (1.0 + _GAMMA))
    return middle if bucket > 0 else -middle
