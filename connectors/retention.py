"""Old journal segments: compressed once no restart can need them, removed when they have been kept long enough."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zstandard

from connectors.files import open_private
from connectors.logs import get_logger
from connectors.segments import COMPRESSED, number_of, segments

__all__ = ["Retention", "SafePlace", "compress", "tidy"]

LEVEL: Final = 3
CHUNK_BYTES: Final = 1 << 20
EVERY_S: Final = 60.0
SNAPSHOTS_BACK: Final = 10


class SafePlace:
    """The oldest segment that a restart may still need.

    Bytewax resumes from the last epoch that every worker has written down, which is behind the latest snapshot, and a
    power loss may set it back a little more. So a segment counts as left behind only some snapshots later.
    """

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=SNAPSHOTS_BACK)

    def note(self, segment: str) -> None:
        """A snapshot was taken in this segment."""
        self._recent.append(number_of(segment))

    @property
    def number(self) -> int:
        """Segments with a smaller number are not needed; 0 while that is not known."""
        return self._recent[0] if len(self._recent) == SNAPSHOTS_BACK else 0


class Retention(threading.Thread):
    """Tidies a journal once a minute, until stopped. A failure is logged and tried again: nothing depends on it."""

    def __init__(
        self, directory: Path, safe: SafePlace, *, keep_s: float, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(name="voicewatch-retention", daemon=True)
        self._directory = directory
        self._safe = safe
        self._keep_s = keep_s
        self._now = now
        self._stopped = threading.Event()

    def run(self) -> None:
        """Tidy until stopped."""
        while not self._stopped.wait(EVERY_S):
            try:
                tidy(self._directory, self._safe.number, self._now() - self._keep_s)
            except OSError as error:
                get_logger(__name__).warning("journal_tidy_failed", error=str(error))

    def stop(self) -> None:
        """Stop after the segment at hand."""
        self._stopped.set()
        self.join()


def tidy(directory: Path, below: int, before: float) -> None:
    """Compress the segments numbered below `below`, and remove those of them last written before `before`.

    `before` is in epoch seconds. Raises OSError.
    """
    for segment in segments(directory):
        if number_of(segment.name) >= below:
            return
        if segment.stat().st_mtime < before:
            segment.unlink()
        elif segment.suffix != COMPRESSED:
            compress(segment)


def compress(segment: Path) -> Path:
    """Replace a segment by its Zstandard form, with the same time of last change, and return its path.

    The plain file is removed only when the compressed one is on the disk under its name. Raises OSError.
    """
    target = segment.with_name(segment.name + COMPRESSED)
    unnamed = target.with_name(target.name + ".new")
    status = segment.stat()
    descriptor = open_private(unnamed, os.O_WRONLY | os.O_TRUNC)
    with segment.open("rb") as plain, os.fdopen(descriptor, "wb") as packed:
        zstandard.ZstdCompressor(level=LEVEL).copy_stream(plain, packed, read_size=CHUNK_BYTES)
        packed.flush()
        os.fsync(packed.fileno())
    os.utime(unnamed, ns=(status.st_atime_ns, status.st_mtime_ns))
    unnamed.rename(target)
    segment.unlink()
    return target
