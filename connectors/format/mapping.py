"""Map records of other shapes to frames: epoch milliseconds, ISO times, CSV columns, paths of fields. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from connectors.format.notifications import UPDATED
from connectors.format.values import epoch_seconds

__all__ = ["FIELDS", "InputMap", "guessed_input", "parse_input"]

_SCALES: Final = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_TIME_UNITS: Final = ("auto", "iso", *_SCALES)
FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "conversation": (),
    "event": (),
    "timestamp": _TIME_UNITS,
    "received": _TIME_UNITS,
    "latency": ("ms", "s"),
    "loss": ("ratio", "percent"),
    "jitter": ("ms", "s"),
}
"""What a mapping may name, each with its units; the first unit is the default."""

_NAMES: Final = {
    "conversation": ("conversationid", "conversation_id", "conversation", "callid", "call_id", "interactionid", "id"),
    "event": ("event", "eventtype", "event_type", "type"),
    "timestamp": ("timestamp", "eventtime", "event_time", "sentat", "sent_at", "time", "ts"),
    "received": ("receivedat", "received_at", "received", "arrivedat", "arrived_at"),
    "latency": ("latency_ms", "latencyms", "latency", "rtt_ms", "rtt"),
    "loss": ("packetloss", "packet_loss", "loss", "loss_ratio"),
    "jitter": ("jitter", "jitter_ms", "jitterms"),
}
"""Keys, in lower case, that such data often have."""


class Source(NamedTuple):
    """The path of a field in a record, and its unit."""

    path: str
    unit: str


class InputMap(NamedTuple):
    """Where the parts of a frame stand in a record."""

    sources: Mapping[str, Source]

    def frame(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a bare frame. What is missing or not readable is left out, so that its reader reports it.

        >>> input_map = parse_input("conversation=call.id,received=at:ms,latency=rtt,loss=loss:percent")
        >>> input_map.frame({"call": {"id": "c1"}, "at": 5250, "rtt": "250", "loss": 2})
        {'event': 'conversation.updated', 'entity': {'id': 'c1'}, 'timestamp': 5.0, 'receivedAt': 5.25, \
'metrics': {'packetLoss': 0.02}}
        """
        event = self._text(record, "event") if "event" in self.sources else UPDATED
        frame: dict[str, Any] = {}
        if event is not None:
            frame["event"] = event
        if (conversation := self._text(record, "conversation")) is not None:
            frame["entity"] = {"id": conversation}
        sent, arrived, latency_s = (self._number(record, name) for name in ("timestamp", "received", "latency"))
        if np.isnan(sent):
            sent = arrived - latency_s
        if np.isnan(arrived):
            arrived = sent + latency_s
        times = {"timestamp": sent, "receivedAt": arrived}
        frame |= {name: round(at, 6) for name, at in times.items() if not np.isnan(at)}
        figures = {"packetLoss": self._number(record, "loss"), "jitter": self._number(record, "jitter") * 1000}
        if metrics := {name: round(figure, 9) for name, figure in figures.items() if not np.isnan(figure)}:
            frame["metrics"] = metrics
        return frame

    def _text(self, record: Mapping[str, Any], name: str) -> str | None:
        value = self._value(record, name)
        return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None

    def _number(self, record: Mapping[str, Any], name: str) -> float:
        """Return a time or a duration in seconds, a loss as a ratio; NaN without one."""
        value = self._value(record, name)
        if value is None:
            return np.nan
        return _READERS[name](value, self.sources[name].unit)

    def _value(self, record: Mapping[str, Any], name: str) -> Any:
        source = self.sources.get(name)
        return None if source is None else _field(record, source.path)


def parse_input(text: str) -> InputMap:
    """Parse `conversation=PATH,timestamp=PATH:UNIT,…`. Raise ValueError, which says what is wrong.

    >>> parse_input("conversation=id,timestamp=ts:ms").sources["timestamp"]
    Source(path='ts', unit='ms')
    """
    sources: dict[str, Source] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_given, path = part.partition("=")
        if name not in FIELDS:
            raise ValueError(f"{name} is not one of {', '.join(FIELDS)}")
        path, _, unit = path.partition(":")
        if not is_given or not path:
            raise ValueError(f"{name} needs the path of a field: {name}=PATH")
        units = FIELDS[name]
        if unit and unit not in units:
            known = f"one of {', '.join(units)}" if units else "without a unit"
            raise ValueError(f"{name}={path}:{unit}: the unit must be {known}")
        if name in sources:
            raise ValueError(f"{name} is there twice")
        sources[name] = Source(path, unit or (units[0] if units else ""))
    if "conversation" not in sources:
        raise ValueError("conversation is missing: the field that holds the conversation's id")
    if "timestamp" not in sources and not {"received", "latency"} <= sources.keys():
        raise ValueError("timestamp is missing, or received and latency, from which it follows")
    return InputMap(sources)


def guessed_input(record: Mapping[str, Any]) -> str | None:
    """Return a mapping for a record by the names of its keys, None if its conversation or time is not found.

    >>> guessed_input({"callId": "c1", "ts": 1767225600000, "latency": 20})
    'conversation=callId,timestamp=ts,latency=latency'
    """
    by_name = {key.lower(): key for key in record}
    found: dict[str, str] = {}
    for name, names in _NAMES.items():
        if (known := next((known for known in names if known in by_name), None)) is not None:
            found[name] = by_name[known]
    text = ",".join(f"{name}={path}" for name, path in found.items())
    try:
        parse_input(text)
    except ValueError:
        return None
    return text


def _field(record: Any, path: str) -> Any:
    """Return the value at a path of keys and numbers of items, with dots between; None without one."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    value = record
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _time(value: Any, unit: str) -> float:
    number = _number(value)
    if np.isnan(number) or unit == "iso":
        return epoch_seconds(value.strip().replace(" ", "T", 1)) if isinstance(value, str) else np.nan
    if unit == "auto":
        return epoch_seconds(number)
    return number / _SCALES[unit]


def _duration(value: Any, unit: str) -> float:
    return _number(value) / _SCALES[unit]


def _ratio(value: Any, unit: str) -> float:
    return _number(value) / (100 if unit == "percent" else 1)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return np.nan
    try:
        return float(value)
    except ValueError:
        return np.nan


_READERS: Final[dict[str, Callable[[Any, str], float]]] = {
    "timestamp": _time,
    "received": _time,
    "latency": _duration,
    "jitter": _duration,
    "loss": _ratio,
}
