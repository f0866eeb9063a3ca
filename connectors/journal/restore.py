"""What is in force at the end of a journal, and the repair of what a crash tore there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
import orjson

from connectors.format.lines import read_line, time_of
from connectors.format.notifications import ENDED
from connectors.format.records import CLOCK, Control, FrameLine, InvalidFrameError
from connectors.format.tables import FlowSettings
from connectors.journal.segments import SUFFIX, number_of, segments
from connectors.journal.watches import Watches
from connectors.runtime.logs import get_logger
from connectors.state.files import last_line, state_errors

__all__ = ["JournalState", "recover"]


class JournalState:
    """What a journal's writer must know of what is already in it."""

    def __init__(self) -> None:
        self.segment = 0
        self.time = 0.0
        self.watches = Watches()
        self.feeds: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Take in one line; one that is not a record changes nothing."""
        with suppress(InvalidFrameError):
            record = read_line(line)
            stepped = isinstance(record, Control) and record.kind == CLOCK
            time = time_of(record)
            before = self.time
            self.time = self.time if time is None else time if stepped else max(self.time, time)
            if stepped:
                self.watches.step_clock(self.time - before)
            else:
                self.watches.pass_time(self.time)
            if isinstance(record, FrameLine):
                self.watches.hear([record.frame.entity.id], self.time)
                if record.frame.event == ENDED:
                    self.watches.end(record.frame.entity.id)
            elif isinstance(record, Control) and record.kind == "settings":
                self.watches.limit(msgspec.convert(record.value, FlowSettings).silent_after_s, self.time)
            elif isinstance(record, Control) and record.kind == "watch":
                self._watch(line)
            elif isinstance(record, Control) and record.kind == "feed":
                self.feeds[record.value["name"]] = record.value["state"]

    def _watch(self, line: bytes) -> None:
        # With all of its settings, for it will be written again. Which cannot be for what is nested too deeply, or
        # holds a number beyond float64.
        with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
            watch = orjson.loads(line)["watch"]
            orjson.dumps(watch)
            self.watches.watch(watch, self.time)


def recover(directory: Path) -> JournalState:
    """Cut off what a crash tore, and read the last segment that is not empty, which tells all that is in force."""
    state = JournalState()
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
        begin, line = last_line(segment.fileno(), size)
        if not line or line.endswith(b"\n"):
            return size
        segment.truncate(begin)
    get_logger(__name__).warning("journal_torn_line_cut", segment=str(path), bytes=len(line))
    return begin
