"""The durable outbox: callbacks wait here, in SQLite, until they are delivered or given up."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from connectors.errors import StateError
from connectors.state.files import make_private_dir, open_private

__all__ = ["Callback", "Due", "Entry", "Outbox", "OutboxState", "Settlement", "State", "Waiting", "outbox_state"]

State = Literal["pending", "delivered", "dead"]

_SCHEMA_VERSION = 1
# `head` marks the oldest pending callback of a conversation, the only one that may be sent. It is kept up to date
# on every change, so that picking work is a range read of a small partial index, however long the backlog is.
_SCHEMA = """
CREATE TABLE callbacks (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  conversation TEXT NOT NULL,
  url TEXT NOT NULL,
  body BLOB,
  state TEXT NOT NULL DEFAULT 'pending',
  head INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  requeued INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL,
  due_at REAL NOT NULL,
  done_at REAL,
  last_error TEXT
);
CREATE INDEX heads ON callbacks (url, due_at) WHERE head = 1;
CREATE INDEX pending ON callbacks (conversation, seq) WHERE state = 'pending';
CREATE INDEX delivered ON callbacks (done_at) WHERE state = 'delivered';
CREATE INDEX dead ON callbacks (seq) WHERE state = 'dead';
PRAGMA user_version = 1;
"""
_PROMOTE = """
UPDATE callbacks SET head = 1 WHERE head = 0 AND seq =
  (SELECT MIN(seq) FROM callbacks WHERE conversation = ? AND state = 'pending')
"""
# A loose index scan: one step for each receiver, not one for each callback.
_URLS = """
WITH RECURSIVE waiting(url) AS (
  SELECT MIN(url) FROM callbacks WHERE head = 1
  UNION ALL
  SELECT (SELECT MIN(url) FROM callbacks WHERE head = 1 AND url > waiting.url) FROM waiting WHERE url IS NOT NULL
) SELECT url FROM waiting WHERE url IS NOT NULL
"""
_SELECT = (
    "SELECT id, conversation, url, body, state, attempts, created_at, due_at, done_at, last_error, seq FROM callbacks"
)
# The states are literals, because a partial index serves only a query whose text implies its condition.
_BY_STATE: dict[State, str] = {
    "pending": _SELECT + " WHERE state = 'pending' ORDER BY seq LIMIT ?",
    "delivered": _SELECT + " WHERE state = 'delivered' ORDER BY seq LIMIT ?",
    "dead": _SELECT + " WHERE state = 'dead' ORDER BY seq LIMIT ?",
}
_COUNTS: dict[State, str] = {
    "pending": "SELECT COUNT(*) FROM callbacks WHERE state = 'pending'",
    "delivered": "SELECT COUNT(*) FROM callbacks WHERE state = 'delivered'",
    "dead": "SELECT COUNT(*) FROM callbacks WHERE state = 'dead'",
}
_ALL_DEAD = "SELECT id FROM callbacks WHERE state = 'dead' ORDER BY seq"
_REQUEUE = (
    "UPDATE callbacks SET state = 'pending', attempts = 0, due_at = ?, done_at = NULL, requeued = 1"
    " WHERE id = ? AND state = 'dead' RETURNING conversation"
)


_OUTBOX: Final = """
SELECT (SELECT COUNT(*) FROM callbacks WHERE state = 'pending'),
       (SELECT COUNT(*) FROM callbacks WHERE state = 'dead'),
       (SELECT MIN(created_at) FROM callbacks WHERE state = 'pending')
"""


class OutboxState(NamedTuple):
    """Callbacks that wait and that are dead, and how long the oldest of those that wait has waited."""

    pending: int
    dead: int
    age_s: float


def outbox_state(path: Path, now: float) -> OutboxState:
    """Look into an outbox that others may be writing; nothing if it does not exist yet. Raises sqlite3.Error."""
    if not path.exists():
        return OutboxState(0, 0, 0.0)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        pending, dead, oldest = db.execute(_OUTBOX).fetchone()
    return OutboxState(pending, dead, 0.0 if oldest is None else max(now - oldest, 0.0))


@dataclass(frozen=True, slots=True)
class Callback:
    """One HTTP POST to be made: `body` to `url`, under an `id` that stays the same for ever.

    Callbacks of one conversation are sent in the order in which they were inserted.
    """

    id: str
    conversation_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A callback that may be sent now; `attempts` were made before, `requeued` if somebody asked for it again."""

    callback: Callback
    attempts: int
    requeued: bool


@dataclass(frozen=True, slots=True)
class Due:
    """What can be sent now, and when (epoch seconds) the next one falls due, if one is known."""

    waiting: list[Waiting]
    next_at: float | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a callback: `state` "pending" means that it is to be tried again at `at` (epoch seconds)."""

    callback: Callback
    state: State
    at: float
    attempts: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the outbox as people see it. `body` is None once delivered. Times are epoch seconds."""

    id: str
    conversation_id: str
    url: str
    body: bytes | None
    state: State
    attempts: int
    created_at: float
    due_at: float
    done_at: float | None
    last_error: str | None


class Outbox:
    """Callbacks in a SQLite file (WAL, 0600); safe for use by several threads and processes.

    An insert is on the disk when it returns (`synchronous=FULL`): a power loss never costs a callback. What became
    of a callback is written without waiting for the disk (`NORMAL`): a power loss may forget the last moments,
    and those callbacks are sent again. A crash of the process (`kill -9`) costs neither.

    Every method raises StateError, with what to do, when the file is damaged, locked for long or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        make_private_dir(self._path.parent)
        os.close(open_private(self._path, os.O_RDWR))  # SQLite gives its -wal and -shm files the same mode
        with self._explained():
            self._db = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def insert(self, callbacks: Iterable[Callback], now: float) -> int:
        """Add callbacks in one transaction, due at once; return how many were new.

        An id that is already there, in whatever state, is left as it is.
        """
        batch = list(callbacks)
        rows = [(c.id, c.conversation_id, c.url, c.body, now, now) for c in batch]
        with self._write(durable=True):
            before = self._db.total_changes
            self._db.executemany(
                "INSERT INTO callbacks (id, conversation, url, body, created_at, due_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO NOTHING",
                rows,
            )
            inserted = self._db.total_changes - before
            self._promote({c.conversation_id for c in batch})
        return inserted

    def due(self, now: float, *, per_url: int = 64, busy: Collection[str] = frozenset()) -> Due:
        """The callbacks that may be sent at `now`: of each conversation the oldest pending one, if it is due.

        At most `per_url` for each receiver, longest due first; conversations in `busy` are left out (those count
        towards `per_url`). Reads only what it returns.
        """
        waiting: list[Waiting] = []
        next_at: float | None = None
        with self._lock, self._explained():
            for (url,) in self._db.execute(_URLS).fetchall():
                rows = self._db.execute(
                    "SELECT id, conversation, body, attempts, requeued FROM callbacks"
                    " WHERE head = 1 AND url = ? AND due_at <= ? ORDER BY due_at, seq LIMIT ?",
                    (url, now, per_url),
                )
                waiting += [
                    Waiting(Callback(id_, conversation, url, body), attempts, bool(requeued))
                    for id_, conversation, body, attempts, requeued in rows
                    if conversation not in busy
                ]
                (later,) = self._db.execute(
                    "SELECT MIN(due_at) FROM callbacks WHERE head = 1 AND url = ? AND due_at > ?", (url, now)
                ).fetchone()
                if later is not None and (next_at is None or later < next_at):
                    next_at = later
        return Due(waiting, next_at)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Write down what became of some callbacks, in one transaction; a callback that is not pending is left alone.

        When one is delivered or dead, the next of its conversation may go.
        """
        retried = [(s.attempts, s.at, s.error, s.callback.id) for s in settlements if s.state == "pending"]
        delivered = [(s.attempts, s.at, s.callback.id) for s in settlements if s.state == "delivered"]
        dead = [(s.attempts, s.at, s.error, s.callback.id) for s in settlements if s.state == "dead"]
        with self._write():
            self._db.executemany(
                "UPDATE callbacks SET attempts = ?, due_at = ?, last_error = ? WHERE id = ? AND state = 'pending'",
                retried,
            )
            self._db.executemany(
                "UPDATE callbacks SET state = 'delivered', head = 0, body = NULL, last_error = NULL,"
                " attempts = ?, done_at = ? WHERE id = ? AND state = 'pending'",
                delivered,
            )
            self._db.executemany(
                "UPDATE callbacks SET state = 'dead', head = 0, attempts = ?, done_at = ?, last_error = ?"
                " WHERE id = ? AND state = 'pending'",
                dead,
            )
            self._promote({s.callback.conversation_id for s in settlements if s.state != "pending"})

    def hasten(self, url: str, now: float) -> None:
        """Make what waits for its next attempt at `url` due at `now`: the receiver is known to be back."""
        with self._write():
            self._db.execute(
                "UPDATE callbacks SET due_at = ? WHERE head = 1 AND url = ? AND due_at > ?", (now, url, now)
            )

    def retry(self, ids: Iterable[str] | None, now: float) -> int:
        """Put dead callbacks (all of them when `ids` is None) back in line with fresh attempts; return how many.

        One takes its old place: it goes before what its conversation has inserted since. Another process that
        is delivering from this file notices within about a second.
        """
        with self._write():
            chosen = [*ids] if ids is not None else [e[0] for e in self._db.execute(_ALL_DEAD)]
            conversations: set[str] = set()
            count = 0
            for id_ in chosen:
                row = self._db.execute(_REQUEUE, (now, id_)).fetchone()
                if row is not None:
                    conversations.add(row[0])
                    count += 1
            self._db.executemany(
                "UPDATE callbacks SET head = 0 WHERE conversation = ? AND state = 'pending' AND head = 1",
                [(c,) for c in conversations],
            )
            self._promote(conversations)
        return count

    def entries(self, states: Collection[State] = ("pending", "dead"), *, limit: int = 1000) -> list[Entry]:
        """The oldest `limit` rows in each of `states`, in the order of their insertion."""
        with self._lock, self._explained():
            rows = [row for state in states for row in self._db.execute(_BY_STATE[state], (limit,))]
        return [Entry(*row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]

    def show(self, id_: str) -> Entry | None:
        """The row of one callback, or None if its id is unknown (or was delivered so long ago that it is pruned)."""
        with self._lock, self._explained():
            row = self._db.execute(_SELECT + " WHERE id = ?", (id_,)).fetchone()
        return None if row is None else Entry(*row[:-1])

    def counts(self) -> dict[State, int]:
        """How many callbacks are in each state; delivered ones are counted until they are pruned."""
        with self._lock, self._explained():
            return {state: self._db.execute(count).fetchone()[0] for state, count in _COUNTS.items()}

    def prune(self, before: float) -> int:
        """Forget the ids of callbacks delivered before `before` (epoch seconds); return how many."""
        with self._write():
            return self._db.execute(
                "DELETE FROM callbacks WHERE state = 'delivered' AND done_at < ?", (before,)
            ).rowcount

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        with self._lock, self._explained():
            self._db.close()

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _SCHEMA_VERSION):
            raise StateError(
                f"the outbox {self._path} has schema {version} and this voicewatch knows {_SCHEMA_VERSION}; "
                "use the voicewatch that wrote it, or let that one deliver what is pending first"
            )
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            with contextlib.closing(self._db.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                # Another process may have created the tables while this one waited for the lock.
                if cursor.execute("PRAGMA user_version").fetchone() == (0,):
                    for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
                        cursor.execute(statement)
                cursor.execute("COMMIT")

    def _promote(self, conversations: Collection[str]) -> None:
        self._db.executemany(_PROMOTE, [(c,) for c in conversations])

    @contextlib.contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[None]:
        with self._lock, self._explained():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(
                f"the outbox {self._path} cannot be used: {error}; check the free space, the permissions, and that "
                "no other process holds it"
            ) from error
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # our mistake, not the file's
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"the outbox {self._path} is damaged ({error}); stop voicewatch, move it away together with its -wal "
                f"and -shm files, and start again. `sqlite3 {self._path.name} .recover` may save what was pending"
            ) from error
