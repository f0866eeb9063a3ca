"""Conversation ids as arrays: compared, hashed and handed on by the column, without a Python object for each.

An id is kept as its JSON text, the way orjson writes it: there is one such text for each id, it holds no zero byte,
and it is what stands in most lines that are read and in all that are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.words import Words, widened, words_of

__all__ = ["MAX_ID_BYTES", "Ids", "alike", "are_same"]

MAX_ID_BYTES: Final = 64
# In front of a digest, for it begins no text.
LONG: Final = b"\xff"
_DIGEST: Final = re.compile(LONG + rb"[0-9a-f]{62}")
# Numbers without a pattern, odd: the square roots of the first primes, behind the point.
_FACTORS: Final = np.array(
    [
        0x6A09E667F3BCC909,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
_MIX: Final = np.uint64(0xFF51AFD7ED558CCD)


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """The conversation ids of n rows.

    `key` uint64 (n, w): the id's JSON text without quotes, eight bytes a word, the first in the lowest, zeros behind
    its end; of an id whose text is longer than `MAX_ID_BYTES` a digest, and `long` has the id by it. `hash` uint64
    (n,): the same for the same id, in every block, permanently.
    """

    key: Words
    hash: Words
    long: dict[bytes, str] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[str]) -> Ids:
        """Return the rows of some ids.

        >>> Ids.of(["c1", ""]).texts()
        ['c1', '']
        """
        texts = [orjson.dumps(one)[1:-1] for one in ids]
        long: dict[bytes, str] = {}
        longest = max(map(len, texts), default=0)
        if longest > MAX_ID_BYTES:
            for row, text in enumerate(texts):
                if len(text) > MAX_ID_BYTES:
                    texts[row] = LONG + blake2b(text, digest_size=31).hexdigest().encode()
                    long[texts[row]] = ids[row]
        return cls.of_key(words_of(texts), long)

    @classmethod
    def of_key(cls, key: Words, long: dict[bytes, str] | None = None) -> Ids:
        """Return the rows of keys that are known to be right."""
        return cls(key, _hashes(key), long or {})

    def __len__(self) -> int:
        return len(self.hash)

    @property
    def is_long(self) -> NDArray[np.bool_]:
        """Return which rows have a digest for their key, shape (n,)."""
        long: NDArray[np.bool_] = (self.key[:, 0] & np.uint64(0xFF)) == np.uint64(LONG[0])
        return long

    def take(self, rows: NDArray[np.int64]) -> Ids:
        """Return some of the rows."""
        return Ids(self.key.take(rows, 0), self.hash.take(rows), self.long)

    def part(self, rows: slice) -> Ids:
        """Return a view of consecutive rows."""
        return Ids(self.key[rows], self.hash[rows], self.long)

    def key_text(self, row: int) -> bytes:
        """Return the key of a row without its end of zeros."""
        text: bytes = self.key[row].tobytes().rstrip(b"\0")
        return text

    def text(self, row: int) -> str:
        """Return the id of a row."""
        key = self.key_text(row)
        return self.long[key] if key.startswith(LONG) else str(orjson.loads(b'"%b"' % key))

    def texts(self) -> list[str]:
        """Return the ids of all rows."""
        return [self.text(row) for row in range(len(self))]

    def written_out(self, text: bytes) -> bytes:
        """JSON text with the ids of these rows for their digests."""
        return _DIGEST.sub(lambda key: orjson.dumps(self.long[key[0]])[1:-1], text) if self.long else text

    def order(self) -> NDArray[np.int64]:
        """Return the rows in the order of their ids, those of one id as they come.

        >>> Ids.of(["b", "a", "b"]).order().tolist()
        [1, 0, 2]
        """
        if self.long or b"\\" in self.key.tobytes():  # neither digests nor escapes are in the order of what they mean
            return np.array(sorted(range(len(self)), key=self.texts().__getitem__), np.int64)
        text = np.ascontiguousarray(self.key).view(f"S{8 * self.key.shape[1]}").ravel()
        return np.argsort(text, kind="stable")

    def concat(self, more: Ids) -> Ids:
        """Return these rows, and behind them others."""
        words = max(self.key.shape[1], more.key.shape[1])
        key = np.concatenate([widened(self.key, words), widened(more.key, words)])
        return Ids(key, np.concatenate([self.hash, more.hash]), {**self.long, **more.long})


def alike(ids: Ids, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each conversation among some rows, each in their order."""
    key = ids.key.take(rows, 0)
    _, first, group = np.unique(ids.hash.take(rows), return_index=True, return_inverse=True)
    if not are_same(key, key[first[group]]).all():  # ids of one hash; to sort by keys takes ten times as long
        _, group = np.unique(key, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(group[order])) + 1)


def are_same(some: Words, others: Words) -> NDArray[np.bool_]:
    """Return whether the keys in each row, (n, w) of one and (n, v) of the other, are those of the same id."""
    if some.shape[1] > others.shape[1]:
        some, others = others, some
    differ = np.zeros(len(some), np.uint64)
    for word in range(others.shape[1]):
        differ |= others[:, word] ^ some[:, word] if word < some.shape[1] else others[:, word]
    same: NDArray[np.bool_] = differ == 0
    return same


def _hashes(key: Words) -> Words:
    """Multilinear hashing of words folded into their lower halves, and the end of MurmurHash3's; zeros add nothing.

    Unfolded, a word's last character would only count in the hash's upper eight bits.

    D. Lemire and O. Kaser, "Strongly universal string hashing is fast", The Computer Journal 57 (2014).
    """
    mixed = (key ^ (key >> np.uint64(32))) @ _FACTORS[: key.shape[1]]
    mixed ^= mixed >> np.uint64(33)
    mixed *= _MIX
    mixed ^= mixed >> np.uint64(33)
    return mixed
