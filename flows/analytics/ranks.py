"""Rank whole numbers: the distinct ones in order, and the place of each number among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["ranks"]

Ints = NDArray[np.int64]


def ranks(key: Ints) -> tuple[Ints, Ints]:
    """Return the distinct keys in order, and for each row the place of its key. There is a key, and none is negative.

    >>> [found.tolist() for found in ranks(np.array([7, 3, 7]))]
    [[3, 7], [1, 0, 1]]
    """
    span = int(key.max()) + 1
    if span > 8 * len(key) + 65536:
        distinct, rank = np.unique(key, return_inverse=True)
        return distinct, rank
    present = np.zeros(span, np.bool_)
    present[key] = True
    distinct = np.flatnonzero(present)
    place = np.cumsum(present) - 1
    return distinct, place[key]
