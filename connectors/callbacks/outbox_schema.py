"""Define the tables of the outbox, and update files of older versions in place."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from connectors.errors import StateError

__all__ = ["COLUMNS", "INSERT_ROW", "PROMOTE_ALL", "SCHEMA_VERSION", "prepare"]

SCHEMA_VERSION: Final = 2
# `thread` orders callbacks: of each thread only `head`, the oldest that is pending, may be sent. `head` is kept up to
# date on every change, so that picking work is a range read of a small partial index, however long the backlog is.
# `state` is pending, delivered or dead; or open, which is delivered and sent again every `refresh_s` until a callback
# with the same incident `closes` it. `due_at` is 0 for at once; else it is never more than `wait_s` ahead, or the
# clock has been set back. `answer` is the start of the receiver's last answer.
_TABLE: Final = """
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
  last_error TEXT,
  thread TEXT NOT NULL DEFAULT '',
  incident TEXT NOT NULL DEFAULT '',
  closes INTEGER NOT NULL DEFAULT 0,
  refresh_s REAL NOT NULL DEFAULT 0,
  wait_s REAL NOT NULL DEFAULT 3600,
  answer TEXT
);
CREATE INDEX heads ON callbacks (url, due_at) WHERE head = 1;
CREATE INDEX pending ON callbacks (thread, seq) WHERE state = 'pending';
CREATE INDEX delivered ON callbacks (done_at) WHERE state = 'delivered';
CREATE INDEX dead ON callbacks (seq) WHERE state = 'dead';
CREATE INDEX open ON callbacks (incident, url) WHERE state = 'open';
PRAGMA user_version = 2
"""
_FROM_1: Final = """
ALTER TABLE callbacks ADD COLUMN thread TEXT NOT NULL DEFAULT '';
ALTER TABLE callbacks ADD COLUMN incident TEXT NOT NULL DEFAULT '';
ALTER TABLE callbacks ADD COLUMN closes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE callbacks ADD COLUMN refresh_s REAL NOT NULL DEFAULT 0;
ALTER TABLE callbacks ADD COLUMN wait_s REAL NOT NULL DEFAULT 3600;
ALTER TABLE callbacks ADD COLUMN answer TEXT;
UPDATE callbacks SET thread = conversation WHERE state <> 'delivered';
DROP INDEX pending;
CREATE INDEX pending ON callbacks (thread, seq) WHERE state = 'pending';
CREATE INDEX open ON callbacks (incident, url) WHERE state = 'open';
PRAGMA user_version = 2
"""
_STEPS: Final = {0: _TABLE, 1: _FROM_1}
COLUMNS: Final = {
    "id": None,
    "conversation": None,
    "url": None,
    "body": None,
    "state": "pending",
    "attempts": 0,
    "requeued": 0,
    "created_at": 0.0,
    "due_at": 0.0,
    "done_at": None,
    "last_error": None,
    "thread": "",
    "incident": "",
    "closes": 0,
    "refresh_s": 0.0,
    "wait_s": 3600.0,
    "answer": None,
}
"""The columns to copy into another outbox, in order, with what stands in one that an older file lacks."""
INSERT_ROW: Final = f"INSERT INTO callbacks ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - literals
PROMOTE_ALL: Final = """
UPDATE callbacks SET head = 1 WHERE state = 'open'
   OR seq IN (SELECT MIN(seq) FROM callbacks WHERE state = 'pending' GROUP BY thread)
"""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Check an outbox, and create or migrate its tables. Raise StateError for a version that is not known."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (*_STEPS, SCHEMA_VERSION):
        raise StateError(
            f"the outbox {path} has schema {version} and this voicewatch knows {SCHEMA_VERSION}; "
            "use the voicewatch that wrote it, or let that one deliver what is pending first"
        )
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    if version == SCHEMA_VERSION:
        return
    with contextlib.closing(db.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have done it while this one waited for the lock.
            (version,) = cursor.execute("PRAGMA user_version").fetchone()
            for statement in _STEPS.get(version, "").split(";"):
                cursor.execute(statement)
            cursor.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                cursor.execute("ROLLBACK")
            raise
