"""`voicewatch status`: read how a state directory is, while a run uses it and after; change nothing in it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from connectors.callbacks.outbox import OutboxState, outbox_state
from connectors.errors import StateError, UsageError
from connectors.journal.segments import SUFFIX, Position, bytes_behind, segments, size_of
from connectors.kafka.spool import SpoolState, spool_state
from connectors.state.files import last_line, lock_holder, state_errors
from connectors.state.recovery import latest_states
from flows.commands.export import raw_lines
from flows.state import JOURNAL_STEP, StateLayout
from flows.web.lines import Alert, control_records, record_time

__all__ = ["FeedStatus", "Journal", "Lag", "Status", "read_status"]

OVERDUE_S: Final = 3600.0
LITTLE_SPACE_BYTES: Final = 64 * 2**20


class FeedStatus(NamedTuple):
    """Hold the last change of a feed: `state` is up or down, `since` is in epoch seconds."""

    name: str
    state: str
    since: float
    reason: str


class Journal(NamedTuple):
    """Describe the journal on the disk; `last_record_at` is None without a record in its newest segment."""

    segments: int
    bytes: int
    last_record_at: float | None


class Lag(NamedTuple):
    """Measure what a restart would read again: the journal behind the last snapshot, and the time that it spans."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Status:
    """Describe a state directory at the time `at`; `process` is the id of the process that uses it, None without one.

    `lag` is None without a snapshot. `kafka` has the spools of lines for topics, by results. `incidents` are
    the raised alerts without a resolve, oldest first. `disk_bytes` holds the sizes by what they are for.
    """

    directory: Path
    at: float
    process: str | None
    journal: Journal
    feeds: list[FeedStatus]
    lag: Lag | None
    outbox: OutboxState
    kafka: dict[str, SpoolState]
    incidents: list[Alert]
    disk_bytes: dict[str, int]
    free_bytes: int

    @property
    def attention(self) -> list[str]:
        """Return what an operator should look at, a sentence each; empty if all is well."""
        found = []
        if self.process is not None:
            found += [f"feed {feed.name} is {feed.state}: {feed.reason}" for feed in self.feeds if feed.state != "up"]
        if self.outbox.dead:
            found.append(f"{self.outbox.dead} callback(s) are dead: `voicewatch outbox list CONFIG` says why")
        if self.outbox.age_s > OVERDUE_S:
            found.append(f"the oldest pending callback has waited for {self.outbox.age_s / 3600:.1f} h")
        found += [
            f"{spool.left_out} line(s) of {name} did not reach Kafka: they had no room to wait (kafka.spool_mib)"
            for name, spool in self.kafka.items()
            if spool.left_out and spool.waiting
        ]
        if self.free_bytes < LITTLE_SPACE_BYTES:
            found.append(f"{self.free_bytes // 2**20} MiB are free on the disk")
        return found


def read_status(directory: Path, now: float) -> Status:
    """Read the status of a state directory at `now` (epoch seconds).

    Raise UsageError for what is not a state directory, StateError for files that cannot be read.
    """
    state = StateLayout(directory)
    if not any(path.exists() for path in (state.lock, state.journal, state.outbox, state.audit)):
        raise UsageError(f"{directory} is not a state directory: it holds neither a journal nor an outbox")
    with state_errors(f"reading the state directory {directory}"):
        newest, last_record_at = _newest_segment(state.journal)
        try:
            outbox = outbox_state(state.outbox, now)
        except sqlite3.Error as error:
            raise StateError(f"the outbox {state.outbox} cannot be read: {error}") from error
        try:
            kafka = {name: spool_state(path) for name, path in state.spools.items()}
        except sqlite3.Error as error:
            raise StateError(f"a file in {directory / 'kafka'} cannot be read: {error}") from error
        sizes = {
            "journal": _size(state.journal),
            "outbox": _size(state.outbox.parent),
            "kafka": _size(directory / "kafka"),
            "recovery": _size(state.recovery),
            "results": sum(size_of(path) for path in _results(directory)),
            "audit_log": size_of(state.audit),
        }
        return Status(
            directory=directory,
            at=now,
            process=lock_holder(state.lock),
            journal=Journal(len(segments(state.journal)), sizes["journal"], last_record_at),
            feeds=_feeds(newest),
            lag=_lag(state, last_record_at),
            outbox=outbox,
            kafka=kafka,
            incidents=_open_incidents(directory, newest),
            disk_bytes=sizes,
            free_bytes=shutil.disk_usage(directory).free,
        )


def _newest_segment(journal: Path) -> tuple[bytes, float | None]:
    """Return the complete lines of the newest plain segment, and the time of the last; it begins with all in force."""
    plain = [path for path in segments(journal) if path.suffix == SUFFIX]
    if not plain:
        return b"", None
    data = plain[-1].read_bytes()
    if not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
    return data, record_time(data) if data else None


def _feeds(data: bytes) -> list[FeedStatus]:
    feeds: dict[str, FeedStatus] = {}
    for record in control_records(data):
        if isinstance(feed := record.get("feed"), dict):
            known = feeds.get(feed["name"])
            if known is None or known.state != feed["state"]:
                status = FeedStatus(feed["name"], feed["state"], record["received_at"], feed["reason"])
                feeds[feed["name"]] = status
    return list(feeds.values())


def _lag(state: StateLayout, last_record_at: float | None) -> Lag | None:
    """Measure the journal behind the place that the last snapshot names; None if no snapshot names one."""
    try:
        snapshots = [value for _, value in latest_states(state.recovery, JOURNAL_STEP)]
    except sqlite3.Error as error:
        raise StateError(f"the recovery store {state.recovery} cannot be read: {error}") from error
    if not snapshots:
        return None
    position = Position(*snapshots[0][0])
    behind = bytes_behind(state.journal, position)
    began = _time_at(state.journal / position.segment, position.offset) if behind else None
    return Lag(behind, max(last_record_at - began, 0.0) if began is not None and last_record_at is not None else 0.0)


def _time_at(segment: Path, offset: int) -> float | None:
    """Return the time of the last record before a place in a segment, or of the first one in it."""
    try:
        with segment.open("rb") as file:
            line = last_line(file.fileno(), offset)[1] if offset else file.readline()
    except FileNotFoundError:
        return None
    return record_time(line) if line else None


def _open_incidents(directory: Path, newest: bytes) -> list[Alert]:
    try:
        return _open_among(raw_lines(directory, "alerts"), newest)
    except ValueError as error:  # of msgspec, too
        raise StateError(f"a line of the alerts in {directory} is damaged: {error}") from error


def _open_among(lines: Iterable[bytes], newest: bytes) -> list[Alert]:
    settings = [record["settings"] for record in control_records(newest, ("settings",))]
    framewise = bool(settings) and settings[-1].get("alerts", {}).get("policy") == "frame"
    decoder = msgspec.json.Decoder(Alert)
    raised: dict[str, bytes] = {}
    for line in lines:
        # Most are not decoded, which takes a second for 200,000. A label may be named `state`.
        if framewise or b'"state":"resolved"' in line:
            alert = decoder.decode(line)
            if alert.state == "resolved":
                raised.pop(alert.incident_id, None)
                continue
            if not alert.lasts(framewise=framewise):
                continue
        raised[line.partition(b'"incidentId":"')[2].partition(b'"')[0].decode()] = line
    alerts = map(decoder.decode, raised.values())
    return [alert for alert in alerts if alert.lasts(framewise=framewise)]


def _results(directory: Path) -> Iterator[Path]:
    for kind in ("windows", "groups", "alerts"):
        yield from directory.glob(f"{kind}*.jsonl*")


def _size(directory: Path) -> int:
    return sum(size_of(path) for path in directory.glob("**/*") if path.is_file())


def as_json(status: Status) -> dict[str, Any]:
    """Return a status as the JSON object of `--json`: times in epoch seconds, ages in seconds, sizes in bytes."""
    journal, at = status.journal, status.at
    age_s = None if journal.last_record_at is None else max(at - journal.last_record_at, 0.0)
    return {
        "directory": str(status.directory),
        "at": at,
        "running": None if status.process is None else {"process": _number(status.process)},
        "journal": {**journal._asdict(), "age_s": age_s},
        "feeds": [feed._asdict() for feed in status.feeds],
        "lag": None if status.lag is None else status.lag._asdict(),
        "kafka": {name: spool.waiting for name, spool in status.kafka.items()},
        "kafka_left_out": {name: spool.left_out for name, spool in status.kafka.items()},
        "outbox": {"pending": status.outbox.pending, "dead": status.outbox.dead, "oldest_s": status.outbox.age_s},
        "incidents": [_incident(alert) for alert in status.incidents],
        "disk": {f"{name}_bytes": size for name, size in status.disk_bytes.items()} | {"free_bytes": status.free_bytes},
        "attention": status.attention,
    }


def _number(process: str) -> int | None:
    return int(process) if process.isdigit() else None


def _incident(alert: Alert) -> dict[str, Any]:
    return {
        "incidentId": alert.incident_id,
        "alertType": alert.alert_type,
        "conversationId": alert.conversation_id,
        "group": alert.group,
        "since": alert.timestamp,
        "metricValue": alert.metric_value,
        "threshold": alert.threshold,
        "labels": alert.labels,
    }
