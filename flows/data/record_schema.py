"""Make the JSON Schema of a record of the journal from the structs that read it, and from the models that write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from connectors.format.records import ClockStep, FeedState, FlowSettings, Frame, WatchSettings
from flows.data.config_schema import config_schema

__all__ = ["record_schema"]

_READ: Final = {"watch": WatchSettings, "settings": FlowSettings, "feed": FeedState, "clock": ClockStep}
# A key of each form of message that is not a frame and is read: see `is_notification`.
_MESSAGES: Final = (
    ("topicName",),
    ("detail-type", "detail"),
    ("mediaEndpointStats",),
    ("mediaStatistics",),
    ("audioLevel",),
)
_ABOUT: Final = {
    "frame": "a message of Genesys: a voice event, a notification, an EventBridge event, or the media of a leg",
    "invalid": "the text received, at most 4096 characters; empty where it may hold personal data",
    "tick": "time has passed without a message",
    "feed": "a feed is connected, or lost",
    "watch": "a conversation is watched from here on, with these limits; one that is not there stays as it was",
    "clock": "the system clock was set; the journal's time changes by `step_s` seconds",
    "settings": "the tables of the configuration that the dataflow reads, in force from here on",
}


def record_schema() -> dict[str, Any]:
    """Return the schema of a record; what it requires and limits is what the reader refuses otherwise.

    Only the limits of a `watch` are those of the writer: a replay reads others, too.
    """
    _, parts = msgspec.json.schema_components([*_READ.values(), Frame], ref_template="#/$defs/{name}")
    definitions = {name: _cleaned(part) for name, part in parts.items()}
    time = definitions["Frame"]["properties"]["timestamp"] | {"description": "epoch seconds"}
    definitions["WatchSettings"]["properties"] = _watch(definitions["WatchSettings"]["properties"])
    message = {
        "type": "object",
        "not": {"required": ["event"]},
        "anyOf": [{"required": list(keys)} for keys in _MESSAGES],
    }
    kinds: dict[str, dict[str, Any]] = {
        "frame": {"anyOf": [{"$ref": "#/$defs/Frame"}, message]},
        "invalid": {"type": "string"},
        "tick": {"const": True},
        **{name: {"$ref": f"#/$defs/{kind.__name__}"} for name, kind in _READ.items()},
    }
    text = {"type": "string"}
    return {
        "description": "a record of the journal, which is a line of a recording",
        "type": "object",
        "required": ["received_at"],
        "properties": {
            "received_at": time,
            "arrived_at": time | {"description": "the wall clock at the arrival, where it differs; epoch seconds"},
            "via": text | {"description": "the feed's name"},
            **{name: {"description": _ABOUT[name], **schema} for name, schema in kinds.items()},
            "reason": text | {"description": "why what was received is invalid"},
            "length": {"type": "integer", "minimum": 0, "description": "the length of a text that is not kept"},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of a text that is not kept"},
        },
        "oneOf": [{"required": [kind]} for kind in kinds],
        "$defs": definitions,
    }


def _watch(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a `watch`: those that are read, and the rest of an interceptor, with the writers' limits."""
    written = config_schema()["$defs"]
    interceptor, feed = written["InterceptorSettings"]["properties"], written["FeedDefaults"]["properties"]
    ours = {name: schema for name, schema in interceptor.items() if name not in read}
    keys: dict[str, Any] = {
        name: {key: item for key, item in schema.items() if key not in ("title", "default")}
        for name, schema in ours.items()
    }
    keys |= read
    for name in ("max_latency_ms", "packet_loss_threshold"):  # a feed allows all that an interceptor does
        [limits] = [choice for choice in feed[name]["anyOf"] if choice["type"] == "number"]
        keys[name] = {**limits, "description": interceptor[name]["description"]}
    return keys


def _cleaned(part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a msgspec schema without titles, docstrings and defaults, with patterns of JSON Schema."""
    dropped = ("title", "description", "default") if "properties" in part or "default" in part else ()
    return {key: _value(key, item) for key, item in part.items() if key not in dropped}


def _value(key: str, item: Any) -> Any:
    if key == "pattern" and isinstance(item, str):
        return item.replace(r"\A", "^").replace(r"\Z", "$")  # JSON Schema does not know Python's anchors
    if isinstance(item, list):
        return [_value("", each) for each in item]
    return _cleaned(item) if isinstance(item, dict) else item
