"""A small SQLite file of a thread's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from connectors.errors import StateError
from connectors.state.stores import Store

SCHEMA = "CREATE TABLE IF NOT EXISTS kept (value TEXT)"


def opened(path: Path) -> Store:
    return Store(path, SCHEMA, name="list", cost="it begins empty")


def test_what_is_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """Its directory is made, and the file is the owner's alone."""
    path = tmp_path / "new" / "list.sqlite3"
    store = opened(path)
    with store.use() as db:
        db.execute("INSERT INTO kept VALUES ('a')")
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    store = opened(path)
    with store.use() as db:
        assert db.execute("SELECT value FROM kept").fetchall() == [("a",)]
    store.close()


def test_a_file_that_cannot_be_used_is_one_line_with_what_it_costs_to_move_it(tmp_path: Path) -> None:
    """As it is opened, and in use."""
    path = tmp_path / "list.sqlite3"
    path.write_bytes(b"no database" * 1000)
    said = rf"the list {re.escape(str(path))} cannot be used: .*; check its disk, or move the file away: then it begins"
    with pytest.raises(StateError, match=said):
        opened(path)
    path.unlink()
    store = opened(path)
    with pytest.raises(StateError, match=said), store.use() as db:
        db.execute("SELECT * FROM missing")
    store.close()
