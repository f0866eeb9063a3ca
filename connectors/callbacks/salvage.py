"""Save what can be read of a damaged outbox, and report what is lost, against the lines of `alerts.jsonl`."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.callbacks.outbox import DamagedOutboxError, Outbox
from connectors.callbacks.outbox_schema import COLUMNS, INSERT_ROW, PROMOTE_ALL
from connectors.errors import StateError
from connectors.runtime.logs import get_logger
from connectors.state.actions import Action
from connectors.state.audit import AuditLog, read
from connectors.state.files import open_private, state_errors, write_all
from connectors.state.results import daily_files, open_results

__all__ = ["LOST_NAME", "open_or_salvage"]

LOST_NAME: Final = "lost-alerts.jsonl"
_LARGEST_SEQ: Final = 1 << 40
_SETTLED: Final = {Action.CALLBACK_DELIVERED, Action.CALLBACK_DEAD, Action.CALLBACK_EXPIRED}


def open_or_salvage(
    path: Path, *, alerts: Path | None, audit: AuditLog | None, repeated_from: float | None = None
) -> Outbox:
    """Open the outbox of a run. Replace a damaged one by what can be read of it.

    If it was damaged, empty or missing, the lines of `alerts` that neither the outbox nor the audit log knows are
    written to `lost-alerts.jsonl` beside it, counted in the log and audited. Those of `repeated_from` (epoch seconds)
    and later are not lost: the flow brings them again. Raise StateError.
    """
    fresh = path.with_name(path.name + ".salvaged")
    with state_errors(f"opening the outbox {path}"):
        if fresh.exists() and not path.exists():
            fresh.replace(path)  # a crash came between the two steps of `_replace`
        suspect = not path.exists() or path.stat().st_size == 0
    damage = None
    try:
        outbox = Outbox(path)
    except DamagedOutboxError as error:
        damage = str(error.__cause__ or error)
        kept = _replace(path, fresh)
        outbox = Outbox(path)
    if damage is None and not suspect:
        return outbox
    lost = _lost(alerts, audit.path, path, repeated_from) if alerts is not None and audit is not None else []
    if damage is None and not lost:
        return outbox
    with state_errors(f"writing {LOST_NAME}"):
        fd = open_private(path.with_name(LOST_NAME), os.O_WRONLY | os.O_APPEND)
        try:
            write_all(fd, b"".join(lost))
        finally:
            os.close(fd)
    saved = sum(outbox.counts().values())
    get_logger(__name__).error(
        "outbox_salvaged",
        damage=damage or "the outbox was empty or missing",
        saved=saved,
        alerts_without_callback=len(lost),
        listed_in=str(path.with_name(LOST_NAME)),
        damaged_file=None if damage is None else str(kept),
    )
    if audit is not None:
        audit.append(
            Action.OUTBOX_SALVAGED,
            conversation=None,
            outcome="damaged" if damage else "empty",
            saved=saved,
            alerts_without_callback=len(lost),
        )
    return outbox


def _replace(path: Path, fresh: Path) -> Path:
    """Put a new outbox with the readable rows in place of a damaged one; return where the damaged one is now."""
    with state_errors(f"salvaging the outbox {path}"):
        for name in (fresh, *_beside(fresh)):
            name.unlink(missing_ok=True)
        Outbox(fresh).close()
        with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT_ROW, _readable(path))
            db.execute(PROMOTE_ALL)
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = next(
            name for n in itertools.count(1) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists()
        )
        for old, suffix in ((path, ""), *zip(_beside(path), ("-wal", "-shm"), strict=True)):
            if old.exists():
                old.rename(kept.with_name(kept.name + suffix))
        fresh.replace(path)
    return kept


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _readable(path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that can be read, for `INSERT_ROW`; those on damaged pages are passed over."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        seq, seen = 0, set[str]()
        while seq < _LARGEST_SEQ:
            try:
                cursor = db.execute("SELECT * FROM callbacks WHERE seq > ? ORDER BY seq", (seq,))
                names = [column[0] for column in cursor.description]
                for values in cursor:
                    row = dict(zip(names, values, strict=True))
                    seq = max(seq + 1, int(row["seq"]))
                    if _sound(row) and row["id"] not in seen:
                        seen.add(row["id"])
                        row["thread"] = row.get("thread") or row["conversation"]
                        yield tuple(row.get(name, default) for name, default in COLUMNS.items())
                return
            except (sqlite3.DatabaseError, ValueError, TypeError):
                seq = _next_readable(db, seq)


def _next_readable(db: sqlite3.Connection, seq: int) -> int:
    """Find the place after `seq` from which rows can be read again, or a number past all of them."""

    def works(start: int) -> bool:
        try:
            row = db.execute("SELECT * FROM callbacks WHERE seq > ? ORDER BY seq LIMIT 1", (start,)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return row is not None

    step = 1
    while not works(seq + step):
        step *= 2
        if seq + step >= _LARGEST_SEQ:
            return _LARGEST_SEQ
    low, high = step // 2, step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(seq + middle) else (middle, high)
    return seq + high


def _sound(row: dict[str, Any]) -> bool:
    texts = all(isinstance(row.get(name), str) for name in ("id", "conversation", "url"))
    known = row.get("state") in ("pending", "delivered", "dead", "open")
    return texts and known and (row.get("body") is not None or row["state"] == "delivered")


def _lost(alerts: Path, audit_path: Path, path: Path, repeated_from: float | None) -> list[bytes]:
    """Return the alerts before `repeated_from` of which neither the outbox nor the audit log knows a callback."""
    lines = [line for file in [*daily_files(alerts).values(), alerts] if file.exists() for line in _lines_of(file)]
    with closing(sqlite3.connect(path)) as db:
        known = {id_.partition("/")[0] for (id_,) in db.execute("SELECT id FROM callbacks")}
    with contextlib.suppress(FileNotFoundError, StateError):
        known |= {
            str(record.get("id")).partition("/")[0] for record in read(audit_path) if record.get("action") in _SETTLED
        }
    before = math.inf if repeated_from is None else repeated_from
    return [
        line
        for line in lines
        if line.endswith(b"\n") and (id_ := _alert_id(line, before)) is not None and id_ not in known
    ]


def _lines_of(file: Path) -> list[bytes]:
    """Return the lines of a file, which may be compressed; of one that is cut or damaged those before the place."""
    lines: list[bytes] = []
    with open_results(file) as stream:
        try:
            lines.extend(stream)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            get_logger(__name__).warning("alerts_unreadable", path=str(file), reason=type(error).__name__)
    return lines


def _alert_id(line: bytes, before: float) -> str | None:
    """Return the id of an alert, None for one of the time `before` or later, and for a line that is not one."""
    try:
        alert = orjson.loads(line)
        id_, at = alert.get("alertId"), alert.get("timestamp")
    except (ValueError, AttributeError):
        return None
    is_repeated = isinstance(at, int | float) and at >= before
    return id_ if isinstance(id_, str) and not is_repeated else None
