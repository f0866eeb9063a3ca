"""Read the ids of the events that a journal already holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from connectors.format.events import event_ids_in
from connectors.journal.recording import Recording
from connectors.journal.segments import segments

__all__ = ["recorded_event_ids"]

_CHUNK_BYTES: Final = 4 << 20


def recorded_event_ids(directory: Path, feed: str, limit: int) -> list[str]:
    """Return the ids of the last events, at least `limit` if there are as many, that a feed has written, oldest first.

    Raise RecordingError for a segment that cannot be read.
    """
    newest_first: list[list[str]] = []
    found = 0
    for segment in reversed(segments(directory)):
        ids = [id_ for chunk in _chunks(segment) for id_ in event_ids_in(chunk, feed)]
        newest_first.append(ids)
        found += len(ids)
        if found >= limit:
            break
    return [id_ for ids in reversed(newest_first) for id_ in ids]


def _chunks(segment: Path) -> Iterator[bytes]:
    if segment.stat().st_size:
        yield from Recording([segment]).chunks(0, 0, _CHUNK_BYTES)
