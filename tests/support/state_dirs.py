"""State directories as a run leaves them, made up line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from connectors.callbacks.model import AttemptResult, Callback
from connectors.callbacks.outbox import Outbox
from connectors.state.audit import AuditLog

__all__ = ["BEGAN", "HOSTILE", "StateDir"]

BEGAN = 1_795_942_020.0
# An id is whatever the wire says.
HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}/../\u202e"


class StateDir:
    """Writes windows, alerts, journal records and audit lines, at times counted from BEGAN."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        (directory / "journal").mkdir(parents=True)
        self.audit = AuditLog(directory / "audit.jsonl", now=lambda: BEGAN + self.at)
        self.at = 0.0

    def record(self, at: float, **record: Any) -> None:
        """Append a record to the journal."""
        self._append("journal/00000001.jsonl", {"received_at": BEGAN + at, **record})

    def watch(self, at: float, id_: str, **more: Any) -> None:
        """Append a watch record with the usual limits."""
        limits = {"leg_id": "leg-1", "max_latency_ms": 150.0, "packet_loss_threshold": 0.02}
        self.record(at, watch={"conversation_id": id_, **limits, **more})

    def feed(self, at: float, state: str, reason: str = "because") -> None:
        """Append a change of the feed."""
        self.record(at, feed={"name": "voice-events", "state": state, "reason": reason})

    def window(
        self, start: float, id_: str, *, p95: float = 50.0, loss: float = 0.001, mos: float = 4.3, **labels: str
    ) -> None:
        """Append a window of ten seconds with ten frames."""
        latency = {"count": 10, "min": 10.0, "mean": p95 / 2, "max": p95, "p50": p95 / 2, "p95": p95, "p99": p95}
        line = {
            "conversation_id": id_,
            "start": BEGAN + start,
            "end": BEGAN + start + 10.0,
            "frames": 10,
            "latency_ms": latency,
            "packet_loss": {"count": 10, "mean": loss / 2, "max": loss},
            "mos": {"value": mos, "model": "G.107 narrowband, G.711+PLC"},
        }
        self._append("windows.jsonl", line | ({"labels": labels} if labels else {}))

    def late_window(self, start: float, id_: str, *, count: int, mean: float, most: float) -> None:
        """Append a window whose only events were late, with their lag in milliseconds."""
        lag = {"count": count, "min": mean, "mean": mean, "max": most}
        line = {"conversation_id": id_, "start": BEGAN + start, "end": BEGAN + start + 10.0, "frames": count}
        nothing: dict[str, Any] = {"latency_ms": None, "packet_loss": None, "mos": None, "labels": {}}
        self._append("windows.jsonl", line | nothing | {"event_lag_ms": lag})

    def alert(self, at: float, id_: str | None, state: str, number: int, **more: Any) -> str:
        """Append a latency alert; incidents are numbered. Returns the id of the alert."""
        alert_id = f"alert-{number}-{state}"
        line = {
            "conversationId": id_,
            "alertType": "LATENCY_THRESHOLD_EXCEEDED",
            "metricValue": 300.0 if state == "raised" else 100.0,
            "timestamp": BEGAN + at,
            "source": "genesys-interceptor",
            "alertId": alert_id,
            "incidentId": f"incident-{number}",
            "state": state,
            "reason": "recovered" if state == "resolved" else None,
            "threshold": 150.0,
            "legId": "leg-1",
            "window": None,
        }
        self._append("alerts.jsonl", line | more)
        return alert_id

    def group(self, end: float, group: dict[str, str], *, conversations: int, breaching: int) -> None:
        """Append a window of a group."""
        figures = {"conversations": conversations, "breaching": breaching, "frames": 10 * conversations}
        self._append("groups.jsonl", {"group": group, "start": BEGAN + end - 10, "end": BEGAN + end, **figures})

    def attempt(
        self, at: float, alert_id: str, action: str, outcome: str, number: int = 1, *, took_s: float = 0.05
    ) -> None:
        """Append an attempt to deliver a callback to the audit log."""
        self.at = at
        endpoint = "https://qa.example.com"
        self.audit.append(
            action, conversation=None, outcome=outcome, id=alert_id, endpoint=endpoint, attempt=number, took_s=took_s
        )

    def outbox(self, *, pending: int, dead: int, delivered: int) -> None:
        """Make an outbox with a number of callbacks in each state, for two addresses of one receiver."""
        outbox = Outbox(self.dir / "outbox" / "outbox.sqlite3")
        total = pending + dead + delivered
        callbacks = [
            Callback(f"c{n}", f"conv{n}", f"https://qa.example.com/hook{n % 2}?key=hush", b"{}") for n in range(total)
        ]
        outbox.insert(callbacks, BEGAN)
        states = ["dead"] * dead + ["delivered"] * delivered
        outbox.record_results(
            [AttemptResult(c, s, BEGAN + 1, 1, "503") for c, s in zip(callbacks[pending:], states, strict=True)]  # type: ignore[arg-type]
        )
        outbox.close()

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self.dir / name).open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")
