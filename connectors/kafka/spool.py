"""The lines that wait for a Kafka topic, in SQLite; and those that a resumed flow may write again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from connectors.state.stores import Store

__all__ = ["Line", "Spool", "waiting_lines"]

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS lines (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,
  key BLOB NOT NULL,
  value BLOB NOT NULL,
  sent INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS waiting ON lines (seq) WHERE sent = 0;
PRAGMA synchronous = FULL
"""

_COUNT: Final = "SELECT COUNT(*) FROM lines WHERE sent = 0"


class Line(NamedTuple):
    """A line of results: its id and its value, and the key that decides on its partition."""

    id: str
    key: bytes
    value: bytes


def waiting_lines(path: Path) -> int:
    """Return how many lines of a spool, which another process may be writing, are not sent. Raise sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lines'").fetchone() is None:
            return 0  # another process is about to create it
        return int(db.execute(_COUNT).fetchone()[0])


class Spool:
    """Hold lines in a SQLite file until they are sent, numbered from 1; safe to use from any thread.

    A line is on the disk when `add` returns. Every method raises StateError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._store = Store(
            path, _SCHEMA, name="spool", cost="lines that were not sent yet do not reach Kafka; they are in the results"
        )

    def add(self, lines: Iterable[Line]) -> int:
        """Append lines, and return the number of the last one."""
        last = 0
        with self._store.transaction() as db:
            for line in lines:
                last = db.execute("INSERT INTO lines (id, key, value) VALUES (?, ?, ?)", line).lastrowid or 0
        return last

    def waiting(self, limit: int) -> list[tuple[int, Line]]:
        """Return the first lines that are not sent yet, with their numbers."""
        with self._store.use() as db:
            rows = db.execute("SELECT seq, id, key, value FROM lines WHERE sent = 0 ORDER BY seq LIMIT ?", (limit,))
            return [(seq, Line(id_, key, value)) for seq, id_, key, value in rows]

    def count(self) -> int:
        """Return the number of lines that are not sent yet."""
        with self._store.use() as db:
            return int(db.execute(_COUNT).fetchone()[0])

    def mark_sent(self, numbers: Sequence[int]) -> None:
        """Note that Kafka has acknowledged these lines; their ids are kept."""
        with self._store.transaction() as db:
            update = "UPDATE lines SET sent = 1, key = x'', value = x'' WHERE seq = ?"
            db.executemany(update, [(number,) for number in numbers])

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
