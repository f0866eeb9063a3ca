"""Which of several instances a conversation belongs to: rendezvous hashing of its id.

The owner of a conversation among `count` instances is the one with the largest score. The score of instance `index`
(from 0) is the hash of the id and the number of the instance, mixed::

    x = hash XOR ((index + 1) * 0x9E3779B97F4A7C15)      all modulo 2^64
    x = (x XOR (x >> 33)) * 0xFF51AFD7ED558CCD
    x = (x XOR (x >> 33)) * 0xC4CEB9FE1A85EC53
    score = x XOR (x >> 33)

`hash` is that of `Ids`. Of equal scores the first instance wins. So each instance gets an equal share, and when `count`
grows from N to N + 1, one conversation in N + 1 moves, always to the new instance.

D. Thaler and C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6
(1998). The mixing is the end of MurmurHash3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids
from connectors.format.words import Words

__all__ = ["ALL", "Share", "owners_of"]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_SHIFT: Final = np.uint64(33)
_FACTORS: Final = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))


@dataclass(frozen=True, slots=True)
class Share:
    """The conversations of instance `index` of `count`.

    >>> [Share(index, 3).owns_text("c1") for index in range(3)]
    [False, True, False]
    """

    index: int
    count: int

    def owns(self, ids: Ids) -> NDArray[np.bool_]:
        """Return for each row whether its conversation is in this share, shape (n,)."""
        mine = np.ones(len(ids), np.bool_)
        score = _scores(ids.hash, self.index)
        for other in range(self.count):
            if other != self.index:
                theirs = _scores(ids.hash, other)
                mine &= score > theirs if other < self.index else score >= theirs
        return mine

    def owns_text(self, conversation_id: str) -> bool:
        """Return whether one conversation is in this share."""
        return self.count == 1 or bool(self.owns(Ids.of([conversation_id]))[0])


ALL: Final = Share(0, 1)


def owners_of(ids: Ids, count: int) -> NDArray[np.int64]:
    """Return the number of the instance that owns the conversation of each row, shape (n,).

    >>> owners_of(Ids.of(["c1", "c2", "c3", "c4"]), 2).tolist()
    [1, 1, 0, 1]
    """
    owner = np.zeros(len(ids), np.int64)
    best = _scores(ids.hash, 0)
    for index in range(1, count):
        score = _scores(ids.hash, index)
        is_better = score > best
        owner[is_better] = index
        best = np.maximum(best, score)
    return owner


def _scores(hashes: Words, index: int) -> Words:
    score = hashes ^ np.uint64((index + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF)
    for factor in _FACTORS:
        score ^= score >> _SHIFT
        score *= factor
    score ^= score >> _SHIFT
    return score
