"""Read the last frames of a feed from a journal, which a feed knows again after a restart."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final

from connectors.format.recorded import frames_in
from connectors.journal.recording import Recording
from connectors.journal.segments import segments

__all__ = ["recorded_frames"]

_CHUNK_BYTES: Final = 4 << 20
RECALLED_FRAMES: Final = 10_000
RECALLED_BYTES: Final = 32 << 20


def recorded_frames(
    directory: Path, feed: str | None, *, limit: int = RECALLED_FRAMES, max_bytes: int = RECALLED_BYTES
) -> list[bytes]:
    """Return the last frames that a feed has written, oldest first: `limit`, or fewer if the last segments have
    `max_bytes`, so that a start takes no longer with a large journal.

    Raise RecordingError for a segment that cannot be read.
    """
    newest_first: list[deque[bytes]] = []
    found = read = 0
    for segment in reversed(segments(directory)):
        items: deque[bytes] = deque(maxlen=limit - found)
        if segment.stat().st_size:
            for chunk in Recording([segment]).chunks(0, 0, _CHUNK_BYTES):
                items += frames_in(chunk, feed)
                read += len(chunk)
        newest_first.append(items)
        found += len(items)
        if found >= limit or read >= max_bytes:
            break
    return [item for items in reversed(newest_first) for item in items]
