"""Histograms: counted, summed by group and split by row, against plain counters."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flows.analytics.histograms import Histogram, bucket_of
from flows.analytics.ranks import ranks

ROWS = 6
latencies = st.none() | st.integers(-(10**15), 10**15) | st.integers(-2000, 200_000)


@given(
    st.lists(st.tuples(st.integers(0, ROWS - 1), latencies), max_size=40),
    st.lists(st.integers(-1, 3), min_size=ROWS, max_size=ROWS),
)
def test_the_sums_of_groups_are_those_of_their_windows(counted: list[tuple[int, int | None]], group: list[int]) -> None:
    """Each latency is counted in the group of its window; a latency that is missing, or without a group, is not."""
    latency_us = np.array([np.nan if latency is None else latency for _, latency in counted], np.float64)
    histogram = Histogram.of(np.array([row for row, _ in counted], np.int64), latency_us)
    expected: list[Counter[int]] = [Counter() for _ in range(4)]
    for row, latency in counted:
        if latency is not None and group[row] >= 0:
            expected[group[row]][int(bucket_of(np.array([float(latency)]))[0])] += 1
    found = histogram.of_groups(np.array(group, np.int64)).by_row(4)
    assert found == [dict(one) for one in expected]
    assert [list(one) for one in found] == [sorted(one) for one in expected]


@given(st.lists(st.integers(0, 50) | st.integers(0, 10**12), min_size=1, max_size=30))
def test_ranks_are_places_among_the_distinct_keys(keys: list[int]) -> None:
    """Keys far apart are ranked like keys side by side."""
    distinct, rank = ranks(np.array(keys, np.int64))
    assert distinct.tolist() == sorted(set(keys))
    assert distinct[rank].tolist() == keys
