"""Texts by the column: each a row of words of eight characters, with zeros where it has none, also inside of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flows.analytics.swar import Words

__all__ = ["beside", "text_of", "widened", "words_of"]


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


def widened(words: Words, width: int) -> Words:
    """The same texts in rows of so many words."""
    return words if words.shape[1] == width else np.pad(words, ((0, 0), (0, width - words.shape[1])))
