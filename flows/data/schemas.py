"""Define JSON Schemas (draft 2020-12) of the configuration and of every line that is written.

Tests hold them to what the program writes. Objects are open where the format may grow: a reader ignores unknown keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from connectors.format.limits import MAX_EPOCH_S
from connectors.state.actions import Action
from flows.analytics.rules import RULES
from flows.analytics.signals import SIGNAL_RULES

__all__ = ["DIALECT", "NAMES", "json_schema"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number"}
_RATIO: Final = {"type": "number", "minimum": 0, "maximum": 1}
_TIME: Final = {"type": "number", "minimum": -MAX_EPOCH_S, "maximum": MAX_EPOCH_S, "description": "epoch seconds"}
_LABELS: Final = {
    "type": "object",
    "description": "the labels in force, sorted by name",
    "maxProperties": 16,
    "propertyNames": {"pattern": "^[a-z][a-z0-9_]{0,31}$"},
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 128},
}
GROUP_RULES: Final = ("GROUP_DEGRADED", "ALERT_STORM")


def json_schema(name: str) -> dict[str, Any]:
    """Return the schema of a name in `NAMES`. Raises KeyError for another."""
    schema = _SCHEMAS[name]()
    return {"$schema": DIALECT, "title": f"voicewatch {name}", **schema}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None, about: str = "") -> dict[str, Any]:
    schema = {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}
    return {**({"description": about} if about else {}), **schema}


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _latency() -> dict[str, Any]:
    figures = dict.fromkeys(("min", "mean", "max", "p50", "p95", "p99"), _NUMBER)
    about = "latency in milliseconds; quantiles within 1 % of the exact nearest rank"
    return _object({"count": _COUNT, **figures}, about=about)


def _loss() -> dict[str, Any]:
    return _object({"count": _COUNT, "mean": _RATIO, "max": _RATIO}, about="packet loss as a ratio")


def _window() -> dict[str, Any]:
    mos = _object({"value": {"type": "number", "minimum": 1, "maximum": 5}, "model": _TEXT})
    return _object(
        {
            "conversation_id": _TEXT,
            "start": _TIME,
            "end": _TIME,
            "frames": _COUNT,
            "latency_ms": _or_null(_latency()),
            "packet_loss": _or_null(_loss()),
            "mos": _or_null(mos),
        },
        # Lines of version 0.1.0 have no labels.
        {"labels": _LABELS, "legs": {"type": "array", "items": _leg()}, "event_lag_ms": _lag()},
        about="a line of windows.jsonl; a metric that no frame of the window carried is null",
    )


def _lag() -> dict[str, Any]:
    figures = dict.fromkeys(("min", "mean", "max"), _NUMBER)
    return _object({"count": _COUNT, **figures}, about="milliseconds that late events took; they have no latency")


def _leg() -> dict[str, Any]:
    latency = _object({"count": _COUNT, **dict.fromkeys(("min", "mean", "max"), _NUMBER)})
    return _object(
        {
            **dict.fromkeys(("leg_id", "session_id", "purpose", "direction"), _or_null(_TEXT)),
            "source": {"enum": ["endpoint", "client", "server"]},
            "codecs": {"type": "array", "items": _TEXT},
            "records": {"type": "integer", "minimum": 1},
            "latency_ms": _or_null(latency),
            "packet_loss": _or_null(_loss()),
            "mos": _or_null(_object({"value": {"type": "number", "minimum": 1, "maximum": 5}, "model": _TEXT})),
            "mos_reason": _or_null({"type": "string", "description": "why there is no MOS of the E-model"}),
            "genesys_mos": _or_null(_object({"min": _NUMBER, "scale": _TEXT})),
            "genesys_r_factor": _or_null(_NUMBER),
            "received_packets": _or_null(_COUNT),
            "discarded_packets": _or_null(_COUNT),
            "sent_packets": _or_null(_COUNT),
            "jitter_ms": _or_null(_NUMBER),
            "connected_after_s": _or_null(_NUMBER),
        },
        about="what Genesys measured of one leg in the window",
    )


def _part() -> dict[str, Any]:
    sums = {"type": "array", "items": _or_null(_NUMBER)}
    return _object(
        {
            "index": _COUNT,
            "count": {"type": "integer", "minimum": 2},
            "latency": {**sums, "minItems": 4, "maxItems": 4},
            "loss": {**sums, "minItems": 3, "maxItems": 3},
            "mos": {**sums, "minItems": 3, "maxItems": 3},
            "codecs": {"type": "array", "items": {"type": "boolean"}},
            "histogram": {"type": "object", "additionalProperties": _COUNT},
        },
        about="sums to add up: of latency_ms the count, whole microseconds, minimum and maximum; of losses the count, "
        "billionths and maximum; of MOS values the count, thousandths and minimum; codecs; latencies by bucket",
    )


def _group() -> dict[str, Any]:
    mos = _object({"min": _NUMBER, "mean": _NUMBER, "model": _TEXT})
    return _object(
        {
            "group": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": _TEXT},
            "start": _TIME,
            "end": _TIME,
            "conversations": {"type": "integer", "minimum": 1},
            "breaching": _COUNT,
            "frames": _COUNT,
            "latency_ms": _or_null(_latency()),
            "packet_loss": _or_null(_loss()),
            "mos": _or_null(mos),
        },
        {"part": _part()},
        about="a line of groups.jsonl; part is there if the group is one instance's of several, and has exact sums",
    )


def _alert() -> dict[str, Any]:
    uuid = {"type": "string", "format": "uuid"}
    required = {
        "conversationId": _or_null(_TEXT),
        "alertType": {"type": "string", "pattern": "^[A-Z_]+$", "examples": [*RULES, *SIGNAL_RULES, *GROUP_RULES]},
        "metricValue": _or_null(_NUMBER),
        "timestamp": _TIME,
        "source": {"const": "genesys-interceptor"},
        "alertId": uuid,
        "incidentId": uuid,
        "state": {"enum": ["raised", "resolved"]},
        "reason": _or_null(_TEXT),
        "threshold": _or_null(_NUMBER),
        "legId": _or_null(_TEXT),
        "window": _or_null({"type": "object"}),
    }
    optional = {
        "labels": _LABELS,  # lines of version 0.1.0 have none
        "inhibitedBy": {"type": "string", "description": 'an incidentId, or "rate": the alert was not sent'},
        "evidence": {"type": "object", "description": "what a signal reports: a failure's code, a leg's figures"},
        "group": {"type": "object"},
        "conversations": _COUNT,
        "breaching": _COUNT,
    }
    return _object(required, optional, "a line of alerts.jsonl, which is also the body of a callback")


def _record() -> dict[str, Any]:
    from flows.data.record_schema import record_schema

    return record_schema()


def _rejected() -> dict[str, Any]:
    required = {"file": _TEXT, "line": {"type": "integer", "minimum": 1}, "reason": _TEXT}
    text = {**_TEXT, "description": "the line; not there if it may hold personal data"}
    sha256 = {**_TEXT, "pattern": "^[0-9a-f]{64}$", "description": "of a text that is not kept"}
    optional = {"text": text, "length": {**_COUNT, "description": "bytes of a text that is not kept"}, "sha256": sha256}
    return _object(required, optional, "a line of rejected.jsonl: a line of a recording that is not a record")


def _audit() -> dict[str, Any]:
    return _object(
        {
            "time": _TIME,
            "action": {"enum": [str(action) for action in Action]},
            "conversation": _or_null(_TEXT),
            "outcome": _TEXT,
            "prev": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the line before"},
        },
        about="a line of audit.jsonl; further keys belong to the action",
    )


def _config() -> dict[str, Any]:
    from flows.data.config_schema import config_schema

    return config_schema()


_SCHEMAS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "config": _config,
    "window": _window,
    "group": _group,
    "alert": _alert,
    "record": _record,
    "audit": _audit,
    "rejected": _rejected,
}
NAMES: Final = tuple(_SCHEMAS)
