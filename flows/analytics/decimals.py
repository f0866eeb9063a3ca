"""Numbers to text, by the column: what orjson would write for each, as words of eight characters.

The inverse of reading digits in words: D. Lemire's "Converting integers to fixed-digit representations quickly" (2021).
Zeros stand where a text has no character, also inside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from flows.analytics.swar import Words, repeat

__all__ = ["beside", "number_texts", "text_of", "words_of"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A decimal of so many digits is the shortest text of the float that is nearest to it.
_EXACT: Final = 10.0**15
# Smaller numbers are written with an exponent.
_SMALL: Final = 1e-4
_MINUS, _DOT, _ZERO = b"-.0"
_U: Final = np.uint64


def words_of(texts: Sequence[bytes]) -> Words:
    """Some texts as rows of words, zeros behind the end of each."""
    size = max(1, max(map(len, texts), default=0) + 7 >> 3) << 3
    return np.array(texts, f"S{size}").view(np.uint64).reshape(len(texts), size >> 3)


def beside(count: int, parts: Sequence[bytes | Words]) -> Words:
    """The texts of `count` rows, which all consist of these parts: a constant, or words (count, w).

    >>> text_of(beside(2, [b"<", words_of([b"a", b"bc"]), b">"]))
    b'<a><bc>'
    """
    columns = [words_of([part])[0] if isinstance(part, bytes) else part for part in parts]
    text = np.empty((count, sum(column.shape[-1] for column in columns)), np.uint64)
    at = 0
    for column in columns:
        text[:, at : at + column.shape[-1]] = column
        at += column.shape[-1]
    return text


def text_of(words: Words) -> bytes:
    """The texts of all rows together, one behind the other."""
    return words.tobytes().translate(None, b"\0")


def number_texts(values: Floats, decimals: int) -> Words:
    """What orjson writes for each of the numbers, shape (n,), one at least, as words (n, w).

    Fast if none has more `decimals`, 0 to 14, and all are zero or of a size from 1e-4 to below 10^15 / 10^decimals.
    With 0 they must be whole and fit into an int64, and are written without a dot.
    """
    scale = 10.0**decimals
    with np.errstate(over="ignore"):
        scaled = np.rint(values * scale)
    size = np.abs(scaled)
    exact = (scaled / scale == values) & (size < _EXACT) & ((np.abs(values) >= _SMALL) | (values == 0))
    if not (exact & (np.signbit(values) == (scaled < 0))).all():
        column = values if decimals else values.astype(np.int64)
        return words_of(orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b","))
    words = _spelled(_digits(size.astype(np.uint64), decimals), decimals)
    if scaled.min() < 0:
        words.insert(0, (scaled < 0) * _U(_MINUS))
    return np.stack(words, axis=1)


def _digits(value: Words, decimals: int) -> list[Words]:
    """The digits of integers below 10^15, behind zeros, one a byte: eight of them if there is room for a dot."""
    if decimals < 7 and int(value.max()) < 10**7:
        return [_eight_digits(value)]
    return [_eight_digits(half) for half in np.divmod(value, _U(10**8))]


def _eight_digits(value: Words) -> Words:
    """The digits of integers below 10^8, one a byte, the first in the lowest."""
    high = value // _U(10_000)
    pairs = high | ((value - high * _U(10_000)) << _U(32))
    high = ((pairs * _U(10_486)) >> _U(20)) & _U(0x0000_007F_0000_007F)
    pairs = high | ((pairs - high * _U(100)) << _U(16))
    high = ((pairs * _U(103)) >> _U(10)) & _U(0x000F_000F_000F_000F)
    digits: Words = high | ((pairs - high * _U(10)) << _U(8))
    return digits


def _spelled(digits: list[Words], decimals: int) -> list[Words]:
    """The text of digits, of which the first is zero: with a dot, and without zeros that nobody writes."""
    size = 8 * len(digits)
    if not decimals:
        kept = _from_first(digits, size - 1)
        return [(word | repeat(_ZERO)) & mask for word, mask in zip(digits, kept, strict=True)]
    dot = size - 1 - decimals
    # The digits before the dot go where the ones before them were, the first over the zero.
    no_digits = np.zeros_like(digits[0])
    moved = [(word >> _U(8)) | (more << _U(56)) for word, more in zip(digits, [*digits[1:], no_digits], strict=True)]
    marks = _constant(b"0" * dot + b"." + b"0" * decimals)
    before, behind = _constant(b"\xff" * dot + bytes(size - dot)), _constant(bytes(dot + 1) + b"\xff" * decimals)
    kept_from, kept_to = _from_first(moved, dot - 1), _to_last(digits, dot + 1)
    parts = zip(moved, before, digits, behind, marks, kept_from, kept_to, strict=True)
    return [((integer & a) | (word & b) | mark) & begin & end for integer, a, word, b, mark, begin, end in parts]


def _from_first(words: Sequence[Words], latest: int) -> list[Words]:
    """The bytes from the first that is not zero, and not from a later one than `latest`, as masks."""
    masks: list[Words] = []
    found = np.zeros_like(words[0])
    for word, mark in zip(words, _constant(_one(latest, 8 * len(words))), strict=True):
        some = word | mark
        masks.append(~((some & (~some + _U(1))) - _U(1)) | found)
        found = found | np.where(some == 0, _U(0), ~_U(0))
    return masks


def _to_last(words: Sequence[Words], earliest: int) -> list[Words]:
    """The bytes up to the last that is not zero, and not to an earlier one than `earliest`, as masks."""
    masks: list[Words] = []
    found = np.zeros_like(words[0])
    for word, mark in reversed(list(zip(words, _constant(_one(earliest, 8 * len(words))), strict=True))):
        some = word | mark
        some |= some >> _U(8)
        some |= some >> _U(16)
        some |= some >> _U(32)
        masks.insert(0, (((some + repeat(0x7F)) & repeat(0x80)) >> _U(7)) * _U(0xFF) | found)
        found = found | np.where(some == 0, _U(0), ~_U(0))
    return masks


def _constant(text: bytes) -> Words:
    return np.frombuffer(text, np.uint64)


def _one(place: int, size: int) -> bytes:
    return bytes(place) + b"\1" + bytes(size - place - 1)
