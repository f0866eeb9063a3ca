"""Latencies counted in buckets that are 1 % wide: such counts can be added up, and give quantiles within 0.5 %."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_HISTOGRAM", "Histogram", "bucket_of", "middle_us"]

Ints = NDArray[np.int64]

_GAMMA: Final = 1.01
_LOG_GAMMA: Final = float(np.log(_GAMMA))


class Histogram(NamedTuple):
    """How many latencies of which window are in which bucket: `row` of the window, `bucket`, `times`; int64 (n,)."""

    row: Ints
    bucket: Ints
    times: Ints

    @classmethod
    def of(cls, row: Ints, latency_us: NDArray[np.float64]) -> Histogram:
        """Count latencies, shape (n,), NaN for none, by the row of their window and by their bucket."""
        known = ~np.isnan(latency_us)
        if not known.any():
            return NO_HISTOGRAM
        bucket = bucket_of(latency_us[known])
        first = int(bucket.min())
        buckets = int(bucket.max()) - first + 1
        # One number for each pair, for those sort ten times faster than pairs do.
        pair, times = np.unique(row[known] * buckets + (bucket - first), return_counts=True)
        return cls(pair // buckets, pair % buckets + first, times)


NO_HISTOGRAM: Final = Histogram(*(np.empty(0, np.int64) for _ in range(3)))


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
