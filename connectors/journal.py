"""The journal: everything the dataflow will consume, written down before it does. Also the recording format.

JSON Lines in numbered segments, `00000001.jsonl` and so on. A segment begins with the settings, the watches and the
feed states in force, so that it can be replayed alone, and appears under its name only when that much is in it.
A record is appended with its time, which never goes backward, whatever the clock does.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson
import structlog

from connectors.errors import StateError
from connectors.files import make_private_dir, open_private, state_errors, write_all
from connectors.segments import SUFFIX, number_of, segments

__all__ = ["Block", "Journal", "Recorder"]

MAX_INVALID_TEXT: Final = 4096
MAX_EPOCH_S: Final = 1e10
BUFFER_BYTES: Final = 256 * 1024


class Block(NamedTuple):
    """Some complete lines of a journal, in order; the last line of a torn recording may lack its newline.

    `number` counts blocks from 0 without a gap. `line` is the first line's number in `source`, from 1. `last` says
    that the recording ends with this block.
    """

    number: int
    source: str
    line: int
    data: bytes
    last: bool = False


class Recorder(Protocol):
    """What a feed writes to; safe to call from any thread."""

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        """A message as received, now or `at` epoch seconds; it becomes a `frame` record, or an `invalid` one with the
        reason.
        """

    def invalid(self, text: str, reason: str) -> None:
        """A message that cannot be a frame at all, such as a binary one."""

    def feed(self, name: str, state: Literal["up", "down"], reason: str) -> None:
        """A feed connected or was lost."""

    def watch(self, settings: dict[str, Any]) -> None:
        """A conversation is to be watched from here on, under these settings; or these are its new limits."""

    def is_watching(self, conversation_id: str) -> bool:
        """Whether a watch of this conversation is in force: written, and the conversation has not ended since."""

    def flush(self) -> None:
        """Write what is buffered; to be called a few milliseconds after the first record that is."""


class Journal:
    """The one writer of a journal; safe to call from any thread.

    `ended(message)` must return the id of the conversation that a frame ends, or None, and raise ValueError with
    the reason when the message is no valid frame. Opening repairs what a crash left behind: a torn last line is cut
    off, and a feed that was up is noted as lost.

    Raises StateError if the directory cannot be written; once a write has failed, every further call raises it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: dict[str, Any],
        ended: Callable[[bytes], str | None],
        now: Callable[[], float] = time.time,
        max_segment_bytes: int = 64 * 1024 * 1024,
        max_segment_age_s: float = 3600.0,
        sync_always: bool = False,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._ended = ended
        self._now = now
        self._max_segment_bytes = max_segment_bytes
        self._max_segment_age_s = max_segment_age_s
        self._sync_always = sync_always
        self._lock = threading.Lock()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._failure: StateError | None = None
        make_private_dir(directory)
        self._state = _recover(directory)
        self._fd = -1
        self._roll()
        for name, state in list(self._state.feeds.items()):
            if state == "up":
                self.feed(name, "down", "the run before this one ended without stopping")
        self.flush()

    @property
    def directory(self) -> Path:
        """Where the segments are."""
        return self._directory

    def is_watching(self, conversation_id: str) -> bool:
        """Whether a watch of this conversation is in force: written, and the conversation has not ended since."""
        return conversation_id in self._state.watches

    def recorder(self, name: str) -> Recorder:
        """This journal for one feed of several: its name is `via` in the frames and invalid messages it records."""
        return _NamedRecorder(self, name)

    def frame(self, text: str | bytes, *, at: float | None = None, via: str | None = None) -> None:
        """Append a message as received, now or `at` epoch seconds: as a `frame`, or as `invalid` with the reason."""
        # Before the lock: waiting for another thread's write is no latency of the call's.
        arrived = self._now() if at is None else at
        message = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        try:
            over = self._ended(message)
        except ValueError as error:
            self.invalid(message.decode("utf-8", "replace"), str(error), via=via)
            return
        if b"\n" in message or b"\r" in message:  # between tokens only: inside a string they are not JSON
            message = message.replace(b"\n", b" ").replace(b"\r", b" ")
        with self._lock:
            if over is not None:  # before the append, which may begin a segment with the watches in force
                self._state.watches.pop(over, None)
            source = b"" if via is None else b'"via":%b,' % orjson.dumps(via)
            self._append(b'{"received_at":%b,%b"frame":%b}\n' % (self._time(arrived), source, message))

    def invalid(self, text: str, reason: str, *, via: str | None = None) -> None:
        """Append a message that is no frame, cut at 4096 characters."""
        source = {} if via is None else {"via": via}
        with self._lock:
            self._record(source | {"invalid": _encodable(text[:MAX_INVALID_TEXT]), "reason": _encodable(reason)})

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
            self._state.watches[settings["conversation_id"]] = settings
            self._record({"watch": settings})
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
            fd = os.dup(self._fd)
        try:
            with self._failing("syncing"):  # without the lock, so that no feed waits for the disk
                os.fsync(fd)
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

    def _time(self, now: float | None = None) -> bytes:
        self._state.time = max(self._state.time, self._now() if now is None else now)
        return repr(self._state.time).encode()

    def _record(self, record: dict[str, Any]) -> None:
        self._append(b'{"received_at":%b,%b\n' % (self._time(), orjson.dumps(record)[1:]))

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
                os.fdatasync(self._fd)
        self._segment_bytes += len(data)
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

    def _roll(self) -> None:
        """Go on in a new segment, which appears with its head already in it."""
        with self._failing("starting a segment of"):
            head = b"".join(self._head())
            self._state.segment += 1
            path = self._directory / f"{self._state.segment:08d}{SUFFIX}"
            unnamed = path.with_suffix(".new")
            fd = open_private(unnamed, os.O_WRONLY | os.O_TRUNC)
            write_all(fd, head)
            os.fsync(fd)
            unnamed.rename(path)
            _sync_directory(self._directory)
            if self._fd >= 0:
                os.fsync(self._fd)
                os.close(self._fd)
            self._fd = fd
        self._segment_bytes = len(head)
        self._segment_since = self._state.time

    def _head(self) -> list[bytes]:
        records: list[dict[str, Any]] = [{"settings": self._settings}]
        records += [{"watch": settings} for settings in self._state.watches.values()]
        records += [
            {"feed": {"name": name, "state": state, "reason": "as in the segment before"}}
            for name, state in self._state.feeds.items()
        ]
        time = self._time()
        return [b'{"received_at":%b,%b\n' % (time, orjson.dumps(record)[1:]) for record in records]


class _NamedRecorder:
    """A journal's recorder for the feed of a name."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name
        self.feed = journal.feed
        self.watch = journal.watch
        self.is_watching = journal.is_watching
        self.flush = journal.flush

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        self._journal.frame(text, at=at, via=self._name)

    def invalid(self, text: str, reason: str) -> None:
        self._journal.invalid(text, reason, via=self._name)


class _State:
    """What a journal's writer must know of what is already in it."""

    def __init__(self) -> None:
        self.segment = 0
        self.time = 0.0
        self.watches: dict[str, dict[str, Any]] = {}
        self.feeds: dict[str, str] = {}

    def read(self, line: bytes) -> None:
        """Take in one line; one that is no record tells nothing."""
        # The standard library's decoder reads all that a feed's decoder may have let pass, such as an unread 1e999.
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            record = json.loads(line)
            if record["received_at"] > MAX_EPOCH_S:
                return
            self.time = max(self.time, record["received_at"])
            if "frame" not in record:
                record = orjson.loads(line)  # what is written again must be what orjson can write
            if "watch" in record:
                self.watches[record["watch"]["conversation_id"]] = record["watch"]
            elif "feed" in record:
                self.feeds[record["feed"]["name"]] = record["feed"]["state"]
            elif "frame" in record and record["frame"]["event"] == "conversation.ended":
                self.watches.pop(record["frame"]["entity"]["id"], None)


def _recover(directory: Path) -> _State:
    """Cut off what a crash tore, and read the last segment that is not empty, which tells all that is in force."""
    state = _State()
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
            structlog.get_logger(__name__).warning("journal_torn_line_cut", segment=str(path), bytes=size - keep)
    return keep


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
