"""Text in words: functions on arrays of eight characters each, the first in the lowest byte of a uint64.

"SIMD within a register", as in H. S. Warren, Hacker's Delight, 2nd edition, chapters 6 and 7. A field is a list of such
arrays, one row a line; what stands behind its end is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIRST_BYTES",
    "LETTER",
    "Words",
    "all_json_text",
    "beside",
    "byte_index",
    "decimal",
    "find",
    "json_text",
    "keep_first",
    "long_decimal",
    "repeat",
    "short_digits",
    "short_value",
    "text_of",
    "widened",
    "words_of",
]

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

QUOTE, BACKSLASH, DOT, ZERO, LETTER, SPACE, DELETE = b'"\\.0a \x7f'
MAX_INTEGER_DIGITS: Final = 10
MAX_DECIMALS: Final = 8
# Below it, an integer and eight decimals together are exact in float64. From it on, midpoints between floats are whole
# multiples of 2^-27, which no eight decimals come so near to (1e-8 · 2^-27) that rounding them first (2^-54) matters.
EXACT_SUM: Final = 1 << 26
FIRST_BYTES: Final = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
POWERS_OF_TEN: Final = 10.0 ** np.arange(9)
_U: Final = np.uint64


def repeat(byte: int) -> np.uint64:
    """Return a word of the byte, eight times."""
    return _U(byte * 0x0101010101010101)


_NO_DIGIT: Final = repeat(0xF0)


def byte_index(flags: Words) -> Ints:
    """Return the index of the lowest byte that is not zero, in words that are not zero.

    >>> byte_index(np.array([0x80, 0x800100], np.uint64)).tolist()
    [0, 1]
    """
    return np.bitwise_count((flags & (~flags + _U(1))) - _U(1)).astype(np.int64) >> 3


def _zeros(word: Words) -> Words:
    """Return flags, the lowest of which marks the lowest zero byte; 0 if no byte is zero."""
    return (word - repeat(1)) & ~word & repeat(0x80)


def find(words: Sequence[Words], byte: int) -> Ints:
    """Return where the byte is first; 8 · len(words) where it is not."""
    place = np.full(len(words[0]), 8 * len(words))
    for index in reversed(range(len(words))):
        flags = _zeros(words[index] ^ repeat(byte))
        place = np.where(flags != 0, 8 * index + byte_index(flags), place)
    return place


def keep_first(word: Words, count: Ints | int, filler: int = 0) -> Words:
    """Return the first `count` of eight characters (0 to 8, or beyond), the filler in place of the others."""
    kept: Words = FIRST_BYTES[np.clip(count, 0, 8)]
    return (word & kept) | (repeat(filler) & ~kept)


def json_text(words: Sequence[Words], length: Ints | int) -> Mask:
    """Return whether the first `length` characters are printable ASCII without quotes and backslashes: JSON text."""
    strange = np.zeros(len(words[0]), np.uint64)
    printable = np.full(len(words[0]), repeat(0x40))
    for index, word in enumerate(words):
        text = keep_first(word, length - 8 * index, LETTER)
        strange |= text
        printable &= text | (text << _U(1))  # from 0x20 on, one of the bits 0x20 and 0x40 is there
        for byte in (QUOTE, BACKSLASH):
            strange |= repeat(0x80) - (text ^ repeat(byte))  # whose top bits are those of the bytes that are it
    plain: Mask = ((strange & repeat(0x80)) == 0) & (printable == repeat(0x40))
    return plain


def all_json_text(words: Words) -> bool:
    """Return whether all characters of all rows, words (n, w), are what `json_text` asks for: a quarter of its work.

    >>> [all_json_text(np.frombuffer(text, np.uint64)[:, None]) for text in (b"eight of", b'a "quote')]
    [True, False]
    """
    text = words.view(np.uint8)
    return bool(text.min() >= SPACE and text.max() <= DELETE) and not any(
        (text == byte).any() for byte in (QUOTE, BACKSLASH)
    )


def decimal(words: Sequence[Words], length: Ints) -> tuple[Floats, Mask]:
    """Return the numbers that the first `length` characters of three words spell, and whether they do.

    Only the plain form is read, `digits` or `digits.digits`, up to ten before the dot and eight behind it. The result
    is the float nearest to the decimal: see `EXACT_SUM`.
    """
    dot = np.minimum(find(words[:2], DOT), length)
    decimals = np.maximum(length - dot - 1, 0)
    integer, integer_ok = _integer(words, dot)
    behind = dot + 1
    low = np.where(behind < 8, words[0], words[1])
    high = np.where(behind < 8, words[1], words[2])
    bits = (8 * (behind & 7)).astype(np.uint64)
    text = (low >> bits) | (high << (_U(64) - bits))
    billionths, decimals_ok = _eight_digits(keep_first(text, decimals, ZERO))
    plain = (decimals <= MAX_DECIMALS) & ((decimals > 0) | (dot == length))
    value = np.where(integer < EXACT_SUM, (integer * 1e8 + billionths) / 1e8, integer + billionths / 1e8)
    return value, integer_ok & decimals_ok & plain


def long_decimal(words: Sequence[Words], sample: bytes, terminator: int) -> tuple[Floats, Ints, Mask]:
    """Return the numbers that begin three words and look like the sample: values, lengths, and which do.

    So are those with as many digits before the dot (nine or ten), the same of them before the last eight, and one to
    seven behind it. For what is so, the value is that of `decimal`, for half of the work.
    """
    whole = sample.index(b".")
    head = _U(8 * (whole - 8))
    leading = _U(int.from_bytes(sample[: whole - 8], "little"))
    first, middle, last = words
    behind = middle >> head
    text = (behind >> _U(8)) | (last << (_U(56) - head))
    before, decimals, ok = _up_to(text, terminator)
    integer = _values((first >> head) | (middle << (_U(64) - head)))
    billionths = _values(text) & before
    strange = (_strange(integer) | _strange(billionths)) & _NO_DIGIT
    strange |= ((first ^ leading) & FIRST_BYTES[whole - 8]) | ((behind ^ _U(DOT)) & _U(0xFF))
    ok &= strange == 0
    value = (int(sample[: whole - 8]) * 1e8 + _number(integer)) + _number(billionths) / 1e8
    return value, decimals + (whole + 1), ok


def short_value(digits: Words, decimals: Ints) -> Floats:
    """Return the numbers whose digits `short_digits` has found, with the given number of decimals."""
    return _number(digits) / POWERS_OF_TEN.take(decimals)


def short_digits(words: Sequence[Words], terminator: int) -> tuple[Words, Ints, Ints, Mask]:
    """Return the digits of numbers at the beginning of two words that have a dot and two to seven digits.

    That is: all digits, how many are behind the dot, how long the text is, and whether there is such a number.
    """
    before, integers, ok = _up_to(words[0], DOT)
    without_dot = (words[0] & before) | (((words[0] >> _U(8)) | (words[1] << _U(56))) & ~before)
    _, count, found = _up_to(without_dot, terminator)
    digits = _values(without_dot) << (_U(64) - (count << 3).astype(np.uint64))
    ok &= found & (count > integers) & ((_strange(digits) & _NO_DIGIT) == 0)
    ok &= ((words[0] & _U(0xFF)) != ZERO) | (integers == 1)
    return digits, np.maximum(count - integers, 0), count + 1, ok


def _up_to(word: Words, byte: int) -> tuple[Words, Ints, Mask]:
    """Return a mask of the bytes before the first such byte, their number, and whether both exist."""
    flags = _zeros(word ^ repeat(byte))
    before = (flags ^ (flags - _U(1))) >> _U(8)
    found: Mask = (flags != 0) & (before != 0)
    return before, (np.bitwise_count(before) >> 3).astype(np.int64), found


def _integer(words: Sequence[Words], digits: Ints) -> tuple[Floats, Mask]:
    """Return the integers that the first `digits` characters spell, without a leading zero, and whether they do."""
    short = digits <= 8
    left = (8 * (np.where(short, 8, 16) - digits)).astype(np.uint64)
    carried = np.where(short, _U(0), words[0] >> (_U(64) - left))
    last, ok = _eight_digits(_pad(carried | (np.where(short, words[0], words[1]) << left), 8 - digits))
    ok &= (digits >= 1) & (digits <= MAX_INTEGER_DIGITS)
    ok &= ((words[0] & _U(0xFF)) != ZERO) | (digits == 1)
    if short.all():
        return last, ok
    top, top_ok = _eight_digits(_pad(np.where(short, _U(0), words[0] << left), 16 - digits))
    return top * 1e8 + last, ok & top_ok


def _pad(word: Words, count: Ints) -> Words:
    """Return the word with zeros written into its first `count` characters."""
    gone = FIRST_BYTES[np.clip(count, 0, 8)]
    return (word & ~gone) | (repeat(ZERO) & gone)


def _eight_digits(word: Words) -> tuple[Floats, Mask]:
    """Return the numbers that eight characters spell, and whether all of them are digits."""
    values = _values(word)
    return _number(values), (_strange(values) & _NO_DIGIT) == 0


def _values(word: Words) -> Words:
    """Return the values of eight characters as digits: 10 or more for a character that is not a digit."""
    return word ^ repeat(ZERO)


def _strange(values: Words) -> Words:
    """Return words in which bits of `_NO_DIGIT` are set at every byte that is not a decimal digit."""
    return values | (values + repeat(6))


def _number(values: Words) -> Floats:
    """Return the numbers that eight values of digits make."""
    word = (values * _U(2561)) >> _U(8)
    word = ((word & _U(0x00FF00FF00FF00FF)) * _U(6553601)) >> _U(16)
    word = ((word & _U(0x0000FFFF0000FFFF)) * _U(42949672960001)) >> _U(32)
    return word.astype(np.float64)


def words_of(texts: Sequence[bytes]) -> Words:
    """Return some texts as rows of words, zeros behind the end of each."""
    size = max(1, max(map(len, texts), default=0) + 7 >> 3) << 3
    return np.array(texts, f"S{size}").view(np.uint64).reshape(len(texts), size >> 3)


def beside(count: int, parts: Sequence[bytes | Words]) -> Words:
    """Return the texts of `count` rows, which all consist of these parts: a constant, or words (count, w).

    >>> text_of(beside(2, [b"<", words_of([b"a", b"bc"]), b">"]))
    b'<a><bc>'
    """
    columns = [words_of([part]) if isinstance(part, bytes) else part for part in parts]
    # Each word of all rows, and rows at the end: to write a part into every row takes three times as long.
    # The room behind the columns keeps the words of a row out of one set of the processor's cache.
    words = np.empty((sum(column.shape[1] for column in columns), count + 8), np.uint64)[:, :count]
    at = 0
    for column in columns:
        words[at : at + column.shape[1]] = column.T
        at += column.shape[1]
    return np.ascontiguousarray(words.T)


def text_of(words: Words) -> bytes:
    """Return the texts of all rows together, one behind the other."""
    return words.tobytes().translate(None, b"\0")


def widened(words: Words, width: int) -> Words:
    """Return the same texts in rows of the given number of words."""
    return words if words.shape[1] == width else np.pad(words, ((0, 0), (0, width - words.shape[1])))
