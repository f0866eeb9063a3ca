"""A small SQLite file of a thread's own, such as a queue."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.errors import StateError
from connectors.state.files import make_private_dir, open_private

__all__ = ["Store"]


class Store:
    """A SQLite file (WAL, 0600); safe to use from any thread.

    A crash of the process costs nothing that was written; a power loss may cost the last moments. `schema` creates its
    tables. An error names it by `name`, and says by `cost` what it costs to move the file away. Every method raises
    StateError when the file cannot be used.
    """

    def __init__(self, path: Path, schema: str, *, name: str, cost: str) -> None:
        self._path = path
        self._name = name
        self._cost = cost
        self._lock = threading.Lock()
        make_private_dir(path.parent)
        os.close(open_private(path, os.O_RDWR))
        with self._explained():
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(schema)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, to one thread at a time."""
        with self._lock, self._explained():
            yield self._db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection as `use` does; what is written is committed at the end, or not at all after an error."""
        with self.use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        with self.use() as db:
            db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(
                f"the {self._name} {self._path} cannot be used: {error}; check its disk, or move the file away: then "
                f"{self._cost}"
            ) from error
