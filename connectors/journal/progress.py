"""How far the source of a run has come in its journal: noted a block at a time, read by metrics and health checks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from connectors.format.lines import line_time
from connectors.journal.segments import Position, bytes_behind, segments, size_of

__all__ = ["Lag", "SourceProgress"]

CAUGHT_UP_BYTES: Final = 4096
MESSAGE_KINDS: Final = ("frame", "invalid")


class Lag(NamedTuple):
    """What is in the journal and not yet read: its bytes, and how long ago its oldest record arrived."""

    bytes: int
    seconds: float

    @property
    def is_none(self) -> bool:
        """Tell whether the reader has read all but what the last milliseconds brought."""
        return self.bytes < CAUGHT_UP_BYTES


class SourceProgress:
    """Where the source is in a journal, when it was last polled, and what its feeds have sent.

    The worker's thread writes it, a block at a time; any thread may read it. `feeds` are the names of the feeds that
    have one in their records; messages without a name are counted under `default_feed`. Nothing is known before
    `began`, and nothing at all in the processes of a cluster that do not hold the source.
    """

    def __init__(
        self,
        journal: Path,
        *,
        default_feed: str,
        feeds: tuple[str, ...] = (),
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.began = threading.Event()
        self._journal = journal
        self._default_feed = default_feed
        self._feeds = (default_feed, *feeds)
        self._clock_steps: Callable[[], int] = lambda: 0
        self._messages: Mapping[tuple[str | None, str], int] = {}
        self._now = now
        self._monotonic = monotonic
        self._polled_at = 0.0
        self._position = Position("")
        self._last_line = b""

    def begin(
        self,
        position: Position,
        messages: Mapping[tuple[str | None, str], int] | None = None,
        clock_steps: Callable[[], int] = lambda: 0,
    ) -> None:
        """Note that the source will read from here, with the writer's counts of messages and steps."""
        self._clock_steps = clock_steps
        self._position = position
        self._polled_at = self._monotonic()
        self._messages = {} if messages is None else messages
        self.began.set()

    def polled(self, position: Position, data: bytes) -> None:
        """Note that the source was polled: it has read `data`, and is at `position` now."""
        self._polled_at = self._monotonic()
        if not data:
            return
        self._position = position
        self._last_line = data[data.rfind(b"\n", 0, -1) + 1 :]

    @property
    def messages(self) -> dict[tuple[str, str], int]:
        """Return the number of messages since the start, by feed and kind, which is `frame` or `invalid`."""
        counts = Counter({(name, kind): 0 for name in self._feeds for kind in MESSAGE_KINDS})
        for (via, kind), count in dict(self._messages).items():
            counts[via or self._default_feed, kind] += count
        return dict(counts)

    @property
    def clock_steps(self) -> int:
        """Return the number of steps of the journal's time since the start."""
        return self._clock_steps()

    @property
    def idle_s(self) -> float | None:
        """Return the seconds since the source was polled; None while there is no source."""
        return self._monotonic() - self._polled_at if self.began.is_set() else None

    def lag(self) -> Lag:
        """Return the bytes that are still to be read, by the sizes of the segments. Raises OSError."""
        position, last_line = self._position, self._last_line
        behind = bytes_behind(self._journal, position)
        return Lag(behind, self._age_s(last_line) if behind >= CAUGHT_UP_BYTES else 0.0)

    def journal_bytes(self) -> int:
        """Return the bytes that all segments take on the disk. Raises OSError."""
        return sum(map(size_of, segments(self._journal)))

    def _age_s(self, line: bytes) -> float:
        """Return the age of the line that was read last, in seconds; the next one is hardly younger."""
        received_at = line_time(line)
        return 0.0 if received_at is None else max(self._now() - received_at, 0.0)
