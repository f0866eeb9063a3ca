"""What is in force at the end of a journal, and the repair of what a crash tore there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import orjson

from connectors.journal.recording import MAX_EPOCH_S
from connectors.journal.segments import SUFFIX, number_of, segments
from connectors.runtime.logs import get_logger
from connectors.state.files import state_errors

__all__ = ["Ended", "JournalState", "recover"]

Ended = Callable[[Sequence[bytes]], tuple[Collection[str], Mapping[int, str]]]
"""Of some messages, the conversations that they end; and the index, in order, of each that is no frame, with why."""


class _Feed(msgspec.Struct):
    name: str
    state: str


class _Record(msgspec.Struct):
    """What matters here of a journal's record."""

    received_at: float
    frame: msgspec.Raw = msgspec.Raw()
    watch: msgspec.Raw = msgspec.Raw()
    feed: _Feed | None = None


_decode = msgspec.json.Decoder(_Record).decode


class JournalState:
    """What a journal's writer must know of what is already in it; `ended` is that of `Journal`."""

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self.segment = 0
        self.time = 0.0
        self.watches: dict[str, dict[str, Any]] = {}
        self.feeds: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Take in one line; one that is no record tells nothing."""
        with suppress(msgspec.MsgspecError, ValueError, RecursionError, KeyError, TypeError):
            record = _decode(line)
            if record.received_at > MAX_EPOCH_S:
                return
            self.time = max(self.time, record.received_at)
            if record.frame:
                # The very bytes that were looked at when they were received, so that the answer is the same.
                for conversation_id in self._ended([bytes(record.frame)])[0]:
                    self.watches.pop(conversation_id, None)
            elif record.watch:
                watch = orjson.loads(bytes(record.watch))
                orjson.dumps(watch)  # which takes less than loads does; it will be written again
                self.watches[watch["conversation_id"]] = watch
            elif record.feed is not None:
                self.feeds[record.feed.name] = record.feed.state


def recover(directory: Path, ended: Ended) -> JournalState:
    """Cut off what a crash tore, and read the last segment that is not empty, which tells all that is in force."""
    state = JournalState(ended)
    with state_errors(f"reading the journal in {directory}"):
        for leftover in directory.glob("*.new"):
            leftover.unlink()
        existing = segments(directory)
        if existing:
            state.segment = number_of(existing[-1].name)
        for path in reversed([path for path in existing if path.suffix == SUFFIX]):
            if _cut_torn_line(path) > 0:
                with path.open("rb") as lines:
                    for line in lines:
                        state.read(line)
                break
    return state


def _cut_torn_line(path: Path) -> int:
    """Cut off a last line without its newline; the bytes that are left."""
    with path.open("r+b") as segment:
        size = segment.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            begin = max(0, keep - 65536)
            segment.seek(begin)
            newline = segment.read(keep - begin).rfind(b"\n")
            if newline >= 0:
                keep = begin + newline + 1
                break
            keep = begin
        if keep < size:
            segment.truncate(keep)
            get_logger(__name__).warning("journal_torn_line_cut", segment=str(path), bytes=size - keep)
    return keep
