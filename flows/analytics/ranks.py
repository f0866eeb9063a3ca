"""Rank whole numbers, and order slots."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["ranks", "stable_order"]

Ints = NDArray[np.int64]

_FEW_SLOTS: Final = 1 << 16


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


def stable_order(slot: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the order of rows by their slots, (n,); rows of one slot stay in the order that they have.

    >>> stable_order(np.array([5, 2, 5, 2], np.int32)).tolist()
    [1, 3, 0, 2]
    """
    # Two bytes are sorted by their digits, which takes a third of the time.
    key = slot.astype(np.uint16) if slot.max(initial=0) < _FEW_SLOTS else slot
    return np.argsort(key, kind="stable")
