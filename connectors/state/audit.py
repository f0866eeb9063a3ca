"""The audit log: append-only JSON Lines in which each line carries the SHA-256 of the line before it.

Next to the log lies its head, `<log>.head`: the log's length and the hash of its last line. The chain alone cannot
tell that the last lines were cut off or the very last one changed; the head can.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from connectors.errors import UsageError
from connectors.runtime.platform import sync_data
from connectors.state.actions import Action
from connectors.state.files import last_line, make_private_dir, open_private, state_errors, write_all

__all__ = [
    "AuditEntry",
    "AuditFault",
    "AuditLog",
    "AuditVerdict",
    "head_of",
    "read",
    "read_log",
    "verify",
    "verify_lines",
]

_FIRST = "0" * 64
_OWN_KEYS = frozenset({"time", "action", "conversation", "outcome", "prev"})


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What happened: an action, the conversation it concerns, how it ended, and what else is worth keeping.

    `details` must be JSON values under names other than time, action, conversation, outcome and prev. For an
    AuditSink it has an `id`, which is unique among the entries of an action.
    """

    action: str
    conversation: str | None
    outcome: str
    details: dict[str, Any] = field(default_factory=dict)


class AuditLog:
    """An audit log to append to; safe for use by several threads and processes at once.

    A line is in the page cache when `append` returns, so that a crash of the process loses none; a power loss may
    cost the last ones since `sync`. A torn last line, which only a full disk or a power loss leaves behind, is cut off
    at the next append, and an AUDIT_REPAIRED line says so. Every method raises StateError when the file cannot be
    used.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._now = now
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._head_fd = -1
        self._size = 0
        self._hash = _FIRST

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self._path

    def append(self, action: str, *, conversation: str | None, outcome: str, **details: object) -> None:
        """Add one line. Never pass a token, a secret or a body."""
        self.extend([AuditEntry(action, conversation, outcome, details)])

    def extend(self, entries: Iterable[AuditEntry]) -> None:
        """Add lines in one write, all with the time of the call."""
        entries = list(entries)
        if not entries:
            return
        for entry in entries:
            if clash := _OWN_KEYS.intersection(entry.details):
                raise ValueError(f"audit details must not be named {sorted(clash)}")
        with self._lock, state_errors(f"writing the audit log {self._path}"):
            fd = self._opened()
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                size = os.fstat(fd).st_size
                if size != self._size:  # another process has written, or this one has just begun
                    entries = [*self._catch_up(fd, size), *entries]
                self._write(fd, entries)
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)

    def size(self) -> int:
        """Return the length of the log in bytes."""
        with self._lock, state_errors(f"reading the audit log {self._path}"):
            return os.fstat(self._opened()).st_size

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        with self._lock, state_errors(f"syncing the audit log {self._path}"):
            sync_data(self._opened())

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                os.close(self._head_fd)
                self._fd = None

    def _opened(self) -> int:
        if self._fd is not None and not self._in_place(self._fd):
            os.close(self._fd)
            os.close(self._head_fd)
            self._fd = None
        if self._fd is None:
            make_private_dir(self._path.parent)
            self._fd = open_private(self._path, os.O_RDWR | os.O_APPEND)
            self._head_fd = open_private(_head_path(self._path), os.O_RDWR)
            self._size, self._hash = -1, _FIRST
        return self._fd

    def _in_place(self, fd: int) -> bool:
        """Return whether the path still leads to the open file: a log rotation may have moved it away."""
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _catch_up(self, fd: int, size: int) -> list[AuditEntry]:
        """Learn the hash of the last line; cut off a torn one; return the entries that say what was found."""
        first_look = self._size < 0
        start, line = last_line(fd, size)
        torn = line if line and not line.endswith(b"\n") else b""
        if torn:
            size = start
            os.ftruncate(fd, size)
            _, line = last_line(fd, size)
        self._size = size
        self._hash = hashlib.sha256(line[:-1]).hexdigest() if line else _FIRST
        found = []
        if torn:
            found.append(AuditEntry(Action.AUDIT_REPAIRED, None, "torn_line_cut", {"bytes": len(torn)}))
        head = _read_head(os.pread(self._head_fd, 200, 0)) if first_look else None
        if head is not None and (head[0] > size or (head[0] == size and head[1] != self._hash)):
            # Written down, because this append moves the head and would hide that lines are missing.
            details = {"expected_bytes": head[0], "expected_sha256": head[1], "found_bytes": size}
            found.append(AuditEntry(Action.AUDIT_REPAIRED, None, "last_lines_differ", details))
        return found

    def _write(self, fd: int, entries: list[AuditEntry]) -> None:
        at, prev = self._now(), self._hash
        lines = []
        for entry in entries:
            record = {"time": at, "action": entry.action, "conversation": entry.conversation}
            record |= {"outcome": entry.outcome, **entry.details, "prev": prev}
            line = orjson.dumps(record)
            prev = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        data = b"".join(lines)
        try:
            write_all(fd, data)
        except OSError:
            os.ftruncate(fd, self._size)  # a full disk: leave no torn line behind
            raise
        self._size += len(data)
        self._hash = prev
        # Fixed width, so that each write covers the one before and the file never holds half of two.
        os.pwrite(self._head_fd, b'{"bytes":%20d,"sha256":"%s"}\n' % (self._size, prev.encode()), 0)


@dataclass(frozen=True, slots=True)
class AuditFault:
    """A place where the log does not hold together; `line` counts from 1."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What a check of an audit log found. `notes` are remarks that are not faults, such as past repairs.

    `last` is the SHA-256 of the last line: who keeps it can tell later that no line up to it was changed.
    """

    lines: int
    faults: tuple[AuditFault, ...]
    notes: tuple[str, ...]
    last: str

    @property
    def ok(self) -> bool:
        """Return whether no line was changed, removed or inserted."""
        return not self.faults


def verify(path: Path) -> AuditVerdict:
    """Check the chain of the log at `path`, and its end against its head. Raises StateError if it cannot be read."""
    with state_errors(f"reading the audit log {path}"):
        head = head_of(path)
        with path.open("rb") as file:
            return verify_lines(file, head)


def head_of(path: Path) -> tuple[int, str] | None:
    """Return the length in bytes and the last hash that the head of the log at `path` names; None without a head.

    Raises OSError.
    """
    try:
        return _read_head(_head_path(path).read_bytes())
    except FileNotFoundError:
        return None


def verify_lines(lines: Iterable[bytes], head: tuple[int, str] | None = None) -> AuditVerdict:
    """Check a chain of lines (with their newlines) and, if `head` is given, the end: (length in bytes, last hash).

    Finds each place where a line was changed, removed or inserted. From the chain alone a changed line looks the
    same as lines removed after it, so a fault names both lines between which the chain is broken.
    """
    faults: list[AuditFault] = []
    notes: list[str] = []
    number = offset = 0
    before = previous = _FIRST  # the hashes of the last line but one and of the last line
    anchored = head is not None and head[0] == 0
    for number, line in enumerate(lines, 1):
        offset += len(line)
        if not line.endswith(b"\n"):
            faults.append(AuditFault(number, f"line {number} is torn: its last {len(line)} bytes have no end of line"))
            continue
        record = _record(line)
        if record is None:
            faults.append(AuditFault(number, _foreign(number)))
        elif record["prev"] == previous:
            pass
        elif record["prev"] == before and number > 1 and faults and faults[-1].line == number - 1:
            faults[-1] = AuditFault(number - 1, f"line {number - 1} was inserted")
        else:
            faults.append(AuditFault(*_break(number)))
        if record is not None and record.get("action") == "AUDIT_REPAIRED":
            notes.append(f"line {number}: the log was repaired ({record.get('outcome')})")
        before, previous = previous, hashlib.sha256(line[:-1]).hexdigest()
        anchored = anchored or (head is not None and head == (offset, previous))
    if head is None:
        notes.append("the head file is missing or unreadable: lines cut off at the end cannot be noticed")
    elif not anchored and not faults:  # a break further up shifts the end as well
        text = f"the log does not end as its head says: line {number} was changed, or lines after it were removed"
        faults.append(AuditFault(number, text))
    return AuditVerdict(number, tuple(faults), tuple(notes), previous)


def read(path: Path, *, start: int = 0) -> Iterator[dict[str, Any]]:
    """Return the records of the log at `path` from byte `start` on, which must begin a line.

    Lines that are not JSON objects are skipped; `verify` names them. Raises StateError if it cannot be read.
    """
    with state_errors(f"reading the audit log {path}"), path.open("rb") as file:
        file.seek(start)
        for line in file:
            record = _record(line)
            if record is not None:
                yield record


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Return the records of the whole log at `path`, as `read` does. Raises UsageError if no line is a record."""
    records = read(path)
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif path.stat().st_size:
        raise UsageError(
            f"{path}: {_foreign(1)}; a log has a JSON object with time, action, outcome and prev on each line: "
            "name that of a [state] dir, such as state/audit.jsonl"
        )


def _foreign(number: int) -> str:
    return f"line {number} is not a line of an audit log"


def _break(number: int) -> tuple[int, str]:
    if number == 1:
        return 1, "line 1 is not the first line of a log: lines before it were removed, or it was changed"
    return number, (
        f"the chain is broken between line {number - 1} and line {number}: line {number - 1} was changed, "
        "or lines were removed or inserted there"
    )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "prev" in record else None


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _read_head(data: bytes) -> tuple[int, str] | None:
    try:
        head = json.loads(data)
        return int(head["bytes"]), str(head["sha256"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # Infinity; a hundred thousand brackets
        return None
