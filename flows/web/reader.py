"""Read what a run writes into the read model, a piece at a time, in a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import orjson
from backports import zstd

from connectors.journal.segments import COMPRESSED, segments
from connectors.runtime.logs import get_logger
from flows.state import StateLayout
from flows.web.counting import counts_of
from flows.web.lines import Alert, Audit, Group, Window, control_records, decode_lines, placed_lines, record_time
from flows.web.model import Model
from flows.web.results import ResultsFollower, places
from flows.web.tail import CHUNK_BYTES, JournalFollower, LinesFollower

__all__ = ["StateReader"]

POLL_S: Final = 0.5
# After an unexpected error, which may come again at the same place: all files are read again.
AGAIN_S: Final = 2.0
T = TypeVar("T")
# Between two pieces, so that the threads of the dataflow take their turn.
PAUSE_S: Final = 0.001


class StateReader:
    """Keep a model up to date with a state directory, or the output of a replay.

    `read_once` reads what is there now; `start` goes on doing so in a thread. `model` is replaced by a new one when a
    resumed run has cut a file, or a day has ended, so take it from here each time. `on_failure` is called in that
    thread with each new reason why reading fails, "" when it works: after the first reading in any case.
    """

    def __init__(self, directory: Path, *, keep_s: float, on_failure: Callable[[str], None] = lambda _: None) -> None:
        self._state = StateLayout(directory)
        self._keep_s = keep_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="voicewatch-web-reader", daemon=True)
        self.changed = threading.Condition()
        self.model = Model(keep_s=keep_s)
        self.caught_up = threading.Event()
        self.failure = ""  # why the newest attempt to read failed
        self._on_failure = on_failure
        self._reported: str | None = None
        self._windows_decoder = msgspec.json.Decoder(Window)
        self._alerts_decoder = msgspec.json.Decoder(Alert)
        self._groups_decoder = msgspec.json.Decoder(Group)
        self._audit_decoder = msgspec.json.Decoder(Audit)
        self._followers: tuple[JournalFollower | ResultsFollower | LinesFollower, ...] = ()
        self._loading = self.model

    def start(self) -> None:
        """Read on until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._close()

    def read_once(self) -> None:
        """Read everything that is there. Raises OSError, EOFError and zstd.ZstdError."""
        if not self._followers:
            self._open(self._loading)
        while self._read_piece():
            self._stop.wait(PAUSE_S)
            if self._stop.is_set():
                return
        self.caught_up.set()

    def _run(self) -> None:
        is_broken = False
        while not self._stop.is_set():
            before = self.model, self.model.version, self.failure
            try:
                if is_broken:  # what was read may be half of a piece
                    self._close()
                    self._loading = Model(keep_s=self._keep_s)
                self.read_once()
                self.failure, is_broken = "", False
            except (OSError, EOFError, zstd.ZstdError) as error:
                self._report(reason_of(error))
            except Exception as error:  # a bug, which must not freeze the page in silence
                self._report(repr(error), error)
                is_broken = True
            if self.failure != self._reported and not self._stop.is_set():
                self._reported = self.failure
                self._on_failure(self.failure)
            if before != (self.model, self.model.version, self.failure):
                with self.changed:
                    self.changed.notify_all()
            self._stop.wait(AGAIN_S if is_broken else POLL_S)

    def _report(self, failure: str, bug: Exception | None = None) -> None:
        """Show a failure on the page; log it once, not at each attempt."""
        if failure != self.failure:
            get_logger(__name__).warning("web_reader_failed", error=failure, exc_info=bug)
        self.failure = failure

    def _open(self, model: Model) -> None:
        state = self._state
        newest = newest_result(state.windows, "end")
        since = 0.0 if newest is None else newest - self._keep_s
        self._journal = JournalFollower(state.journal, segment_before(state.journal, since))
        self._alerts = _results(state.alerts, "timestamp", since)
        self._windows = _results(state.windows, "end", since)
        self._groups = _results(state.groups, "end", since)
        self._audit = LinesFollower(state.audit, offset_at(state.audit, "time", since))
        self._followers = (self._journal, self._alerts, self._windows, self._groups, self._audit)
        self._pending = b""
        self._pending_at = (0, 0.0)
        self._loading = model

    def _close(self) -> None:
        for follower in self._followers:
            follower.close()
        self._followers = ()

    def _read_piece(self) -> bool:
        """Read the next piece of one file; False if there is none."""
        model = self._loading
        try:
            take = self._next_take(model)
        except EOFError:  # a resumed run has cut a file back to its last snapshot, or files of days have changed
            self._close()
            self._open(Model(keep_s=self._keep_s))
            return True
        if take is None:
            with model.lock:
                model.db.execute("BEGIN")
                model.flush()
                model.db.execute("COMMIT")
            self._publish(model)
            return False
        with model.lock:
            model.db.execute("BEGIN")
            take()
            model.prune()
            model.db.execute("COMMIT")
        return True

    def _next_take(self, model: Model) -> Callable[[], None] | None:
        """Return what takes the next piece: windows come after the records and alerts that explain them."""
        if not self._pending:
            offset, self._pending = self._windows.read()
            self._pending_at = offset, _time_of(self._pending[: self._pending.find(b"\n")], "end") or 0.0
        explained = self._pending and model.journal_at is not None and model.journal_at >= self._pending_at[1]
        if not explained and (journal := self._journal.read()):
            return partial(self._take_journal, model, journal)
        if alerts := self._alerts.read()[1]:
            return lambda: model.take_alerts(self._decode(model, self._alerts_decoder, alerts))
        if self._pending:
            return partial(self._take_windows, model)
        if groups := self._groups.read()[1]:
            return lambda: model.take_groups(self._decode(model, self._groups_decoder, groups))
        at, audit = self._audit.read()
        if audit:
            return partial(self._take_audit, model, at, audit)
        return None

    def _take_journal(self, model: Model, data: bytes) -> None:
        if (place := self._journal.place) is not None:
            model.marks.take(*place, data)
        model.take_records(control_records(data))
        model.take_messages(counts_of(data, model.feed_names))
        model.journal_at = record_time(data) or model.journal_at
        model.version += 1

    def _take_windows(self, model: Model) -> None:
        data, offset = self._pending, self._pending_at[0]
        self._pending = b""
        windows, places, bad = placed_lines(self._windows_decoder, data)
        model.bad_lines += bad
        model.take_windows(windows, [offset + place for place in places])

    def _take_audit(self, model: Model, offset: int, data: bytes) -> None:
        lines = self._decode(model, self._audit_decoder, data)
        model.audit.take(offset, data, lines)
        model.take_audit(lines)

    def _decode(self, model: Model, decoder: msgspec.json.Decoder[T], data: bytes) -> list[T]:
        records, bad = decode_lines(decoder, data)
        model.bad_lines += bad
        return records

    def _publish(self, model: Model) -> None:
        if self.model is not model:
            model.version += self.model.version
            self.model = model


def reason_of(error: Exception) -> str:
    """Return why a file cannot be read, with its name and not its directory.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "/var/lib/voicewatch/windows.jsonl"))
    'windows.jsonl: No such file or directory'
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(os.fsdecode(error.filename)).name}: {error.strerror}"
    return str(error) or type(error).__name__


def _results(path: Path, field: str, since: float) -> ResultsFollower:
    return ResultsFollower(path, since, lambda file: offset_at(file, field, since))


def newest_result(path: Path, field: str) -> float | None:
    """Return the time of the newest of some results, those of past days among them; None if there is none."""
    times = (newest_time(file, field) for _, file in reversed(places(path)))
    return next((at for at in times if at is not None), None)


def newest_time(path: Path, field: str) -> float | None:
    """Return the time in the last complete line of a file, None if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CHUNK_BYTES * 4, 0))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    return _time_of(lines[-2], field) if len(lines) > 1 else None


def offset_at(path: Path, field: str, since: float) -> int:
    """Return an offset in a file of lines in the order of their times; every line before it is before `since`."""
    if since <= 0.0 or not path.exists():
        return 0
    low, high = 0, path.stat().st_size
    with path.open("rb") as file:
        while high - low > CHUNK_BYTES:
            middle = (low + high) // 2
            file.seek(middle)
            file.readline()
            begin = file.tell()
            at = _time_of(file.readline(), field) if begin < high else None
            if at is None or at >= since:
                high = middle
            else:
                low = begin
    return low


def segment_before(directory: Path, since: float) -> str:
    """Return the name of the segment before the one to begin with, so that all since a time is read; "" for all."""
    if not directory.is_dir() or since <= 0.0:
        return ""
    names = segments(directory)
    for index in range(len(names) - 1, 0, -1):
        at = record_time(first_line(names[index]))
        if at is not None and at <= since:
            return names[index - 1].name
    return ""


def first_line(segment: Path) -> bytes:
    """Return the first line of a segment, plain or compressed."""
    if segment.suffix != COMPRESSED:
        with segment.open("rb") as file:
            return file.readline()
    with zstd.open(segment) as stream:
        return stream.read(CHUNK_BYTES).partition(b"\n")[0]


def _time_of(line: bytes, field: str) -> float | None:
    try:
        at = orjson.loads(line)[field]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return float(at) if isinstance(at, int | float) else None
