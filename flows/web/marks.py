"""Remember which parts of the journal can tell more of a conversation than its windows do."""

from __future__ import annotations

import bisect
import threading
from typing import Final

from connectors.journal.segments import number_of

__all__ = ["MARKS", "JournalMarks"]

# What is in the lines that a story is made of: parties, media, details, watches.
MARKS: Final = (b'"participants"', b'"mediaEndpointStats"', b'"v2.detail.events.conversation.', b'"watch":{')
# Parts nearer to each other are one.
NEAR_BYTES: Final = 1 << 20
MAX_SEGMENTS: Final = 1000


class JournalMarks:
    """Hold the marked parts of each plain segment, as far as it was read. Any thread may call it.

    Most of a journal is frames, so that a story is found without reading them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[str, list[tuple[int, int]]] = {}
        self._read: dict[str, tuple[int, int]] = {}

    def take(self, segment: str, begin: int, data: bytes) -> None:
        """Take whole lines that were read from an offset of a segment, in their order."""
        end = begin + len(data)
        is_marked = any(mark in data for mark in MARKS)
        with self._lock:
            first, _ = self._read.get(segment, (begin, begin))
            self._read[segment] = first, end
            if len(self._read) > MAX_SEGMENTS:
                oldest = next(iter(self._read))
                self._parts.pop(oldest, None)
                del self._read[oldest]
            if not is_marked:
                return
            parts = self._parts.setdefault(segment, [])
            if parts and begin - parts[-1][1] <= NEAR_BYTES:
                parts[-1] = parts[-1][0], end
            else:
                parts.append((begin, end))

    def is_unread(self, segment: str, offset: int) -> bool:
        """Return whether an offset is behind all that was read: the windows there are not known either."""
        with self._lock:
            newest = next(reversed(self._read), None)
            if newest is None or number_of(segment) < number_of(newest):
                return False
            return segment != newest or offset >= self._read[newest][1]

    def next(self, segment: str, offset: int) -> int:
        """Return the first offset from this one on that may be marked; it is `offset`, or a line begins there."""
        with self._lock:
            first, last = self._read.get(segment, (0, 0))
            if not first <= offset < last:
                return offset
            parts = self._parts.get(segment, [])
            at = bisect.bisect_right(parts, offset, key=lambda part: part[1])
            return last if at == len(parts) else max(offset, parts[at][0])
