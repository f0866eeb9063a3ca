"""The journal: everything the dataflow will consume, written down before it does. Also the recording format.

JSON Lines in numbered segments, `00000001.jsonl` and so on. A segment begins with the settings, the watches and the
feed states in force, so that it can be replayed alone, and appears under its name only when that much is in it.
A record is appended with its time, which never goes backward but at a `clock` record; see `clock`.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

from connectors.errors import StateError
from connectors.format.decode import Received, parse_messages
from connectors.format.lines import (
    beginning_of,
    invalid_line,
    message_head,
    message_lines,
    private_invalid_line,
    record_line,
)
from connectors.format.notifications import Heard
from connectors.format.records import CLOCK, frame_of
from connectors.format.tables import FlowSettings
from connectors.journal.clock import STEP_S, JournalClock, Moment, Reading, read_clocks
from connectors.journal.restore import recover
from connectors.journal.segments import SUFFIX
from connectors.runtime.logs import get_logger
from connectors.runtime.platform import sync_data
from connectors.state.files import make_private_dir, replace_durably, state_errors, write_all

__all__ = ["Journal", "Recorder"]

SET_FORWARD: Final = "the system clock was set forward, or the machine was suspended"
SET_BACK: Final = "the system clock was set back"
BEHIND: Final = "the system clock is behind the last record of the run before"
INTERRUPTED: Final = "the run before this one ended without stopping"
BUFFER_BYTES: Final = 256 * 1024
MAX_SEGMENT_BYTES: Final = 64 * 1024 * 1024


class Recorder(Protocol):
    """What a feed writes to; safe to call from any thread."""

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        """Record a message as received, now or `at` epoch seconds: as a `frame`, or as an `invalid` record with the
        reason.
        """

    def frames(self, messages: Sequence[bytes]) -> Received:
        """Record messages that arrived together, now, in order, each as by `frame`, and return them parsed."""

    def event(self, message: bytes, heard: Heard | None, *, at: float | None = None) -> None:
        """Record a notification as by `frame`, without parsing it; `heard` is what `read_notification` returns."""

    def invalid(self, message: str | bytes, reason: str, *, private: bool = False) -> None:
        """Record a message that cannot be a frame, such as a binary one: its text, or, if it is `private`, its length
        and SHA-256.
        """

    def feed(self, name: str, state: Literal["up", "down"], reason: str) -> None:
        """Record that a feed connected or was lost."""

    def watch(self, settings: dict[str, Any]) -> None:
        """Record that a conversation is watched from here on under these settings, or its new limits."""

    def is_watching(self, conversation_id: str) -> bool:
        """Tell whether this conversation is watched: its watch is written, and it has not ended since."""

    def watched_by(self, feed: str) -> list[str]:
        """Return the conversations whose watch a feed of this name began, also in an earlier run."""

    def watch_feed(self, conversation_id: str) -> str | None:
        """Return the feed that began the current watch of this conversation, None without such a feed."""

    def watch_settings(self, conversation_id: str) -> Mapping[str, Any] | None:
        """Return the value of the watch record in force of this conversation, None without one."""

    def flush(self) -> None:
        """Write what is buffered; to be called a few milliseconds after the first record that is."""

    def sync(self) -> None:
        """Write what is buffered, and return when everything recorded so far is on the disk."""


class Journal:
    """The one writer of a journal; safe to call from any thread.

    `on_step` is called with each step of the journal's time, in seconds, and the reason, under the journal's lock.

    Opening repairs what a crash left behind: a torn last line is cut off, and a feed that was up is recorded as down.

    Raises StateError if the directory cannot be written; once a write has failed, every further call raises it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: dict[str, Any],
        read_clocks: Callable[[], Reading] = read_clocks,
        on_step: Callable[[float, str], None] | None = None,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        max_segment_age_s: float = 3600.0,
        sync_always: bool = False,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._read_clocks = read_clocks
        self._on_step = on_step
        self._max_segment_bytes = max_segment_bytes
        self._max_segment_age_s = max_segment_age_s
        self._sync_always = sync_always
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._writes = 0
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._failure: StateError | None = None
        self.messages: Counter[tuple[str | None, str]] = Counter()
        """Messages received since it was opened, by the name of their feed and kind, which is `frame` or `invalid`."""
        make_private_dir(directory)
        self._state = recover(directory)
        self._fd = -1
        self.interrupted = interrupted = [name for name, state in self._state.feeds.items() if state == "up"]
        """The feeds that were up when the run before this one ended without stopping."""
        self._state.feeds.update(dict.fromkeys(interrupted, "down"))
        self.clock_steps = 0
        """How often the journal's time has stepped since it was opened."""
        reading = read_clocks()
        self._clock = JournalClock(reading, self._state.time)
        if not interrupted:
            self._state.time = self._clock.time
        self._state.watches.pass_time(self._state.time)
        self._state.watches.limit(msgspec.convert(settings, FlowSettings).silent_after_s, self._state.time)
        # The feeds have been down since the last record: no conversation counts as stalled for that time.
        self._roll(dict.fromkeys(interrupted, INTERRUPTED))
        self._segment_since = self._clock.time
        if self._clock.time > reading.wall + STEP_S:
            with self._lock:
                self._moment(reading, reason=BEHIND)
                self._write()

    @property
    def directory(self) -> Path:
        """Return the directory of the segments."""
        return self._directory

    @property
    def writes(self) -> int:
        """Return the number of writes so far; a reader compares it to detect new data."""
        return self._writes

    def wait_for_write(self, seen: int, timeout_s: float) -> None:
        """Return when there have been more than `seen` writes, after `timeout_s` at the latest."""
        with self._written:
            if self._writes <= seen:
                self._written.wait(timeout_s)

    def is_watching(self, conversation_id: str) -> bool:
        """Tell whether this conversation is watched: its watch is written, and it has not ended since."""
        return conversation_id in self._state.watches.settings

    def watched_by(self, feed: str | None) -> list[str]:
        """Return the conversations whose watch a feed of this name began, also in an earlier run; None for no feed."""
        return [one for one, settings in list(self._state.watches.settings.items()) if settings.get("feed") == feed]

    def watch_feed(self, conversation_id: str) -> str | None:
        """Return the feed that began the current watch of this conversation, None without such a feed."""
        return self._state.watches.settings.get(conversation_id, {}).get("feed")

    def watch_settings(self, conversation_id: str) -> Mapping[str, Any] | None:
        """Return the value of the watch record in force of this conversation, None without one."""
        return self._state.watches.settings.get(conversation_id)

    def recorder(self, name: str) -> Recorder:
        """Return a recorder for one feed of several, whose name is `via` in its frames and invalid messages."""
        return _NamedRecorder(self, name)

    def frame(self, text: str | bytes, *, at: float | None = None, via: str | None = None) -> None:
        """Append a message as received, now or `at` epoch seconds: as a `frame`, or as `invalid` with the reason."""
        # Before the lock: waiting for another thread's write is not latency of the call.
        reading = self._read_clocks()
        message = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        self._keep(reading, [message], parse_messages([message]), via, at)

    def frames(self, messages: Sequence[bytes], *, via: str | None = None) -> Received:
        """Append messages that arrived together, now, in order, and return them parsed. Faster than `frame` each."""
        if not messages:
            return Received([], {})
        reading = self._read_clocks()
        received = parse_messages(messages)
        self._keep(reading, messages, received, via)
        return received

    def event(self, message: bytes, heard: Heard | None, *, at: float | None = None, via: str | None = None) -> None:
        """Append a notification that the caller has parsed; `heard` is what `read_notification` returns for it."""
        reading = self._read_clocks()
        self._keep(reading, [message], Received([] if heard is None else [frame_of(heard)], {}), via, at)

    def invalid(self, message: str | bytes, reason: str, *, private: bool = False, via: str | None = None) -> None:
        """Append a message that is not a frame: its text, cut at 4096 characters, or its length and SHA-256."""
        with self._lock:
            self.messages[via, "invalid"] += 1
            head = message_head(self._moment(self._read_clocks()).received_at, via)
            if private:
                data = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
                self._append(private_invalid_line(head, data, reason))
            else:
                self._append(invalid_line(head, beginning_of(message), reason))

    def tick(self) -> None:
        """Append a tick, and bring everything so far to the disk."""
        with self._lock:
            self._record({"tick": True})
        self.sync()

    def feed(self, name: str, state: Literal["up", "down"], reason: str) -> None:
        """Append that a feed connected or was lost."""
        with self._lock:
            self._state.feeds[name] = state
            self._record({"feed": {"name": name, "state": state, "reason": reason}})

    def watch(self, settings: dict[str, Any]) -> None:
        """Append the watch of a conversation, or its new limits, and write it."""
        with self._lock:
            self._record({"watch": settings}, lambda: self._state.watches.watch(settings, self._state.time))
            self._write()

    def flush(self) -> None:
        """Write what is buffered; a reader sees it at once, and kill -9 does not lose it."""
        with self._lock:
            self._write()

    def sync(self) -> None:
        """Write what is buffered, and wait until everything is on the disk: a power loss does not cost it."""
        with self._lock:
            if self._fd < 0:
                return
            self._write()
            with self._failing("syncing"):
                fd = os.dup(self._fd)
        try:
            with self._failing("syncing"):  # without the lock, so that no feed waits for the disk
                sync_data(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Write and sync what is left. Raises StateError if that fails."""
        with self._lock:
            if self._fd < 0:
                return
            try:
                self._write()
                with self._failing("syncing"):
                    os.fsync(self._fd)
            finally:
                os.close(self._fd)
                self._fd = -1

    def _keep(
        self, reading: Reading, messages: Sequence[bytes], received: Received, via: str | None, at: float | None = None
    ) -> None:
        """Append messages that arrived together, the frames among them and the others."""
        conversation_ids, ended = received.conversation_ids, received.ended
        with self._lock:
            self.messages[via, "frame"] += len(messages) - len(received.invalid)
            self.messages[via, "invalid"] += len(received.invalid)
            moment = self._moment(reading, at)
            # Before the append, which may begin a segment with the watches in force.
            self._state.watches.hear(conversation_ids, moment.received_at)
            for conversation_id in ended:
                self._state.watches.end(conversation_id)
            head = message_head(moment.received_at, via, moment.arrived_at)
            self._append(message_lines(head, messages, received.invalid))

    def _moment(self, reading: Reading, wall: float | None = None, *, reason: str | None = None) -> Moment:
        """Return the moment of a reading of the clocks, behind a `clock` record if the time has stepped."""
        moment = self._clock.at(reading, wall=wall)
        before, self._state.time = self._state.time, moment.received_at
        if not moment.step_s:
            self._state.watches.pass_time(moment.received_at)
        else:
            self._state.watches.step_clock(moment.received_at - before)  # as the dataflow sees it
            reason = reason or (SET_FORWARD if moment.step_s > 0 else SET_BACK)
            self.clock_steps += 1
            self._segment_since += moment.step_s
            self._append(record_line(moment.received_at, {CLOCK: {"step_s": moment.step_s, "reason": reason}}))
            get_logger(__name__).warning("clock_stepped", step_s=moment.step_s, reason=reason)
            if self._on_step is not None:
                self._on_step(moment.step_s, reason)
        return moment

    def _record(self, record: dict[str, Any], before: Callable[[], None] = lambda: None) -> None:
        moment = self._moment(self._read_clocks())
        before()
        self._append(record_line(moment.received_at, record))

    def _append(self, line: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._buffer.append(line)
        self._buffered += len(line)
        if self._buffered >= BUFFER_BYTES:
            self._write()

    def _write(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered = 0
        with self._failing("writing"):
            write_all(self._fd, data)
            if self._sync_always:
                sync_data(self._fd)
        self._segment_bytes += len(data)
        self._writes += 1
        self._written.notify_all()
        if (
            self._segment_bytes >= self._max_segment_bytes
            or self._state.time - self._segment_since >= self._max_segment_age_s
        ):
            self._roll()

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """Turn an OSError into the StateError that this call and every later one raises.

        For good, because the kernel tells of a lost page only once, and because nothing may follow a torn line.
        """
        try:
            with state_errors(f"{doing} the journal in {self._directory}"):
                yield
        except StateError as error:
            self._failure = error
            raise

    def _roll(self, feed_reasons: Mapping[str, str] | None = None) -> None:
        """Go on in a new segment, which appears with its head already in it, of the time of the last record."""
        with self._failing("starting a segment of"):
            head = b"".join(self._head(self._state.time, feed_reasons or {}))
            self._state.segment += 1
            path = self._directory / f"{self._state.segment:08d}{SUFFIX}"
            fd = replace_durably(path, lambda fd: write_all(fd, head))
            if self._fd >= 0:
                os.fsync(self._fd)
                os.close(self._fd)
            self._fd = fd
        self._segment_bytes = len(head)
        self._segment_since = self._state.time

    def _head(self, at: float, feed_reasons: Mapping[str, str]) -> list[bytes]:
        records: list[dict[str, Any]] = [{"settings": self._settings}]
        records += [{"watch": settings} for settings in self._state.watches.records()]
        records += [
            {"feed": {"name": name, "state": state, "reason": feed_reasons.get(name, "as in the segment before")}}
            for name, state in self._state.feeds.items()
        ]
        return [record_line(at, record) for record in records]


class _NamedRecorder:
    """A journal's recorder for the feed of a name."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name
        self.feed = journal.feed
        self.watch = journal.watch
        self.is_watching = journal.is_watching
        self.watched_by = journal.watched_by
        self.watch_feed = journal.watch_feed
        self.watch_settings = journal.watch_settings
        self.flush = journal.flush
        self.sync = journal.sync

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        self._journal.frame(text, at=at, via=self._name)

    def frames(self, messages: Sequence[bytes]) -> Received:
        return self._journal.frames(messages, via=self._name)

    def event(self, message: bytes, heard: Heard | None, *, at: float | None = None) -> None:
        self._journal.event(message, heard, at=at, via=self._name)

    def invalid(self, message: str | bytes, reason: str, *, private: bool = False) -> None:
        self._journal.invalid(message, reason, private=private, via=self._name)
