"""The lines that wait for a Kafka topic, in SQLite; and those that a resumed flow may write again."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from connectors.state.stores import Store

__all__ = ["MAX_BYTES", "Line", "Spool", "SpoolState", "spool_state"]

MAX_BYTES: Final = 2**30

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS lines (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,
  key BLOB NOT NULL,
  value BLOB NOT NULL,
  sent INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS waiting ON lines (seq) WHERE sent = 0;
CREATE TABLE IF NOT EXISTS left_out (number INTEGER NOT NULL);
INSERT INTO left_out SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM left_out);
PRAGMA synchronous = FULL
"""

_COUNT: Final = "SELECT COUNT(*) FROM lines WHERE sent = 0"
_BYTES: Final = "SELECT COALESCE(SUM(LENGTH(key) + LENGTH(value)), 0) FROM lines WHERE sent = 0"


class Line(NamedTuple):
    """A line of results: its id and its value, and the key that decides on its partition."""

    id: str
    key: bytes
    value: bytes

    @property
    def size(self) -> int:
        """Return the bytes of key and value."""
        return len(self.key) + len(self.value)


class SpoolState(NamedTuple):
    """Hold how many lines of a spool are not sent, and how many it had no room for since it was created."""

    waiting: int = 0
    left_out: int = 0


def spool_state(path: Path) -> SpoolState:
    """Look into a spool that another process may be writing. Raise sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        waiting = db.execute(_COUNT).fetchone()[0] if "lines" in names else 0  # or a process is about to create it
        left_out = db.execute("SELECT SUM(number) FROM left_out").fetchone()[0] if "left_out" in names else 0
    return SpoolState(waiting, left_out or 0)


class Spool:
    """Hold lines in a SQLite file until they are sent, numbered from 1; safe to use from any thread.

    A line is on the disk when `add` returns. The lines that wait have at most `max_bytes`. Every method raises
    StateError when the file cannot be used.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._store = Store(
            path, _SCHEMA, name="spool", cost="lines that were not sent yet do not reach Kafka; they are in the results"
        )
        with self._store.use() as db:
            self._bytes = int(db.execute(_BYTES).fetchone()[0])

    def add(self, lines: Sequence[Line]) -> tuple[int, int]:
        """Append the lines that there is room for; return the number of the last one, and how many were left out."""
        last = added = 0
        with self._store.transaction() as db:
            for line in lines:
                if self._bytes + line.size > self._max_bytes:
                    break
                last = db.execute("INSERT INTO lines (id, key, value) VALUES (?, ?, ?)", line).lastrowid or 0
                self._bytes += line.size
                added += 1
            if left_out := len(lines) - added:
                db.execute("UPDATE left_out SET number = number + ?", (left_out,))
        return last, left_out

    def waiting(self, limit: int) -> list[tuple[int, Line]]:
        """Return the first lines that are not sent yet, with their numbers."""
        with self._store.use() as db:
            rows = db.execute("SELECT seq, id, key, value FROM lines WHERE sent = 0 ORDER BY seq LIMIT ?", (limit,))
            return [(seq, Line(id_, key, value)) for seq, id_, key, value in rows]

    def count(self) -> int:
        """Return the number of lines that are not sent yet."""
        with self._store.use() as db:
            return int(db.execute(_COUNT).fetchone()[0])

    def mark_sent(self, lines: Mapping[int, Line]) -> None:
        """Note that Kafka has acknowledged these lines, by their numbers; their ids are kept."""
        with self._store.transaction() as db:
            update = "UPDATE lines SET sent = 1, key = x'', value = x'' WHERE seq = ?"
            db.executemany(update, [(number,) for number in lines])
            self._bytes -= sum(line.size for line in lines.values())

    def added_after(self, number: int) -> dict[str, int]:
        """Return the ids of the lines behind this number that are known, with their own numbers."""
        with self._store.use() as db:
            return dict(db.execute("SELECT id, seq FROM lines WHERE seq > ? ORDER BY seq", (number,)))

    def forget(self, number: int) -> None:
        """Forget the lines up to a number that were sent."""
        with self._store.use() as db:
            db.execute("DELETE FROM lines WHERE seq <= ? AND sent = 1", (number,))

    def close(self) -> None:
        """Close the file."""
        self._store.close()
