"""From conversations to their slots, for all rows of a block at once."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids, are_same
from connectors.format.words import widened

__all__ = ["NO_SLOT", "SlotIndex"]

NO_SLOT: Final = -1
# So that few conversations share a bucket.
_BUCKETS_A_SLOT: Final = 8


class SlotIndex:
    """A hash table with chains: a bucket knows a slot, and each slot the next of its bucket, if there is one."""

    def __init__(self) -> None:
        self._bucket = np.full(1, NO_SLOT, np.int32)
        self._next = np.full(1, NO_SLOT, np.int32)
        self._key = np.empty((1, 1), np.uint64)
        self._hash = np.empty(1, np.uint64)

    def add(self, ids: Ids, slots: NDArray[np.int32]) -> None:
        """Know who is in slots, shape (n,), none of which is known yet."""
        if not len(slots):
            return
        self._make_room(int(slots.max()) + 1, ids.key.shape[1])
        self._key[slots] = widened(ids.key, self._key.shape[1])
        self._hash[slots] = ids.hash
        self._link(slots)

    def remove(self, slot: int) -> None:
        """Forget who is in a slot that is known."""
        chain, at = self._bucket, int(self._places(self._hash[slot : slot + 1])[0])
        while chain[at] != slot:
            chain, at = self._next, int(chain[at])
        chain[at] = self._next[slot]

    def ids(self, slots: NDArray[np.int32]) -> Ids:
        """Return the conversation of each slot, or the last one known, shape (n,); long ids by their digests only."""
        return Ids(self._key.take(slots, 0), self._hash.take(slots))

    def find(self, ids: Ids) -> NDArray[np.int32]:
        """Return the slot of each row, shape (n,); NO_SLOT where none is known."""
        slot = self._bucket.take(self._places(ids.hash))
        unlike = ~are_same(self._key.take(slot, 0), ids.key)  # NO_SLOT's key is that of the last slot: any will do
        others = np.flatnonzero(unlike & (slot != NO_SLOT))
        while len(others):
            slot[others] = self._next.take(slot.take(others))
            others = others[slot.take(others) != NO_SLOT]
            unlike = ~are_same(self._key.take(slot.take(others), 0), ids.key.take(others, 0))
            others = others[unlike]
        return slot

    def _places(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (hashes & np.uint64(len(self._bucket) - 1)).view(np.int64)

    def _link(self, slots: NDArray[np.int32]) -> None:
        for slot, place in zip(slots.tolist(), self._places(self._hash[slots]).tolist(), strict=True):
            self._next[slot] = self._bucket[place]
            self._bucket[place] = slot

    def _make_room(self, slots: int, words: int) -> None:
        """Grow, and if so link the slots that are known into more buckets."""
        if words > self._key.shape[1]:
            self._key = widened(self._key, words)
        room = len(self._key)
        if slots <= room:
            return
        known = [self._chain(first) for first in self._bucket[self._bucket != NO_SLOT].tolist()]
        more = max(slots, 2 * room) - room
        self._key = np.concatenate([self._key, np.zeros((more, self._key.shape[1]), np.uint64)])
        self._hash = np.concatenate([self._hash, np.zeros(more, np.uint64)])
        self._next = np.concatenate([self._next, np.full(more, NO_SLOT, np.int32)])
        self._bucket = np.full(_BUCKETS_A_SLOT << (len(self._key) - 1).bit_length(), NO_SLOT, np.int32)
        self._link(np.array([slot for chain in known for slot in chain], np.int32))

    def _chain(self, slot: int) -> list[int]:
        """Return the slots of a bucket."""
        chain = []
        while slot != NO_SLOT:
            chain.append(slot)
            slot = int(self._next[slot])
        return chain
