"""Numbers to text, by the column: what orjson would write for each.

The inverse of reading digits in words: D. Lemire, "Converting integers to fixed-digit representations quickly" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.words import Words, repeat, words_of

__all__ = ["number_texts", "scaled"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TOO_LONG: Final = 10.0**15
# Smaller numbers are written with an exponent.
_SMALL: Final = 1e-4
_MINUS, _DOT, _ZERO = b"-.0"
_U: Final = np.uint64


def number_texts(values: Floats, decimals: int) -> Words:
    """Return what orjson writes for each of the numbers, shape (n,), one at least, as words (n, w).

    Fast if all are short, see `scaled`. With no `decimals` they must be whole and fit into an int64, and are written
    without a dot.
    """
    whole, short = scaled(values, decimals)
    if not short.all():
        column = values if decimals else values.astype(np.int64)
        return words_of(orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b","))
    words = _spelled(_digits(np.abs(whole).astype(np.uint64), decimals), decimals)
    if whole.min() < 0:
        words.insert(0, (whole < 0) * _U(_MINUS))
    return np.stack(words, axis=1)


def scaled(values: Floats, decimals: int) -> tuple[Floats, Mask]:
    """Return the numbers times 10^decimals, and which are whole then, of 15 digits, written without an exponent.

    A decimal of 15 digits is the shortest text of the float that is nearest to it, which a division finds.
    """
    scale = 10.0**decimals
    with np.errstate(over="ignore"):
        whole = np.rint(values * scale)
    plain = (whole / scale == values) & (np.abs(whole) < _TOO_LONG) & ((np.abs(values) >= _SMALL) | (values == 0))
    return whole, plain & (np.signbit(values) == (whole < 0))


def _digits(value: Words, decimals: int) -> list[Words]:
    """Return the digits of integers below 10^15, behind zeros, one a byte: eight of them if there is room for a dot."""
    if decimals < 7 and int(value.max()) < 10**7:
        return [_eight_digits(value)]
    return [_eight_digits(half) for half in np.divmod(value, _U(10**8))]


def _eight_digits(value: Words) -> Words:
    """Return the digits of integers below 10^8, one a byte, the first in the lowest."""
    high = value // _U(10_000)
    pairs = high | ((value - high * _U(10_000)) << _U(32))
    high = ((pairs * _U(10_486)) >> _U(20)) & _U(0x0000_007F_0000_007F)
    pairs = high | ((pairs - high * _U(100)) << _U(16))
    high = ((pairs * _U(103)) >> _U(10)) & _U(0x000F_000F_000F_000F)
    digits: Words = high | ((pairs - high * _U(10)) << _U(8))
    return digits


def _spelled(digits: list[Words], decimals: int) -> list[Words]:
    """Format digits, of which the first is 0, with a decimal point, without leading and trailing zeros.

    Of 00123450 with four decimals those before the dot move over the zero, 012.3450, and 12.345 is kept.
    """
    size = 8 * len(digits)
    if not decimals:
        return [(word | repeat(_ZERO)) & kept for word, kept in zip(digits, _from_first(digits, size - 1), strict=True)]
    dot = size - 1 - decimals
    next_digits = [*digits[1:], np.zeros_like(digits[0])]
    marks = _constant(b"0" * dot + b"." + b"0" * decimals)
    before, behind = _constant(b"\xff" * dot + bytes(size - dot)), _constant(bytes(dot + 1) + b"\xff" * decimals)
    moved = [(word >> _U(8)) | (more << _U(56)) for word, more in zip(digits, next_digits, strict=True)]
    kept_from, kept_to = _from_first(moved, dot - 1), _to_last(digits, dot + 1)
    words = []
    for at, word in enumerate(digits):
        text = (moved[at] & before[at]) | (word & behind[at]) | marks[at]
        words.append(text & kept_from[at] & kept_to[at])
    return words


def _from_first(words: Sequence[Words], latest: int) -> list[Words]:
    """Return the bytes from the first that is not zero, and not from a later one than `latest`, as masks.

    Of that first byte, bits below its lowest are left out, which a digit's character does not have either.
    """
    masks: list[Words] = []
    found = np.zeros_like(words[0])
    for word, mark in zip(words, _constant(_one(latest, 8 * len(words))), strict=True):
        some = word | mark
        masks.append(~((some & (~some + _U(1))) - _U(1)) | found)
        found = found | np.where(some == 0, _U(0), ~_U(0))
    return masks


def _to_last(words: Sequence[Words], earliest: int) -> list[Words]:
    """Return the bytes up to the last that is not zero, and not to an earlier one than `earliest`, as masks."""
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
