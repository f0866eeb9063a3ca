"""Incidents put together from alerts."""

from __future__ import annotations

from typing import Any

from flows.report.failures import failures_of
from flows.report.incidents import by_rule, incidents_of, learn_limits, minutes_in_alert
from flows.report.journal import Watched
from flows.web.lines import Alert, Evidence

LATENCY = "LATENCY_THRESHOLD_EXCEEDED"


def alert(number: int, at: float, state: str, **more: Any) -> Alert:
    fields = {"alert_type": LATENCY, "conversation_id": f"c{number}", "threshold": 150.0, **more}
    return Alert(alert_id=f"{number}-{state}", incident_id=f"i{number}", state=state, timestamp=at, **fields)


ALERTS = [
    alert(1, 100.0, "raised"),
    alert(1, 105.0, "resolved", reason="recovered"),
    alert(2, 110.0, "raised"),
    alert(3, 120.0, "raised", alert_type="CALL_FAILED"),
    alert(2, 200.0, "resolved", reason="ended"),
    alert(4, 210.0, "raised", inhibited_by="i9"),
]


def test_a_resolve_ends_its_incident() -> None:
    """One of five seconds, one of ninety, one that is open, and an event that lasts no time."""
    incidents = incidents_of(ALERTS, framewise=False)
    assert [(one.id, one.resolved, one.reason) for one in incidents] == [
        ("i1", 105.0, "recovered"),
        ("i2", 200.0, "ended"),
        ("i3", None, None),
        ("i4", None, None),
    ]
    latency, failed = by_rule(incidents, 270.0)
    assert (latency.rule, latency.count, latency.open, latency.lengths) == (LATENCY, 3, 1, [1, 0, 2, 0, 0])
    assert (latency.median_s, latency.longest_s) == (60.0, 90.0)
    assert (failed.rule, failed.count, failed.open, failed.lengths) == ("CALL_FAILED", 1, 0, [])


def test_failed_calls_are_counted_by_code_and_label() -> None:
    """The most frequent values of each label first; a failure without a code counts under its disconnect type."""
    labels = [{"agent": "a", "queue": "q"}, {"agent": "b", "queue": "q"}, {"agent": "b"}, {}]
    alerts = [
        alert(
            number,
            100.0 + number,
            "raised",
            alert_type="CALL_FAILED",
            labels=of,
            evidence=Evidence("ice" if number else None, "transport.failure"),
        )
        for number, of in enumerate(labels)
    ]
    ice, other = failures_of(incidents_of([*alerts, ALERTS[0]], framewise=False))
    assert (ice.code, ice.count, ice.conversations) == ("ice", 3, 3)
    assert ice.labels == [("agent", [("b", 2)]), ("queue", [("q", 1)])]
    assert (other.code, other.count) == ("transport.failure", 1)
    hidden = failures_of(incidents_of(alerts, framewise=False), lambda labels: {**labels, "agent": "no. 1"})
    assert hidden[0].labels[0] == ("agent", [("no. 1", 3)])


def test_minutes_in_alert_are_those_within_the_period() -> None:
    """An incident that began before or is open counts for its part."""
    incidents = incidents_of(ALERTS, framewise=False)
    assert minutes_in_alert(incidents, 102.0, 240.0) == (3.0 + 90.0 + 30.0) / 60
    assert minutes_in_alert(incidents, 0.0, 50.0) == 0.0


def test_alerts_of_single_frames_last_no_time() -> None:
    """With the policy `frame` each alert stands for itself."""
    incidents = incidents_of(ALERTS, framewise=True)
    assert minutes_in_alert(incidents, 0.0, 1000.0) == 0.0
    assert all(row.open == 0 and row.lengths == [] for row in by_rule(incidents, 1000.0))


def test_limits_are_learned_from_alerts() -> None:
    """An alert names the limit that it is about; the other limit stays the usual one."""
    limits: dict[str, Watched] = {}
    learn_limits([alert(1, 0.0, "raised", threshold=120.0)], limits, Watched(150.0, 0.02))
    assert (limits["c1"].max_latency_ms, limits["c1"].packet_loss_threshold) == (120.0, 0.02)
