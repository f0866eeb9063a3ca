"""Number the JSON texts of labels, and of legs and event lags of windows, so that columns can refer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from re import compile as pattern
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.words import Words, words_of

__all__ = ["NO_LABELS", "LabelTexts", "with_long_texts"]

NO_LABELS: Final = 0
NO_TEXT: Final = b"{}"
# A longer text stands in rows by its digest, so that it does not make all rows as wide as it is.
_MAX_TEXT_BYTES: Final = 256
_DIGEST: Final = pattern(rb"\xfe[0-9a-f]{32}")
_SWEEP_AT: Final = 256


class LabelTexts:
    """Texts by number, number 0 without labels. A number that no column holds any more is used again."""

    def __init__(self) -> None:
        self._texts: list[bytes | None] = [NO_TEXT]
        self._numbers: dict[bytes, int] = {NO_TEXT: NO_LABELS}
        self._free: list[int] = []
        self._sweep_at = _SWEEP_AT

    def number(self, labels: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
        """Return the number of these labels, whose names are sorted, or of the legs or event lags of a window."""
        text = orjson.dumps(labels)
        number = self._numbers.get(text)
        if number is None:
            number = self._free.pop() if self._free else len(self._texts)
            self._texts[number : number + 1] = [text]
            self._numbers[text] = number
        return number

    def text(self, number: int) -> bytes:
        """Return the JSON text of a number."""
        text = self._texts[number]
        assert text is not None
        return text

    def words(self, numbers: NDArray[np.int64]) -> tuple[Words, dict[bytes, bytes]]:
        """Return the texts of some rows as words, and by its digest each text that is too long for that."""
        distinct, place = np.unique(numbers, return_inverse=True)
        long: dict[bytes, bytes] = {}
        texts = [self.short(number, long) for number in distinct.tolist()]
        return words_of(texts).take(place, 0), long

    def short(self, number: int, long: dict[bytes, bytes]) -> bytes:
        """Return the JSON text of a number, or its digest if it is too long for a row; then add it to `long`."""
        text = self.text(number)
        if len(text) <= _MAX_TEXT_BYTES:
            return text
        digest = b"\xfe" + blake2b(text, digest_size=16).hexdigest().encode()
        long[digest] = text
        return digest

    @property
    def is_due(self) -> bool:
        """Return whether enough texts have come to look for unused ones."""
        return len(self._numbers) > self._sweep_at

    def sweep(self, used: NDArray[np.int64]) -> None:
        """Drop the texts of all numbers but these, which may repeat."""
        is_used = np.zeros(len(self._texts), np.bool_)
        is_used[used] = is_used[NO_LABELS] = True
        for number in np.flatnonzero(~is_used).tolist():
            text = self._texts[number]
            if text is not None:
                del self._numbers[text]
                self._texts[number] = None
                self._free.append(number)
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._numbers))

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        return (list(self._texts), list(self._free), self._sweep_at)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot."""
        texts, free, self._sweep_at = snapshot
        self._texts, self._free = list(texts), list(free)
        self._numbers = {text: number for number, text in enumerate(self._texts) if text is not None}


def with_long_texts(lines: bytes, long: Mapping[bytes, bytes]) -> bytes:
    """Return lines with the texts themselves in place of their digests."""
    return _DIGEST.sub(lambda digest: long[digest[0]], lines) if long else lines
