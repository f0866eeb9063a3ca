"""A damaged or emptied outbox loses only what cannot be read, and says what that is."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3

import pytest

from connectors.callbacks.model import AttemptResult, Callback
from connectors.callbacks.outbox import DamagedOutboxError, Outbox
from connectors.callbacks.salvage import LOST_NAME, open_or_salvage
from connectors.state.audit import read, verify

URL = "http://127.0.0.1:9/alerts"


def fill(path, count):
    """An outbox with `count` callbacks, every third delivered; alerts.jsonl names them all."""
    outbox = Outbox(path)
    callbacks = [Callback(f"id-{n}", f"c{n % 50}", URL, b"x" * 500) for n in range(count)]
    outbox.insert(callbacks, 1.0)
    outbox.record_results([AttemptResult(c, "delivered", 2.0, 1) for c in callbacks[::3]])
    outbox.close()
    alerts = path.parent / "alerts.jsonl"
    alerts.write_text("".join(json.dumps({"alertId": f"id-{n}", "state": "raised"}) + "\n" for n in range(count)))
    return alerts


def lost_ids(path):
    return [json.loads(line)["alertId"] for line in path.with_name(LOST_NAME).read_bytes().splitlines()]


def test_damaged_pages_cost_only_their_rows(tmp_path, audit):
    """Rows on other pages keep their state and order; the file is kept; the rest is listed by its alerts."""
    path = tmp_path / "outbox.sqlite3"
    alerts = fill(path, 3000)
    data = bytearray(path.read_bytes())
    for start in (200_000, 700_000):
        data[start : start + 9000] = b"\xff" * 9000
    path.write_bytes(data)
    with pytest.raises(DamagedOutboxError):
        Outbox(path)
    outbox = open_or_salvage(path, alerts=alerts, audit=audit)
    counts = outbox.counts()
    saved = sum(counts.values())
    assert 2800 <= saved < 3000
    assert counts["delivered"] >= 900
    assert len(lost_ids(path)) == 3000 - saved
    due = outbox.due(5.0, per_url=100).waiting
    assert [w.callback.conversation_id for w in due] == [
        f"c{n}" for n in sorted(range(50), key=lambda n: _first(n, path))
    ]
    outbox.close()
    assert (tmp_path / "outbox.sqlite3.damaged-1").read_bytes() == data
    (entry,) = [r for r in read(tmp_path / "audit.jsonl") if r["action"] == "OUTBOX_SALVAGED"]
    assert (entry["outcome"], entry["saved"], entry["alerts_without_callback"]) == ("damaged", saved, 3000 - saved)
    assert verify(tmp_path / "audit.jsonl").ok
    Outbox(path).close()


def _first(number, path):
    """The place of the oldest pending callback of a conversation."""
    with sqlite3.connect(path) as db:
        row = db.execute(
            "SELECT MIN(seq) FROM callbacks WHERE thread = ? AND state = 'pending'", (f"c{number}",)
        ).fetchone()
    db.close()
    return row[0]


def test_a_file_that_is_no_database_is_replaced(tmp_path, audit):
    """Nothing can be read of it; every alert that the audit log knows no end of is listed."""
    path = tmp_path / "outbox.sqlite3"
    alerts = fill(path, 10)
    path.write_bytes(b"this is not a database" * 100)
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    audit.append("CALLBACK_DELIVERED", conversation="c", outcome="200 OK", id="id-3")
    audit.append("CALLBACK_FAILED", conversation="c", outcome="503", id="id-4")
    outbox = open_or_salvage(path, alerts=alerts, audit=audit)
    assert outbox.counts() == {"pending": 0, "delivered": 0, "dead": 0}
    assert lost_ids(path) == [f"id-{n}" for n in range(10) if n != 3]
    outbox.close()


def test_an_empty_file_is_reported(tmp_path, audit):
    """Zero bytes where 438 callbacks were pending: all of them are listed; a second start reports nothing more."""
    path = tmp_path / "outbox.sqlite3"
    alerts = fill(path, 438)
    path.write_bytes(b"")
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    for _ in range(2):
        open_or_salvage(path, alerts=alerts, audit=audit).close()
        assert len(lost_ids(path)) == 438
    assert len(list(read(tmp_path / "audit.jsonl"))) == 1


def test_compressed_days_are_read(tmp_path, audit):
    """Alerts of past days are listed as those of today, from compressed files, as far as these can be read."""
    path = tmp_path / "outbox.sqlite3"
    alerts = fill(path, 9)
    lines = alerts.read_bytes().splitlines(keepends=True)
    alerts.write_bytes(b"".join(lines[6:]))
    alerts.with_name("alerts-2026-11-27.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:3])))
    noise = random.Random(1).randbytes(100_000).hex().encode()
    cut = gzip.compress(b"".join(lines[3:6]) + noise)
    alerts.with_name("alerts-2026-11-28.jsonl.gz").write_bytes(cut[: len(cut) // 2])
    path.write_bytes(b"")
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    open_or_salvage(path, alerts=alerts, audit=audit).close()
    assert lost_ids(path) == [f"id-{n}" for n in range(9)]


def test_a_first_run_reports_nothing(tmp_path, audit):
    """Neither an outbox nor alerts: nothing is lost."""
    path = tmp_path / "outbox" / "outbox.sqlite3"
    open_or_salvage(path, alerts=tmp_path / "alerts.jsonl", audit=audit).close()
    assert not path.with_name(LOST_NAME).exists()
    assert not (tmp_path / "audit.jsonl").exists()


@pytest.mark.parametrize("begin", [7.0, 3.5])
def test_alerts_that_the_flow_repeats_are_not_lost(tmp_path, audit, begin):
    """A run that was killed before its outbox was there begins again: only alerts before its journal are reported."""
    path = tmp_path / "outbox" / "outbox.sqlite3"
    alerts = tmp_path / "alerts.jsonl"
    alerts.write_text("".join(json.dumps({"alertId": f"id-{n}", "timestamp": 7.0 + n}) + "\n" for n in range(3)))
    open_or_salvage(path, alerts=alerts, audit=audit, repeated_from=begin).close()
    assert not path.with_name(LOST_NAME).exists()
    assert not (tmp_path / "audit.jsonl").exists()
    path.unlink()
    open_or_salvage(path, alerts=alerts, audit=audit, repeated_from=8.5).close()
    assert lost_ids(path) == ["id-0", "id-1"]


def test_a_crash_in_the_middle_of_a_salvage_is_finished(tmp_path, audit):
    """The damaged file is away and the new one is not in its place yet: the next start puts it there."""
    path = tmp_path / "outbox.sqlite3"
    fill(path, 10)
    path.rename(path.with_name(path.name + ".salvaged"))
    outbox = open_or_salvage(path, alerts=None, audit=audit)
    assert outbox.counts()["delivered"] == 4
    outbox.close()
