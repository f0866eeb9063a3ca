"""What an older version would have repeated without end is over; what will be resolved goes on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from connectors.callbacks.model import AttemptResult, Callback
from connectors.callbacks.outbox import Outbox
from connectors.callbacks.repeats import end_repeats
from connectors.callbacks.sink import CallbackSink
from connectors.format.rule_names import is_lasting

DATA = Path(__file__).parents[2] / "data" / "outbox"
MUCH_LATER = 1e12
DAY_S = 86_400.0


def lasts(alert: Any, target: str) -> bool:
    assert target == "am"
    return is_lasting(alert["alertType"], alert.get("evidence"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state directory with the outbox and the alerts of an older version."""
    (tmp_path / "outbox.sqlite3").write_bytes((DATA / "schema-2.sqlite3").read_bytes())
    (tmp_path / "alerts.jsonl").write_bytes((DATA / "schema-2-alerts.jsonl").read_bytes())
    return tmp_path


def repeated(outbox: Outbox) -> list[str]:
    """The ids of what is sent again when its time has come."""
    return [one.callback.id for one in outbox.due(MUCH_LATER, per_url=100).waiting]


def add_lasting(outbox: Outbox, alerts: Path, *, delivered: bool) -> str:
    """Put a raised alert that will be resolved into both files; return its id in the outbox."""
    line = {"alertType": "PACKET_LOSS_DETECTED", "alertId": "a-1", "state": "raised"}
    alerts.write_bytes(alerts.read_bytes() + json.dumps(line, separators=(",", ":")).encode() + b"\n")
    callback = Callback("a-1/am", "c9", "notify:am", b"[]", incident="i-9", refresh_s=60.0)
    outbox.insert([callback], now=1.0)
    if delivered:
        outbox.record_results([AttemptResult(callback, "delivered", 2.0, 1)])
    return callback.id


@pytest.mark.parametrize("delivered", [True, False])
def test_alerts_that_nothing_resolves_end(old: Path, *, delivered: bool) -> None:
    """Four of the old version do; one that will be resolved goes on, whether it was delivered or not."""
    outbox = Outbox(old / "outbox.sqlite3")
    lasting = add_lasting(outbox, old / "alerts.jsonl", delivered=delivered)
    assert len(repeated(outbox)) == 5
    assert end_repeats(outbox, old / "alerts.jsonl", lasts, now=3.0) == 4
    assert repeated(outbox) == [lasting]
    assert outbox.counts()["pending"] == (0 if delivered else 1)
    assert end_repeats(outbox, old / "alerts.jsonl", lasts, now=3.0) == 0
    outbox.close()


def test_one_that_waits_for_its_first_delivery_is_sent_once(old: Path) -> None:
    """It is not dropped: only its repetition ends."""
    outbox = Outbox(old / "outbox.sqlite3")
    alerts = old / "alerts.jsonl"
    callback = Callback(add_lasting(outbox, alerts, delivered=False), "c9", "notify:am", b"[]", refresh_s=60.0)
    assert end_repeats(outbox, alerts, lambda *_: False, now=3.0) == 5
    (due,) = outbox.due(MUCH_LATER).waiting
    assert (due.callback.id, due.callback.refresh_s) == (callback.id, 0.0)
    outbox.record_results([AttemptResult(due.callback, "delivered", 4.0, 1)])
    assert repeated(outbox) == []
    outbox.close()


def test_one_whose_resolve_went_nowhere_ends(old: Path) -> None:
    """An older version did not send a resolve whose labels matched no more, and repeated the raised alert."""
    outbox = Outbox(old / "outbox.sqlite3")
    alerts = old / "alerts.jsonl"
    add_lasting(outbox, alerts, delivered=True)
    line = {"alertType": "PACKET_LOSS_DETECTED", "alertId": "a-2", "incidentId": "i-9", "state": "resolved"}
    alerts.write_bytes(alerts.read_bytes() + json.dumps(line, separators=(",", ":")).encode() + b"\n")
    assert end_repeats(outbox, alerts, lambda *_: True, now=3.0) == 1
    assert len(repeated(outbox)) == 4
    outbox.close()


def test_alerts_are_found_in_past_days(old: Path) -> None:
    """A day's file may be compressed; a damaged one costs its own alerts only."""
    outbox = Outbox(old / "outbox.sqlite3")
    lines = (old / "alerts.jsonl").read_bytes().splitlines(keepends=True)
    (old / "alerts.jsonl").unlink()
    (old / "alerts-2026-05-05.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:3])))
    (old / "alerts-2026-07-10.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[3:]))[:-9])
    created = min(at for _, at, _ in outbox.repeated())
    assert end_repeats(outbox, old / "alerts.jsonl", lasts, now=created) in (3, 4)
    outbox.close()


def test_one_whose_alert_is_gone_ends_after_a_week(old: Path) -> None:
    """Results may have been removed or moved meanwhile."""
    outbox = Outbox(old / "outbox.sqlite3")
    created = max(at for _, at, _ in outbox.repeated())
    (old / "alerts.jsonl").unlink()
    assert end_repeats(outbox, old / "alerts.jsonl", lasts, now=created + 6 * DAY_S) == 0
    assert end_repeats(outbox, old / "alerts.jsonl", lasts, now=created + 8 * DAY_S) == 4
    outbox.close()


def test_a_run_ends_them_when_it_begins(old: Path) -> None:
    """The sink of a live flow does it with its alerts, before anything is sent."""
    sink = CallbackSink(old / "outbox.sqlite3", alerts=old / "alerts.jsonl", is_lasting=lasts)
    sink.build_part("step", "outbox", None).close()
    outbox = Outbox(old / "outbox.sqlite3")
    assert repeated(outbox) == []
    outbox.close()
