"""Incidents, put together from the alerts that raised and resolved them, and how long they lasted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from connectors.state.results import reading_results
from flows.report.journal import Watched
from flows.report.windows import PIECE_BYTES
from flows.web.lines import Alert, decode_lines

__all__ = [
    "LENGTHS",
    "Incident",
    "RuleRow",
    "by_rule",
    "incidents_of",
    "learn_limits",
    "minutes_in_alert",
    "read_alerts",
]

# The lower ends of the columns of lengths, in seconds.
LENGTHS: Final = (
    (0.0, "below 10 s"),
    (10.0, "10 s to 1 min"),
    (60.0, "1 to 5 min"),
    (300.0, "5 to 30 min"),
    (1800.0, "30 min or more"),
)


@dataclass(slots=True)
class Incident:
    """A time beyond a limit; `resolved` is None while it lasts. One that does not last is a single event.

    `code` is that of the error that ended a leg, or its disconnect type.
    """

    id: str
    rule: str
    conversation: str | None
    group: dict[str, str] | None
    labels: dict[str, str]
    raised: float
    value: float | None
    threshold: float | None
    is_inhibited: bool
    is_lasting: bool
    resolved: float | None = None
    reason: str | None = None
    code: str | None = None

    def length_s(self, now: float) -> float:
        """Return how long it lasted until it was resolved, or until `now`."""
        return max((now if self.resolved is None else self.resolved) - self.raised, 0.0)


@dataclass(frozen=True)
class RuleRow:
    """The incidents of one rule; `lengths` are counts in the columns of LENGTHS, empty for single events."""

    rule: str
    count: int
    conversations: int
    open: int
    lengths: list[int]
    median_s: float | None
    longest_s: float | None


def read_alerts(path: Path, take: Callable[[Sequence[Alert]], None]) -> Iterator[int]:
    """Read a file of alerts, plain or gzip; yield the bytes of each piece. Raises StateError."""
    decoder = msgspec.json.Decoder(Alert)
    with reading_results(path) as file:
        while data := file.read(PIECE_BYTES):
            data += file.readline()
            take(decode_lines(decoder, data[: data.rfind(b"\n") + 1])[0])
            yield len(data)


def learn_limits(alerts: Iterable[Alert], limits: dict[str, Watched], usual: Watched) -> None:
    """Take the limits of conversations from their alerts; a journal may be missing, or a replay had other limits."""
    names = {"LATENCY_THRESHOLD_EXCEEDED": "max_latency_ms", "PACKET_LOSS_DETECTED": "packet_loss_threshold"}
    for alert in alerts:
        name = names.get(alert.alert_type)
        if name is not None and alert.conversation_id is not None and alert.threshold is not None:
            usual_here = Watched(usual.max_latency_ms, usual.packet_loss_threshold)
            setattr(limits.setdefault(alert.conversation_id, usual_here), name, alert.threshold)


def incidents_of(alerts: Iterable[Alert], *, framewise: bool) -> list[Incident]:
    """Return the incidents in the order in which they were raised. With `framewise`, most stand for themselves."""
    found: dict[str, Incident] = {}
    for alert in alerts:
        known = found.get(alert.incident_id)
        if alert.state == "resolved":
            if known is not None:
                known.resolved, known.reason = alert.timestamp, alert.reason
        elif known is None:
            found[alert.incident_id] = Incident(
                alert.incident_id,
                alert.alert_type,
                alert.conversation_id,
                alert.group,
                alert.labels,
                alert.timestamp,
                alert.metric_value,
                alert.threshold,
                alert.inhibited_by is not None,
                alert.lasts(framewise=framewise),
                code=None if (said := alert.evidence) is None else said.code or said.disconnect_type,
            )
    return list(found.values())


def by_rule(incidents: Iterable[Incident], now: float) -> list[RuleRow]:
    """Return a row for each rule, that of most incidents first."""
    rules: dict[str, list[Incident]] = {}
    for incident in incidents:
        rules.setdefault(incident.rule, []).append(incident)
    rows = []
    for rule, own in rules.items():
        lengths = [one.length_s(now) for one in own if one.is_lasting]
        edges = [low for low, _ in LENGTHS] + [float("inf")]
        counts = [sum(low <= one < high for one in lengths) for low, high in itertools.pairwise(edges)]
        rows.append(
            RuleRow(
                rule,
                len(own),
                len({one.conversation for one in own if one.conversation is not None}),
                sum(one.is_lasting and one.resolved is None for one in own),
                counts if lengths else [],
                median(lengths) if lengths else None,
                max(lengths, default=None),
            )
        )
    return sorted(rows, key=lambda row: (-row.count, row.rule))


def minutes_in_alert(incidents: Iterable[Incident], start: float, end: float) -> float:
    """Return for how many minutes incidents lasted within a period, each counted for itself."""
    lasting = (one for one in incidents if one.is_lasting)
    return sum(max(min(end if i.resolved is None else i.resolved, end) - max(i.raised, start), 0) for i in lasting) / 60
