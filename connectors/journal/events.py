"""Read the ids of the events, and the positions of the messages, that a journal already holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from connectors.format.events import event_ids_in
from connectors.format.lines import names_feed
from connectors.format.positions import positions_in
from connectors.journal.recording import Recording
from connectors.journal.segments import segments

__all__ = ["recorded_event_ids", "recorded_offsets"]

T = TypeVar("T")

_CHUNK_BYTES: Final = 4 << 20


def recorded_event_ids(directory: Path, feed: str, limit: int) -> list[str]:
    """Return the ids of the last events, at least `limit` if there are as many, that a feed has written, oldest first.

    Raise RecordingError for a segment that cannot be read.
    """
    return _last(directory, feed, limit, event_ids_in)


def recorded_offsets(directory: Path, feed: str, topic: str, limit: int) -> dict[int, int]:
    """Return the offset of the last message of each partition, among the last `limit` that a feed has written.

    Raise RecordingError for a segment that cannot be read.
    """
    found = _last(directory, feed, limit, positions_in)
    return {position.partition: position.offset for position in found if position.topic == topic}


def _last(directory: Path, feed: str, limit: int, find: Callable[[bytes, str], list[T]]) -> list[T]:
    """Return the last items of a feed, oldest first: at least `limit`, or all of them.

    A segment begins with the states of all feeds that there were before, so one that does not name the feed ends the
    search: a feed that is new reads one segment.
    """
    newest_first: list[list[T]] = []
    found = 0
    for segment in reversed(segments(directory)):
        items: list[T] = []
        is_named = False
        for chunk in _chunks(segment):
            items += find(chunk, feed)
            is_named = is_named or names_feed(chunk, feed)
        newest_first.append(items)
        found += len(items)
        if found >= limit or not is_named:
            break
    return [item for items in reversed(newest_first) for item in items]


def _chunks(segment: Path) -> Iterator[bytes]:
    if segment.stat().st_size:
        yield from Recording([segment]).chunks(0, 0, _CHUNK_BYTES)
