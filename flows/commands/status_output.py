"""Print the status of a state directory, as readable text or JSON; plain text needs no import of Rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

from flows.commands.output import age_text, time_text
from flows.commands.status import Status, as_json
from flows.commands.tables import printable
from flows.web.lines import Alert
from flows.web.words import duration, rule_name, rule_value

__all__ = ["print_status", "print_status_json"]

SHOWN_INCIDENTS: Final = 20


def print_status(status: Status) -> None:
    """Print a line for each part, and one for each open incident; of many, the oldest."""
    for name, text in _lines(status):
        print(f"{name:<10} {text}")


def print_status_json(status: Status) -> None:
    """Print the status as a JSON object."""
    print(orjson.dumps(as_json(status), option=orjson.OPT_INDENT_2).decode())


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    used = "no run uses it" if status.process is None else f"in use by process {status.process}"
    yield "state", f"{status.directory}: {used}"
    journal, at = status.journal, status.at
    age = "no record" if journal.last_record_at is None else f"last record {_ago(at - journal.last_record_at)}"
    yield "journal", f"{journal.segments} segment(s), {_bytes(journal.bytes)}; {age}"
    for feed in status.feeds:
        yield "feed", f"{feed.name} is {feed.state} since {time_text(feed.since)}: {feed.reason}"
    if not status.feeds:
        yield "feed", "none yet"
    lag = status.lag
    yield (
        "lag",
        "no snapshot yet" if lag is None else f"{_bytes(lag.bytes)}, {lag.seconds:.1f} s since the last snapshot",
    )
    outbox = status.outbox
    oldest = f" (the oldest for {age_text(outbox.age_s)})" if outbox.pending else ""
    yield "outbox", f"{outbox.pending} pending{oldest}, {outbox.dead} dead"
    if status.kafka:
        yield (
            "kafka",
            "; ".join(f"{spool.waiting} lines of {name} wait for their topic" for name, spool in status.kafka.items()),
        )
    yield "incidents", f"{len(status.incidents)} open"
    for alert in status.incidents[:SHOWN_INCIDENTS]:
        yield "", _incident(alert, at if status.process or journal.last_record_at is None else journal.last_record_at)
    if (more := len(status.incidents) - SHOWN_INCIDENTS) > 0:
        yield "", f"and {more} more: `--json` lists all"
    parts = ", ".join(
        f"{name.replace('_', ' ')} {_bytes(size)}"
        for name, size in status.disk_bytes.items()
        if size or name != "kafka"
    )
    yield "disk", f"{parts}; {_bytes(status.free_bytes)} free"
    for text in status.attention:
        yield "attention", text


def _incident(alert: Alert, now: float) -> str:
    subject = alert.conversation_id
    if subject is None:
        subject = ", ".join(f"{name} {value}" for name, value in (alert.group or {}).items())
    rule = alert.alert_type
    value = "" if alert.metric_value is None else f", {rule_value(alert.metric_value, rule)}"
    limit = "" if alert.threshold is None else f" (limit {rule_value(alert.threshold, rule)})"
    length = duration(max(now - alert.timestamp, 0.0))
    return printable(f"{rule_name(rule)}: {subject} for {length} since {time_text(alert.timestamp)}{value}{limit}")


def _ago(seconds: float) -> str:
    return f"{max(seconds, 0.0):.1f} s ago" if seconds < 60 else f"{age_text(seconds)} ago"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
