"""Bytewax' recovery store, made for few and large snapshots."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from bytewax.recovery import init_db_dir

from connectors.state.files import make_private_dir, state_errors

__all__ = ["make_recovery_store"]

# Each part costs three syncs of the disk a snapshot, during which the worker stands still.
PARTS: Final = 1
# SQLite writes page by page. With those of 4096 bytes that it makes by itself a snapshot takes twice as long.
PAGE_BYTES: Final = 1 << 14


def make_recovery_store(directory: Path) -> None:
    """Make the recovery store in a directory that does not hold one yet. Raises StateError.

    The lock of the state directory, which the directory is in, must be held.
    """
    if any(directory.glob("part-*.sqlite3")):
        return
    # Beside its place first: the store of a process that was killed while making it cannot be used, ever.
    unfinished = directory.with_name(f"{directory.name}.new")
    with state_errors(f"making the recovery directory {directory}"):
        shutil.rmtree(unfinished, ignore_errors=True)
        make_private_dir(unfinished)
        init_db_dir(unfinished, PARTS)  # type: ignore[no-untyped-call]
        for part in unfinished.iterdir():
            try:
                _widen_pages(part)
            except sqlite3.Error as error:  # which hides the cause
                raise OSError(f"SQLite reports: {error}") from error
            part.chmod(0o600)  # SQLite gives the -wal and -shm files of a part the same mode
        unfinished.rename(directory)


def _widen_pages(part: Path) -> None:
    with closing(sqlite3.connect(part)) as store:
        store.execute("PRAGMA journal_mode = DELETE")  # in Bytewax' mode, pages stay as they are
        store.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        store.execute("VACUUM")
        store.execute("PRAGMA journal_mode = WAL")
