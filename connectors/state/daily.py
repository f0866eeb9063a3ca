"""A Bytewax sink that begins a new file for each day, and removes old ones, without losing a line to a crash.

The file that is written is always `windows.jsonl` (or whatever its name is). When the first line of a later day comes,
the file is renamed to `windows-2026-11-28.jsonl`, by the day (UTC) of its last line, and a new one is begun.

A snapshot names the file that is written by the day of the newest renamed file, which is older. So a resumed run sees
which files were renamed after the snapshot: it puts the first of them back in its place, cut to its length at the
snapshot, and removes the others, whose lines come again.

Without a snapshot the flow begins where the journal begins, which may be later than the results do. The first line that
it writes, and those behind it, come again: those before it stay.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import orjson
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.state.ages import FileAges
from connectors.state.files import (
    last_line,
    logged_failures,
    make_private_dir,
    replace_durably,
    state_errors,
    sync_directory,
)
from connectors.state.results import daily_files, open_results
from connectors.state.sinks import JsonLinesPartition

__all__ = ["DailyLinesSink"]

DailyState = int | tuple[str, int, bool]
"""The length of the file; with renamed files also the day of the newest, and whether nothing was written yet."""

_DAY_S: Final = 86_400.0
_TIDY_EVERY_S: Final = 600.0


class _DailyPartition(StatefulSinkPartition[bytes, DailyState]):
    def __init__(
        self,
        path: Path,
        field: str,
        keep_days: int | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        state: DailyState | None,
    ) -> None:
        self._path = path
        self._field = field
        self._keep_days = keep_days
        self._now = now
        self._monotonic = monotonic
        self._ages = FileAges(path.with_name(f"{path.stem}-ages.json"))
        self._tidy_at = float("-inf")
        make_private_dir(path.parent)
        newest, size, is_fresh = state if isinstance(state, tuple) else ("", state or 0, not state)
        with state_errors(f"restoring {path}"):
            if is_fresh:
                newest = max(daily_files(path), default="")
            else:
                _put_back(path, newest)
        self._newest = newest
        self._is_fresh = is_fresh
        # What a fresh start may keep is known with its first line.
        size = path.stat().st_size if is_fresh and path.exists() else size
        self._file = JsonLinesPartition(path, size)
        self._size = size
        self._day = _day_of_end(path, field) if size and not is_fresh else ""

    def write_batch(self, values: list[bytes]) -> None:
        data = b"".join(values)
        if not data:
            return
        if not self._is_fresh and (self._keep_days is None or _day(data, self._field) <= self._day):
            self._write(data)
            return
        with logged_failures("output_rotate_failed", path=str(self._path)):
            for value in filter(None, values):
                if self._is_fresh:
                    self._begin_at(value[: value.find(b"\n") + 1])
                self._turn_to(_day(value, self._field))
                self._write(value)

    def snapshot(self) -> DailyState:
        size = self._file.snapshot()
        if self._keep_days is None and not self._newest and not (self._is_fresh and size):
            return size  # as before there were days
        with logged_failures("output_tidy_failed", path=str(self._path)):
            self._tidy()
        return self._newest, size, self._is_fresh

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write_batch([data])
        self._size += len(data)

    def _begin_at(self, first: bytes) -> None:
        """Remove the lines from the line `first` on, which the flow writes again; repeatable."""
        day = _day(first, self._field)
        with state_errors(f"removing results of {day} and later"):
            later = {each: file for each, file in daily_files(self._path).items() if each >= day}
            if later:
                self._path.unlink()
                for each, file in reversed(later.items()):
                    if each > day:
                        file.unlink()
                if day in later:
                    _unpack(later[day], self._path)
            size = _length_before(self._path, self._field, first)
        self._file.close()
        self._file = JsonLinesPartition(self._path, size)
        self._size, self._day = size, _day_of_end(self._path, self._field) if size else ""
        self._newest = max(daily_files(self._path), default="")
        self._is_fresh = False

    def _turn_to(self, day: str) -> None:
        """Begin a new file if the lines of a later day come. The day goes back only with a clock that was set."""
        if self._keep_days is not None and day > self._day > self._newest and self._size:
            self._file.snapshot()
            self._file.close()
            with state_errors(f"renaming {self._path}"):
                self._path.rename(self._path.with_stem(f"{self._path.stem}-{self._day}"))
                self._file = JsonLinesPartition(self._path, 0)
                sync_directory(self._path.parent)
            self._newest, self._size = self._day, 0
        if day > self._day or _days_between(day, self._day) > 1:
            self._day = day

    def _tidy(self) -> None:
        """Remove the files of days whose last line is older than they are kept, in time that has passed."""
        at = self._monotonic()
        if self._keep_days is None or at < self._tidy_at:
            return
        self._tidy_at = at + _TIDY_EVERY_S
        with state_errors(f"removing old files of {self._path}"):
            files = daily_files(self._path)
            ages = self._ages.update(files, self._now(), at)
            for day, file in files.items():
                if ages[day] > self._keep_days * _DAY_S:
                    file.unlink()
                    get_logger(__name__).info("results_removed", path=str(file))


class DailyLinesSink(FixedPartitionedSink[bytes, DailyState]):
    """Bytewax sink of items `(key, chunk)`, like `JsonLinesSink`, into a file for each day.

    `field` is the key of a line's time (epoch seconds). A chunk goes into the file of its last line's day. With
    `keep_days` None the file in force is written on, and nothing is removed.

    Without a resume state, the first line and what follows it are removed: the flow writes them again. Earlier lines
    stay, for the journal may no longer hold them.

    Delivery guarantee: exactly once, with recovery on, whenever it is killed.
    """

    def __init__(
        self,
        path: Path,
        field: str,
        *,
        keep_days: int | None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arguments = (path, field, keep_days, now, monotonic)

    def list_parts(self) -> list[str]:
        """Return the name of the one partition, whatever the number of workers."""
        return ["file"]

    def build_part(self, step_id: str, for_part: str, resume_state: DailyState | None) -> _DailyPartition:  # noqa: ARG002
        """Open the files; raises StateError if that fails."""
        with logged_failures("output_open_failed", step=step_id, path=str(self._arguments[0])):
            return _DailyPartition(*self._arguments, resume_state)


def _put_back(path: Path, newest: str) -> None:
    """Undo the renaming since a snapshot whose newest renamed file was that of the day `newest`."""
    later = [file for day, file in daily_files(path).items() if day > newest]
    for file in reversed(later[1:]):
        file.unlink()
    if later:
        _unpack(later[0], path)


def _unpack(file: Path, path: Path) -> None:
    """Move a renamed file to `path`, and decompress it if it was compressed."""
    if file.suffix == ".gz":

        def decompress(descriptor: int) -> None:
            with open_results(file) as packed, open(descriptor, "wb", closefd=False) as plain:
                try:
                    shutil.copyfileobj(packed, plain)
                except (EOFError, zlib.error) as error:
                    raise StateError(f"{file} is damaged ({error}): put it back whole, or move it away") from error

        os.close(replace_durably(path, decompress))
        file.unlink()
    else:
        file.replace(path)
    sync_directory(path.parent)


def _length_before(path: Path, field: str, first: bytes) -> int:
    """Return the length of the file up to the line `first`; without it, up to its last line of an earlier time.

    The file may not have it: the journal may begin in the middle of the first window.
    """
    size = path.stat().st_size if path.exists() else 0
    if not size:
        return 0
    at = orjson.loads(first)[field]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[: len(first)] == first:
            return 0
        if found := data.find(b"\n" + first) + 1:
            return found
        end = data.rfind(b"\n") + 1  # what follows was cut off by a crash
        while end and orjson.loads(data[(begin := data.rfind(b"\n", 0, end - 1) + 1) : end])[field] >= at:
            end = begin
    return end


def _days_between(first: str, second: str) -> int:
    """Return the days from one day to another one; 0 if one of them is empty."""
    if not (first and second):
        return 0
    return (date.fromisoformat(second) - date.fromisoformat(first)).days


def _day(lines: bytes, field: str) -> str:
    """Return the day of the last of some lines."""
    begin = lines.rfind(b"\n", 0, len(lines) - 1) + 1
    return datetime.fromtimestamp(orjson.loads(lines[begin:])[field], UTC).strftime("%Y-%m-%d")


def _day_of_end(path: Path, field: str) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        _, line = last_line(file.fileno(), size)
    return _day(line, field)
