"""Bytewax sources over journals: one that is being written by feeds, and recordings."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
from bytewax.inputs import AbortExecution, FixedPartitionedSource

from connectors.errors import RecordingError, StateError
from connectors.format.lines import line_time, read_line, time_of
from connectors.format.records import CLOCK, Control, InvalidFrameError
from connectors.journal.blocks import Block
from connectors.journal.recording import UTF8_MARK, Progress, Recording, no_progress
from connectors.journal.retention import Retention
from connectors.journal.segments import JournalTail, Position, RetentionWatermark
from connectors.runtime.logs import get_logger
from connectors.runtime.polling import PolledPartition
from connectors.runtime.threads import Periodic
from connectors.state.files import StateLock, logged_failures

if TYPE_CHECKING:
    from connectors.journal.progress import SourceProgress
    from connectors.journal.writer import Journal
    from connectors.runtime.shutdown import Shutdown

__all__ = ["Feed", "JournalSource", "LiveState", "RecordingSource", "StoppedAt"]

LIVE_BLOCK_BYTES: Final = 1 << 20
BEHIND_BYTES: Final = LIVE_BLOCK_BYTES // 4
# A block has a cost of its own, so that a few frames more in one cost less than two blocks.
SPACING_S: Final = 0.002
QUIET_AFTER_S: Final = 0.05
QUIET_WAIT_S: Final = 0.05
REPLAY_BLOCK_BYTES: Final = 4 << 20
PACED_BLOCK_BYTES: Final = 1 << 16
TICK_S: Final = 1.0
NEWLINE: Final = ord("\n")

LiveState = tuple[tuple[str, int, int], int]
ReplayState = tuple[int, int, int, int]


class Feed(Protocol):
    """Something that writes what it hears into a journal, in threads of its own."""

    @property
    def failure(self) -> BaseException | None:
        """Return the error that ended the feed, None while it runs."""

    def start(self) -> None:
        """Begin to listen."""

    def stop(self, reason: str) -> None:
        """Stop listening, and note in the journal that the feed is down and why."""


class JournalSource(FixedPartitionedSource[Block, LiveState]):
    """The tail of a journal, which the feeds that this source starts are writing.

    One partition for the whole cluster: with several, a stalled one throttles the others permanently. It holds the lock
    of the state directory. When a shutdown is requested the feeds are stopped, what they wrote is read to the end, and
    the source ends, so that the flow takes its last snapshot. Segments that no restart needs are compressed, and
    removed `keep_s` seconds after their last record. `progress` gets the position of the source.

    At least once: it resumes from the place in the journal that its snapshot names, and what was written to the
    journal, which survives kill -9, is read.
    """

    def __init__(
        self,
        lock: Path,
        open_journal: Callable[[], Journal],
        feeds: Callable[[Journal], Sequence[Feed]],
        shutdown: Shutdown,
        *,
        keep_s: float,
        progress: SourceProgress | None = None,
    ) -> None:
        self._lock = lock
        self._open_journal = open_journal
        self._feeds = feeds
        self._shutdown = shutdown
        self._keep_s = keep_s
        self._progress = progress

    def list_parts(self) -> list[str]:
        """Return the name of the one partition."""
        return ["journal"]

    def build_part(self, step_id: str, for_part: str, resume_state: LiveState | None) -> _LivePartition:  # noqa: ARG002
        """Take the lock, open the journal and start the feeds. Raises StateError."""
        with logged_failures("journal_source_failed"):
            lock = StateLock(self._lock)
            lock.acquire()
            journal = self._open_journal()
            self._shutdown.reset()
            feeds = self._feeds(journal)
            return _LivePartition(lock, journal, feeds, self._shutdown, self._keep_s, resume_state, self._progress)


class _LivePartition(PolledPartition[Block, LiveState]):
    def __init__(
        self,
        lock: StateLock,
        journal: Journal,
        feeds: Sequence[Feed],
        shutdown: Shutdown,
        keep_s: float,
        resume_state: LiveState | None,
        progress: SourceProgress | None,
    ) -> None:
        self._lock = lock
        self._journal = journal
        self._feeds = feeds
        self._stop = shutdown.requested
        self._safe = RetentionWatermark()
        self._retention = Retention(journal.directory, self._safe, keep_s=keep_s)
        position, self._number = (None, 0) if resume_state is None else (Position(*resume_state[0]), resume_state[1])
        self._tail = JournalTail(journal.directory, position)
        self._progress = progress
        if progress is not None:
            progress.begin(self._tail.position, journal.messages, lambda: journal.clock_steps)
        self._ticker = Periodic("voicewatch-ticker", TICK_S, partial(_tick, journal, shutdown))
        self._ticker.start()
        self._retention.start()
        self._listening = True
        self._writes_read = -1
        self._read_at = float("-inf")
        self._behind = False
        for feed in feeds:
            feed.start()

    def next_batch(self) -> list[Block]:
        with logged_failures("journal_source_failed"):
            for failure in (self._ticker.failure, *(feed.failure for feed in self._feeds)):
                if failure is not None:
                    raise failure
            if self._stop.is_set() and self._listening:
                self._stop_listening("voicewatch was stopped")
            place, data = self._next_lines()
        if self._progress is not None:
            self._progress.polled(self._tail.position, data)
        if data:
            block = Block(self._number, place.segment, place.lines + 1, data)
            self._number += 1
            return [block]
        if not self._listening:
            raise StopIteration
        return self.nothing_yet()

    def _next_lines(self) -> tuple[Position, bytes]:
        """Return what has been written since the last call, if it is time to read it."""
        now = time.monotonic()
        if self._listening and not self._behind:
            if now < self._read_at + SPACING_S:
                return self._tail.position, b""
            if now > self._read_at + QUIET_AFTER_S:
                # Polling every millisecond takes several hundredths of a processor. While nothing happens there is
                # nothing else that Bytewax' worker could do, and here a write wakes it at once.
                self._journal.wait_for_write(self._writes_read, QUIET_WAIT_S)
        writes = self._journal.writes
        if writes == self._writes_read:
            return self._tail.position, b""
        place, data = self._tail.read(LIVE_BLOCK_BYTES)
        self._behind = len(data) >= BEHIND_BYTES
        if data:
            self._read_at = time.monotonic()
        else:
            self._writes_read = writes
        return place, data

    def snapshot(self) -> LiveState:
        with logged_failures("journal_source_failed"):
            self._journal.sync()  # the recovery store must not know of lines that a power loss can still take
        place = self._tail.position
        self._safe.note(place.segment)
        return ((place.segment, place.offset, place.lines), self._number)

    def close(self) -> None:
        try:
            if self._listening:
                self._stop_listening("voicewatch failed")
        except StateError as error:
            # Raising here while another exception unwinds would abort the process.
            get_logger(__name__).error("journal_source_close_failed", error=str(error))
        except Exception:
            get_logger(__name__).exception("journal_source_close_failed")
        self._lock.release()

    def _stop_listening(self, reason: str) -> None:
        self._listening = False
        for feed in self._feeds:
            feed.stop(reason)
        self._ticker.stop()
        self._retention.stop()
        self._journal.close()


def _tick(journal: Journal, shutdown: Shutdown) -> None:
    """Write a tick, so that time passes when nothing arrives, and look for a stop by another process."""
    journal.tick()
    shutdown.listen()


class StoppedAt(NamedTuple):
    """Where a replay was stopped: the lines read of a file, and the time of the last one in epoch seconds, if known."""

    path: Path
    lines: int
    received_at: float | None


class RecordingSource(FixedPartitionedSource[Block, ReplayState]):
    """Recorded files, read to their end as fast as the flow takes them, or at `speed` times the pace they were
    recorded at. Setting `stop` ends it early, as if the rest were still to come. A file that turns out to be damaged
    aborts the flow without its last snapshot, and `failure` says why.

    In a cluster the processes read plain files by themselves, and need to have them under the same paths.

    At least once: it resumes from the place in the files that its snapshot names.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        speed: float | None = None,
        stop: threading.Event,
        progress: Progress = no_progress,
    ) -> None:
        self.progress = progress
        self._recording = recording
        self._speed = speed
        self._stop = stop
        self.failure: RecordingError | None = None
        self.stopped_at: StoppedAt | None = None

    def list_parts(self) -> list[str]:
        """Return the name of the one partition."""
        return ["recording"]

    def build_part(self, step_id: str, for_part: str, resume_state: ReplayState | None) -> _RecordedPartition:  # noqa: ARG002
        """Begin reading, or go on."""
        return _RecordedPartition(self, self._recording, self._stop, resume_state, self._speed)


class _RecordedPartition(PolledPartition[Block, ReplayState]):
    def __init__(
        self,
        source: RecordingSource,
        recording: Recording,
        stop: threading.Event,
        resume_state: ReplayState | None,
        speed: float | None,
    ) -> None:
        self._source = source
        self._recording = recording
        self._stop = stop
        self._file, self._offset, self._lines, self._number = resume_state or (0, 0, 0, 0)
        self._pace = None if speed is None else _Pace(speed)
        self._chunks: Iterator[bytes] | None = None
        self._is_plain = False
        self._last = b""

    def next_batch(self) -> list[Block]:
        if self._file > len(self._recording.paths):
            raise StopIteration
        if self._stop.is_set():
            self._source.stopped_at = self.place()
            raise StopIteration
        with logged_failures("recording_source_failed"):
            try:
                blocks = self._next_blocks()
                self._source.progress(*self._recording.progress)
                return blocks
            except RecordingError as error:
                self._source.failure = error
        # Bytewax would print the traceback of any other exception, and there is nothing to debug.
        raise AbortExecution

    def place(self) -> StoppedAt:
        """Return the end of what has been read."""
        path = self._recording.paths[min(self._file, len(self._recording.paths) - 1)]
        return StoppedAt(path, self._lines, line_time(self._last))

    def snapshot(self) -> ReplayState:
        return (self._file, self._offset, self._lines, self._number)

    def _next_blocks(self) -> list[Block]:
        """Return the next chunk of lines, if its time has come; after all of them an empty block marked as the last."""
        while self._file < len(self._recording.paths):
            if self._chunks is None:
                self._chunks = self._open_file()
            data = next(self._chunks, None)
            if data is None:
                self._chunks = None
                self._file, self._offset, self._lines = self._file + 1, 0, 0
            elif data:
                return [self._block(data)]
            else:
                return self.nothing_yet()
        self._file += 1
        self._number += 1
        return [Block(self._number - 1, "", 1, b"", last=True)]

    def _open_file(self) -> Iterator[bytes]:
        self._is_plain = self._recording.is_plain(self._file)
        if self._pace is None:
            return self._recording.chunks(self._file, self._offset, REPLAY_BLOCK_BYTES)
        return self._pace.hold_back(self._recording.chunks(self._file, self._offset, PACED_BLOCK_BYTES))

    def _block(self, data: bytes) -> Block:
        text = data if self._offset else data.removeprefix(UTF8_MARK)
        self._offset += len(data)
        offset = self._offset - len(text) if self._is_plain else None
        path = str(self._recording.paths[self._file])
        block = Block(self._number, path, self._lines + 1, text, offset=offset)
        self._last = text[text.rfind(b"\n", 0, -1) + 1 :]
        self._number += 1
        # bytes.count, which restarts behind each newline, takes four times as long.
        self._lines += int(np.count_nonzero(np.frombuffer(data, np.uint8) == NEWLINE))
        return block


class _Pace:
    """The speed of a recording: when each of its lines is due."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began: tuple[float, float] | None = None
        self._reached = float("-inf")

    def hold_back(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the lines of the chunks that are due, and b"" where the next one is not yet."""
        for chunk in chunks:
            ready: list[bytes] = []
            for line in io.BytesIO(chunk):  # which ends lines at \n only, as the flow does
                while not self._is_due(line):
                    yield b"".join(ready)
                    ready.clear()
                ready.append(line)
            yield b"".join(ready)

    def _is_due(self, line: bytes) -> bool:
        try:
            record = read_line(line)
        except InvalidFrameError:
            return True
        at = time_of(record)
        if at is None:
            return True
        if self._began is None:
            self._began = (at, time.monotonic())
        began, started = self._began
        if isinstance(record, Control) and record.kind == CLOCK:
            self._began = (began + at - self._reached, started)  # a step changes no wait before it
            self._reached = at
            return True
        self._reached = max(self._reached, at)
        return (at - began) / self._speed <= time.monotonic() - started
