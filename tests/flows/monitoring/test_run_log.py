"""The log of a live run, against results of the real dataflow."""

from __future__ import annotations

from pathlib import Path

import orjson
from structlog.testing import capture_logs

from connectors.callbacks.outbox import Callback, Outbox
from flows.analytics.alerts import Alert
from flows.analytics.merge import BlockResult, Counts
from flows.monitoring.run_log import MAX_ALERT_LINES, RunLog
from tests.support.callbacks import eventually


def alert(number: int, state: str = "raised") -> Alert:
    body = orjson.dumps({"metricValue": 312.5, "threshold": 150.0})
    reason = None if state == "raised" else "recovered"
    return Alert(1.0, 0, 0, "c1", number, f"id-{number}", "LATENCY_THRESHOLD_EXCEEDED", state, reason, None, body, {})


def report(*alerts: Alert) -> BlockResult:
    return BlockResult(b"", b"", b"", list(alerts), Counts(frames=10, windows=2, raised=len(alerts)))


def test_alerts_are_logged_with_what_they_are_about(tmp_path: Path) -> None:
    """Conversation, rule, value and limit of a raised alert; the reason of a resolved one."""
    with capture_logs() as logs:
        RunLog(tmp_path / "outbox.sqlite3").reported([report(alert(1)), report(alert(2, "resolved"))])
    raised, resolved = logs
    assert raised == {
        "event": "alert_raised",
        "log_level": "info",
        "conversation": "c1",
        "rule": "LATENCY_THRESHOLD_EXCEEDED",
        "value": 312.5,
        "limit": 150.0,
    }
    assert (resolved["event"], resolved["reason"]) == ("alert_resolved", "recovered")


def test_the_alert_of_a_group_is_logged_with_the_group(tmp_path: Path) -> None:
    """It has no conversation, and neither has that of the whole run."""
    of_group = alert(1)._replace(conversation_id=None, rule="GROUP_DEGRADED", body=b'{"group":{"queue":"Support"}}')
    of_run = alert(2)._replace(conversation_id=None, rule="ALERT_STORM", body=b'{"group":null}')
    with capture_logs() as logs:
        RunLog(tmp_path / "outbox.sqlite3").reported([report(of_group, of_run)])
    event = {"event": "alert_raised", "log_level": "info"}
    assert logs == [
        event | {"group": "queue Support", "rule": "GROUP_DEGRADED"},
        event | {"rule": "ALERT_STORM"},
    ]


def test_a_storm_does_not_flood_the_log(tmp_path: Path) -> None:
    """Between two lines of status, 100 alerts are logged; the status says how many were not."""
    run_log = RunLog(tmp_path / "outbox.sqlite3", every_s=0.2)
    outbox = Outbox(tmp_path / "outbox.sqlite3")
    outbox.insert([Callback("id-1", "c1", "https://qa.example.com/", b"{}")], 1.0)
    outbox.close()
    with capture_logs() as logs:
        run_log.reported([report(*map(alert, range(MAX_ALERT_LINES + 7)))])
        run_log.start()
        eventually(lambda: any(line["event"] == "status" for line in logs), 10)
        run_log.stop()
    assert [line["event"] for line in logs].count("alert_raised") == MAX_ALERT_LINES
    status = next(line for line in logs if line["event"] == "status")
    assert status == {
        "event": "status",
        "log_level": "info",
        "watching": 0,
        "frames": 10,
        "windows": 2,
        "alerts_raised": 107,
        "alerts_resolved": 0,
        "callbacks_pending": 1,
        "callbacks_dead": 0,
        "alerts_not_logged": 7,
    }
