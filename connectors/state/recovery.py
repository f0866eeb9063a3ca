"""Bytewax' recovery store: made for few and large snapshots, and checked before Bytewax would panic over it."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from connectors.errors import UnusableStateError
from connectors.state.files import make_private_dir, state_errors

__all__ = ["check_recovery_store", "latest_states", "make_recovery_store", "unusable"]

# Each part costs three syncs of the disk a snapshot, during which the worker stands still.
PARTS: Final = 1
# SQLite writes page by page. With those of 4096 bytes that it makes by itself a snapshot takes twice as long.
PAGE_BYTES: Final = 1 << 14
ARRAYS: Final = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1
}
"""What the pickle of an array refers to."""


def make_recovery_store(directory: Path) -> None:
    """Make the recovery store in a directory that does not hold one yet. Raises StateError.

    The lock of the state directory, which the directory is in, must be held.
    """
    if any(directory.glob("part-*.sqlite3")):
        return
    # Beside its place first: the store of a process that was killed while making it cannot be used, ever.
    from bytewax.recovery import init_db_dir

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


def check_recovery_store(directory: Path, *, whole: bool) -> None:
    """Check the parts of a store in a directory: whether SQLite can read them and they are Bytewax' tables.

    `whole` also checks that every part is there; in a cluster of hosts each has only some. Raises UnusableStateError,
    also for files that another user can change.
    """
    parts = sorted(directory.glob("part-*.sqlite3"))
    if not parts:
        raise UnusableStateError(
            f"{directory} does not hold a recovery store; create one with `voicewatch recovery init {directory}`"
        )
    _check_owner(directory, parts)
    for part in parts:
        try:
            with closing(sqlite3.connect(part)) as store:
                [check] = store.execute("PRAGMA quick_check(1)").fetchone()
                counts = [count for (count,) in store.execute("SELECT part_count FROM parts")]
                store.execute("SELECT step_id, state_key, snap_epoch, ser_change FROM snaps LIMIT 1").fetchone()
                store.execute("SELECT worker_frontier FROM fronts LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise unusable(directory, f"{part.name} is damaged: {error}") from error
        if check != "ok" or len(counts) != 1:
            raise unusable(directory, f"{part.name} is damaged: {check if check != 'ok' else 'it is empty'}")
        if whole and counts[0] != len(parts):
            raise unusable(directory, f"it has {len(parts)} of {counts[0]} parts")


def unusable(directory: Path, why: str) -> UnusableStateError:
    """Return the error for a store that cannot be continued, with the remedy."""
    return UnusableStateError(
        f"the recovery store {directory} cannot be used: {why}; move the directory away and start again: the run then "
        "reads the kept journal from its beginning, and sends only callbacks that the outbox does not know"
    )


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles tuples, lists, dictionaries, texts, numbers and NumPy's arrays, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not plain data")


def latest_states(directory: Path, step_id: str) -> Iterator[tuple[str, Any]]:
    """Yield key and state of the last snapshot of every key of a step, in the parts that are in a directory.

    Raises UnusableStateError for a state that cannot be unpickled, or that is not plain data: nothing in it is run.
    """
    query = "SELECT state_key, ser_change, MAX(snap_epoch) FROM snaps WHERE step_id = ? GROUP BY state_key"
    for part in sorted(directory.glob("part-*.sqlite3")):
        with closing(sqlite3.connect(f"{part.absolute().as_uri()}?mode=ro", uri=True)) as store:
            for key, change, _ in store.execute(query, (step_id,)):
                if change is None:
                    continue
                try:
                    yield key, _PlainUnpickler(io.BytesIO(change)).load()
                except Exception as error:
                    raise unusable(directory, f"the snapshot {step_id}/{key} cannot be read: {error}") from error


def _check_owner(directory: Path, parts: Sequence[Path]) -> None:
    """Raise UnusableStateError for a store that another user can change: Bytewax runs what its pickles say."""
    for path in (directory, *parts):
        with state_errors(f"reading {path}"):
            status = path.stat()
        if status.st_mode & stat.S_IWOTH:
            raise UnusableStateError(
                f"{path} can be changed by every user (mode {stat.S_IMODE(status.st_mode):o}), who could make the run "
                f"execute code of theirs; move it away, or `chmod -R o-w {directory}` if you trust what is in it"
            )
        if os.geteuid() == 0 != status.st_uid:
            raise UnusableStateError(
                f"{path} belongs to another user (id {status.st_uid}), who could make this run execute code as root; "
                f"run as that user, or `chown -R root {directory}` if you trust what is in it"
            )
