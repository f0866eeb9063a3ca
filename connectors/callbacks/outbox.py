"""Store callbacks durably, in SQLite, until they are delivered or abandoned."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from connectors.callbacks.model import AttemptResult, Callback, DueBatch, DueCallback, Entry, State, WaitingFor
from connectors.callbacks.outbox_schema import prepare
from connectors.errors import StateError
from connectors.state.files import make_private_dir, open_private

__all__ = [
    "AttemptResult",
    "Callback",
    "DamagedOutboxError",
    "DueBatch",
    "DueCallback",
    "Entry",
    "Outbox",
    "OutboxState",
    "State",
    "WaitingFor",
    "outbox_state",
]

_PROMOTE = """
UPDATE callbacks SET head = 1 WHERE head = 0 AND seq =
  (SELECT MIN(seq) FROM callbacks WHERE thread = ? AND state = 'pending')
"""
# A loose index scan: one step for each receiver, not one for each callback.
_URLS = """
WITH RECURSIVE waiting(url) AS (
  SELECT MIN(url) FROM callbacks WHERE head = 1
  UNION ALL
  SELECT (SELECT MIN(url) FROM callbacks WHERE head = 1 AND url > waiting.url) FROM waiting WHERE url IS NOT NULL
) SELECT url FROM waiting WHERE url IS NOT NULL
"""
_INSERT = (
    "INSERT INTO callbacks"
    " (id, conversation, url, body, created_at, due_at, thread, incident, closes, refresh_s, wait_s)"
    " SELECT :id, :conversation_id, :url, :body, :now, 0, :order_key, :incident, :closes, :refresh_s, 0"
    " WHERE :only_after = '' OR EXISTS (SELECT 1 FROM callbacks WHERE id = :only_after) ON CONFLICT (id) DO NOTHING"
)
_DUE = (
    "SELECT id, conversation, body, attempts, requeued, created_at, state, thread, incident, closes, refresh_s"
    " FROM callbacks WHERE head = 1 AND url = ? AND due_at <= ? ORDER BY due_at, seq LIMIT ?"
)
_SELECT = (
    "SELECT id, conversation, url, body, state, attempts, created_at, due_at, done_at, last_error, answer, seq"
    " FROM callbacks"
)
# The states are literals, because a partial index serves only a query whose text implies its condition.
_BY_STATE: dict[State, str] = {
    "pending": _SELECT + " WHERE state = 'pending' ORDER BY seq LIMIT ?",
    "delivered": _SELECT + " WHERE state = 'delivered' ORDER BY seq LIMIT ?",
    "dead": _SELECT + " WHERE state = 'dead' ORDER BY seq LIMIT ?",
}
_COUNTS: dict[State, str] = {
    "pending": "SELECT COUNT(*) FROM callbacks WHERE state = 'pending'",
    "delivered": "SELECT (SELECT COUNT(*) FROM callbacks WHERE state = 'delivered')"
    " + (SELECT COUNT(*) FROM callbacks WHERE state = 'open')",
    "dead": "SELECT COUNT(*) FROM callbacks WHERE state = 'dead'",
}
_ALL_DEAD = "SELECT id FROM callbacks WHERE state = 'dead' ORDER BY seq"
_REQUEUE = (
    "UPDATE callbacks SET state = 'pending', attempts = 0, due_at = 0, wait_s = 0, done_at = NULL, requeued = 1"
    " WHERE id = ? AND state = 'dead' RETURNING thread"
)
_CLOSE = (
    "UPDATE callbacks SET state = 'delivered', head = 0, body = NULL"
    " WHERE state = 'open' AND incident = ? AND url = ? AND incident <> ''"
)
_KEEP_OPEN = (
    "UPDATE callbacks SET state = 'open', last_error = NULL, attempts = ?, done_at = ?, due_at = ?, wait_s = refresh_s"
    " WHERE id = ? AND state = 'pending' AND refresh_s > 0 AND NOT EXISTS (SELECT 1 FROM callbacks AS later"
    " WHERE later.thread = callbacks.thread AND later.state = 'pending' AND later.closes = 1"
    " AND later.incident = callbacks.incident AND later.url = callbacks.url)"
)
_REPEATED: Final = (
    "SELECT id, created_at, incident FROM callbacks WHERE state = 'open'"
    " UNION ALL SELECT id, created_at, incident FROM callbacks WHERE state = 'pending' AND refresh_s > 0"
)
_END_REPEATS: Final = (
    "UPDATE callbacks SET refresh_s = 0 WHERE id = ?",
    "UPDATE callbacks SET state = 'delivered', head = 0, body = NULL WHERE id = ? AND state = 'open'",
)
_KEPT_IDS: Final = 10_000
_OUTBOX: Final = """
SELECT (SELECT COUNT(*) FROM callbacks WHERE state = 'pending'),
       (SELECT COUNT(*) FROM callbacks WHERE state = 'dead'),
       (SELECT MIN(created_at) FROM callbacks WHERE state = 'pending')
"""


class DamagedOutboxError(StateError):
    """Report a file that is not an intact SQLite database; `connectors.callbacks.salvage` saves what can be read."""


class OutboxState(NamedTuple):
    """Hold the number of pending and dead callbacks, and how long the oldest pending one has waited."""

    pending: int
    dead: int
    age_s: float


def outbox_state(path: Path, now: float) -> OutboxState:
    """Look into an outbox that others may be writing; all zero if it does not exist yet. Raise sqlite3.Error."""
    if not path.exists():
        return OutboxState(0, 0, 0.0)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'callbacks'").fetchone() is None:
            return OutboxState(0, 0, 0.0)  # another process is about to create it
        pending, dead, oldest = db.execute(_OUTBOX).fetchone()
    return OutboxState(pending, dead, 0.0 if oldest is None else max(now - oldest, 0.0))


class Outbox:
    """Hold callbacks in a SQLite file (WAL, 0600); safe for use by several threads and processes.

    An insert is on the disk when it returns (`synchronous=FULL`): a power loss never costs a callback. What became
    of a callback is written without waiting for the disk (`NORMAL`): a power loss may forget the last moments,
    and those callbacks are sent again. A crash of the process (`kill -9`) costs neither.

    The time of `due`, of retries in `record_results` and of `cap_waits` is that of the process that delivers; no other
    process needs to know it. Every method raises StateError, with what to do, when the file is damaged
    (DamagedOutboxError), locked for long or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        make_private_dir(self._path.parent)
        os.close(open_private(self._path, os.O_RDWR))  # SQLite gives its -wal and -shm files the same mode
        with self._explained():
            self._db = sqlite3.connect(self._path, timeout=30.0, isolation_level=None, check_same_thread=False)
            try:
                prepare(self._db, self._path)
            except BaseException:
                self._db.close()
                raise

    def insert(self, callbacks: Iterable[Callback], now: float) -> int:
        """Add callbacks in one transaction, due at once; return how many were new.

        An id that is already there, in whatever state, is left as it is. `now` is when they were created.
        """
        batch = list(callbacks)
        with self._write(durable=True):
            before = self._db.total_changes
            rows = [{**asdict(one), "order_key": one.order_key, "now": now} for one in batch]
            self._db.executemany(_INSERT, rows)
            inserted = self._db.total_changes - before
            self._db.executemany(_CLOSE, [(c.incident, c.url) for c in batch if c.closes])
            self._promote({c.order_key for c in batch})
        return inserted

    def due(
        self,
        now: float,
        *,
        per_url: int = 64,
        busy: Collection[str] = frozenset(),
        limits: Mapping[str, int] = MappingProxyType({}),
    ) -> DueBatch:
        """Return the callbacks that may be sent at `now`: of each thread the oldest pending one, if it is due.

        At most `per_url` for each receiver, or its own number in `limits`, longest due first; threads in `busy` are
        left out (those count towards the limit). Reads only what it returns; nothing of a receiver whose limit is 0.
        """
        waiting: list[DueCallback] = []
        next_at: float | None = None
        with self._lock, self._explained():
            for (url,) in self._db.execute(_URLS).fetchall():
                limit = limits.get(url, per_url)
                if limit == 0:
                    continue
                rows = self._db.execute(_DUE, (url, now, limit)).fetchall()
                waiting += [_due_callback(url, *row) for row in rows if row[7] not in busy]
                (later,) = self._db.execute(
                    "SELECT MIN(due_at) FROM callbacks WHERE head = 1 AND url = ? AND due_at > ?", (url, now)
                ).fetchone()
                if later is not None and (next_at is None or later < next_at):
                    next_at = later
        return DueBatch(waiting, next_at)

    def record_results(self, results: Sequence[AttemptResult]) -> None:
        """Record what became of some callbacks, in one transaction; one that is not pending is left alone.

        When one is delivered or dead, the next of its thread may be sent.
        """
        refreshed = [(r.at, r.callback.id) for r in results if r.refresh and r.state == "pending"]
        over = [(r.callback.incident, r.callback.url) for r in results if r.refresh and r.state != "pending"]
        first = [r for r in results if not r.refresh]
        retried = [
            (r.attempts, r.at, r.wait_s, r.error, r.answer, r.callback.id) for r in first if r.state == "pending"
        ]
        kept_open = [
            (r.attempts, r.at, r.at + r.callback.refresh_s, r.callback.id)
            for r in first
            if r.state == "delivered" and r.callback.refresh_s
        ]
        delivered = [(r.attempts, r.at, r.error, r.callback.id) for r in first if r.state == "delivered"]
        dead = [(r.attempts, r.at, r.error, r.answer, r.callback.id) for r in first if r.state == "dead"]
        with self._write():
            self._db.executemany("UPDATE callbacks SET due_at = ? WHERE id = ? AND state = 'open'", refreshed)
            self._db.executemany(_CLOSE, over)
            self._db.executemany(
                "UPDATE callbacks SET attempts = ?, due_at = ?, wait_s = ?, last_error = ?, answer = ?"
                " WHERE id = ? AND state = 'pending'",
                retried,
            )
            self._db.executemany(_KEEP_OPEN, kept_open)
            self._db.executemany(
                "UPDATE callbacks SET state = 'delivered', head = 0, body = NULL, answer = NULL,"
                " attempts = ?, done_at = ?, last_error = ? WHERE id = ? AND state = 'pending'",
                delivered,
            )
            self._db.executemany(
                "UPDATE callbacks SET state = 'dead', head = 0, attempts = ?, done_at = ?, last_error = ?, answer = ?"
                " WHERE id = ? AND state = 'pending'",
                dead,
            )
            self._promote({r.callback.order_key for r in first if r.state != "pending"})

    def expedite(self, url: str) -> None:
        """Make what waits for its next attempt at `url` due at once: the receiver is known to be back."""
        with self._write():
            self._db.execute(
                "UPDATE callbacks SET due_at = 0 WHERE head = 1 AND url = ? AND due_at > 0 AND state = 'pending'",
                (url,),
            )

    def cap_waits(self, now: float) -> int:
        """Shorten waits that a step of the clock has made longer than they were; return how many.

        To be called once, before the first `due` of a process: its time may be behind that of the one before.
        """
        with self._write():
            return sum(
                self._db.execute(
                    "UPDATE callbacks SET due_at = ? + wait_s"  # noqa: S608 - literals, see above
                    f" WHERE state = '{state}' AND due_at > ? + wait_s + 1",
                    (now, now),
                ).rowcount
                for state in ("pending", "open")
            )

    def resolve_of(self, callback: Callback) -> str | None:
        """Return the id of the pending callback that closes the same incident at the same receiver, if there is one."""
        with self._lock, self._explained():
            row = self._db.execute(
                "SELECT id FROM callbacks WHERE thread = ? AND state = 'pending' AND incident = ? AND url = ?"
                " AND closes = 1 AND incident <> '' AND id <> ?",
                (callback.order_key, callback.incident, callback.url, callback.id),
            ).fetchone()
        return None if row is None else row[0]

    def retry(self, ids: Iterable[str] | None) -> int:
        """Queue dead callbacks (all of them when `ids` is None) again with fresh attempts; return how many.

        One takes its old place in its thread, before those inserted since. Another process that is delivering from this
        file notices within about a second.
        """
        with self._write():
            chosen = [*ids] if ids is not None else [e[0] for e in self._db.execute(_ALL_DEAD)]
            threads: set[str] = set()
            count = 0
            for id_ in chosen:
                row = self._db.execute(_REQUEUE, (id_,)).fetchone()
                if row is not None:
                    threads.add(row[0])
                    count += 1
            self._db.executemany(
                "UPDATE callbacks SET head = 0 WHERE thread = ? AND state = 'pending' AND head = 1",
                [(thread,) for thread in threads],
            )
            self._promote(threads)
        return count

    def repeated(self) -> list[tuple[str, float, str]]:
        """Return id, time of creation and incident of what is sent again after its delivery, or will be."""
        with self._lock, self._explained():
            return self._db.execute(_REPEATED).fetchall()

    def end_repeats(self, ids: Iterable[str]) -> None:
        """Send these callbacks not again after their delivery."""
        chosen = [(id_,) for id_ in ids]
        with self._write():
            for statement in _END_REPEATS:
                self._db.executemany(statement, chosen)

    def entries(self, states: Collection[State] = ("pending", "dead"), *, limit: int = 1000) -> list[Entry]:
        """Return the oldest `limit` rows in each of `states`, in the order of their insertion."""
        with self._lock, self._explained():
            rows = [row for state in states for row in self._db.execute(_BY_STATE[state], (limit,))]
        return [Entry(*row[:-1]) for row in sorted(rows, key=lambda row: row[-1])]

    def waiting(self, *, limit: int = 5) -> list[WaitingFor]:
        """Return, for each receiver with pending callbacks, their number and its next attempt, the most first."""
        with self._lock, self._explained():
            rows = self._db.execute(
                "SELECT url, COUNT(*), MIN(CASE WHEN head = 1 THEN due_at END), MAX(last_error) FROM callbacks"
                " WHERE state = 'pending' GROUP BY url ORDER BY COUNT(*) DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [WaitingFor(url, count, next_at or 0.0, error) for url, count, next_at, error in rows]

    def show(self, id_: str) -> Entry | None:
        """Return one callback, or None if its id is unknown (or was delivered so long ago that it is pruned)."""
        with self._lock, self._explained():
            row = self._db.execute(_SELECT + " WHERE id = ?", (id_,)).fetchone()
        return None if row is None else Entry(*row[:-1])

    def counts(self) -> dict[State, int]:
        """Count the callbacks in each state; delivered ones are counted until they are pruned."""
        with self._lock, self._explained():
            return {state: self._db.execute(count).fetchone()[0] for state, count in _COUNTS.items()}

    def prune(self, before: float, *, keep: int = _KEPT_IDS) -> int:
        """Forget the ids of callbacks delivered before `before` (epoch seconds); return how many.

        The last `keep` callbacks stay whatever the clock says: a restart after a crash inserts some of them again.
        """
        with self._write():
            return self._db.execute(
                "DELETE FROM callbacks WHERE state = 'delivered' AND done_at < ?"
                " AND seq <= (SELECT MAX(seq) FROM callbacks) - ?",
                (before, keep),
            ).rowcount

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        with self._lock, self._explained():
            self._db.close()

    def _promote(self, threads: Collection[str]) -> None:
        self._db.executemany(_PROMOTE, [(thread,) for thread in threads])

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
            raise DamagedOutboxError(
                f"the outbox {self._path} is damaged ({error}); `voicewatch run` saves what can be read of it and "
                "reports what is lost, or move it away together with its -wal and -shm files to begin with an empty one"
            ) from error


def _due_callback(
    url: str,
    id_: str,
    conversation: str,
    body: bytes,
    attempts: int,
    requeued: int,
    created_at: float,
    state: str,
    thread: str,
    incident: str,
    closes: int,
    refresh_s: float,
) -> DueCallback:
    callback = Callback(id_, conversation, url, body, thread, incident, bool(closes), refresh_s)
    return DueCallback(callback, attempts, bool(requeued), created_at, refresh=state == "open")
