"""Read the lines of windows, alerts, groups and the audit log for the live page; unknown keys are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec
import orjson

from connectors.format.rule_names import is_lasting

__all__ = [
    "CONTROL",
    "Alert",
    "Audit",
    "Group",
    "Window",
    "control_records",
    "decode_lines",
    "placed_lines",
    "record_time",
]

T = TypeVar("T")
NEWLINE: Final = 10


class Latency(msgspec.Struct, gc=False):
    """Hold the latency of a window, in milliseconds."""

    count: int
    min: float
    mean: float
    max: float
    p50: float
    p95: float
    p99: float


class Loss(msgspec.Struct, gc=False):
    """Hold the packet loss of a window, as ratios."""

    count: int
    mean: float
    max: float


class Lag(msgspec.Struct, gc=False):
    """Hold the lag of the late events of a window, in milliseconds."""

    count: int
    mean: float
    max: float


class Mos(msgspec.Struct, gc=False):
    """Hold the MOS of a window, and the model that it comes from."""

    value: float
    model: str


class Window(msgspec.Struct, gc=False):
    """Hold a line of windows.jsonl."""

    conversation_id: str
    start: float
    end: float
    frames: int
    latency_ms: Latency | None = None
    packet_loss: Loss | None = None
    mos: Mos | None = None
    labels: dict[str, str] = {}
    event_lag_ms: Lag | None = None


class Evidence(msgspec.Struct, rename="camel", gc=False):
    """Hold what an alert of a failed leg says of the failure, and which event one of the platform is of."""

    code: str | None = None
    disconnect_type: str | None = None
    event: str | None = None


class Alert(msgspec.Struct, rename="camel", gc=False):
    """Hold a line of alerts.jsonl; a group incident has no conversation."""

    alert_type: str
    alert_id: str
    incident_id: str
    state: str
    timestamp: float
    conversation_id: str | None = None
    metric_value: float | None = None
    threshold: float | None = None
    reason: str | None = None
    leg_id: str | None = None
    labels: dict[str, str] = {}
    group: dict[str, str] | None = None
    conversations: int | None = None
    breaching: int | None = None
    inhibited_by: str | None = None
    evidence: Evidence | None = None

    def lasts(self, *, framewise: bool) -> bool:
        """Return whether a resolved alert follows this raised one, so that its incident is open until then."""
        evidence = None if self.evidence is None else {"event": self.evidence.event}
        return is_lasting(self.alert_type, evidence, framewise=framewise)


class Group(msgspec.Struct, gc=False):
    """Hold a line of groups.jsonl."""

    group: dict[str, str]
    start: float
    end: float
    conversations: int
    breaching: int
    frames: int


class Audit(msgspec.Struct, gc=False):
    """Hold a line of the audit log, with the details that the page shows."""

    time: float
    action: str
    outcome: str = ""
    conversation: str | None = None
    id: str | None = None
    endpoint: str | None = None
    attempt: int | None = None
    feed: str | None = None
    took_s: float | None = None
    prev: str = ""


def decode_lines(decoder: msgspec.json.Decoder[T], data: bytes) -> tuple[list[T], int]:
    """Return the records of some lines, and the number of lines that are not records."""
    try:
        return decoder.decode_lines(data), 0
    except msgspec.DecodeError:
        records, bad = [], 0
        for line in data.splitlines():
            try:
                records.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                bad += 1
        return records, bad


def placed_lines(decoder: msgspec.json.Decoder[T], data: bytes) -> tuple[list[T], list[int], int]:
    """Return the records of some whole lines, the offset of each, and the number of lines that are not records."""
    import numpy as np  # which `status` does without

    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE) + 1
    places = [0, *ends[:-1].tolist()]
    records, bad = decode_lines(decoder, data)
    if len(records) == len(places):
        return records, places, bad
    found = [(decode_lines(decoder, data[begin:end])[0], begin) for begin, end in zip(places, ends, strict=True)]
    return [one for some, _ in found for one in some], [begin for some, begin in found if some], bad


# Searching for a few bytes runs at gigabytes a second, and nearly all lines of a journal are frames.
_MARKS: Final = {
    "watch": b'"watch":{',
    "feed": b'"feed":{',
    "settings": b'"settings":{',
    "clock": b'"clock":{',
    "tick": b'"tick":true',
}
CONTROL: Final = ("watch", "feed", "settings", "clock")


def control_records(data: bytes, kinds: Sequence[str] = CONTROL) -> Iterator[dict[str, Any]]:
    """Yield the records of some kinds, by default all but ticks, among some lines of a journal, in their order."""
    places: set[int] = set()
    for mark in (_MARKS[kind] for kind in kinds):
        at = data.find(mark)
        while at >= 0:
            places.add(data.rfind(b"\n", 0, at) + 1)
            end = data.find(b"\n", at)
            at = data.find(mark, end) if end >= 0 else -1
    for begin in sorted(places):
        end = data.find(b"\n", begin)
        record = _object(data[begin : end if end >= 0 else len(data)])
        # A frame may hold such a key somewhere inside, so only the top level counts.
        if record is not None and "frame" not in record and any(kind in record for kind in kinds):
            yield record


def record_time(data: bytes) -> float | None:
    """Return when the last of some lines of a journal arrived, in epoch seconds."""
    end = len(data.rstrip(b"\n"))
    record = _object(data[data.rfind(b"\n", 0, end) + 1 : end])
    received_at = None if record is None else record.get("received_at")
    return float(received_at) if isinstance(received_at, int | float) else None


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None
