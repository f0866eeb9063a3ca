"""What a journal line may be, as contract §4 says it, on nothing but Python's own JSON."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

__all__ = ["ALERTS", "LIMITS", "WINDOWS", "NoRecordError", "milliseconds", "parse"]

KINDS = {"frame", "invalid", "tick", "feed", "watch", "settings"}
WINDOWS: dict[str, Any] = {"length_s": 10.0, "slide_s": 5.0, "codec": "g711"}
CODECS = ("g711", "g711-no-plc", "g729a")
ALERTS: dict[str, Any] = {
    "policy": "incident",
    "raise_n": 1,
    "raise_m": 1,
    "clear_ratio": 0.9,
    "clear_after_s": 10.0,
    "unwatched": "ignore",
    "mos_below": None,
    "stalled_after_s": None,
    "max_per_minute": None,
}
GROUPS: dict[str, Any] = {
    "by": [],
    "min_conversations": 5,
    "raise_ratio": 0.3,
    "clear_ratio": 0.15,
    "clear_after_s": 30.0,
    "inhibit": True,
}
MAX_LABELS = 16
LIMITS: dict[str, Any] = {"max_latency_ms": 150.0, "packet_loss_threshold": 0.02}
MAX_EPOCH_S = 1e10


class NoRecordError(Exception):
    """The line is not a record; the text says what is wrong with it."""


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise NoRecordError(reason)


def parse(line: bytes) -> dict[str, Any]:
    """The record in a line; a bare frame becomes {"received_at" or None, "frame"}. Raises NoRecordError."""
    try:
        record = json.loads(line.decode(), parse_constant=_no_constant)
        json.dumps(record, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise NoRecordError("not JSON") from None
    _need(isinstance(record, dict), "not an object")
    if "event" in record:
        _check_frame(record)
        received_at = record.get("receivedAt")
        _need(received_at is None or _is_epoch(received_at), "receivedAt")
        return {"received_at": received_at, "frame": record}
    _need(_is_epoch(record.get("received_at")), "received_at")
    kinds = KINDS & set(record)
    _need(len(kinds) == 1, "not exactly one kind")
    (kind,) = kinds
    _CHECKS[kind](record[kind])
    return dict(record)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _is_epoch(value: Any) -> bool:
    return _is_number(value) and -MAX_EPOCH_S <= value <= MAX_EPOCH_S


def _check_frame(frame: Any) -> None:
    _need(isinstance(frame, dict), "frame")
    _need(isinstance(frame.get("event"), str), "event")
    _need(isinstance(frame.get("entity"), dict) and isinstance(frame["entity"].get("id"), str), "entity.id")
    _need(_is_epoch(frame.get("timestamp")), "timestamp")
    metrics = frame.get("metrics")
    _need(metrics is None or isinstance(metrics, dict), "metrics")
    loss, jitter = (metrics or {}).get("packetLoss"), (metrics or {}).get("jitter")
    _need(loss is None or (_is_number(loss) and 0 <= loss <= 1), "packetLoss")
    _need(jitter is None or _is_number(jitter), "jitter")


def _check_invalid(value: Any) -> None:
    _need(isinstance(value, str), "invalid")


def _check_tick(value: Any) -> None:
    _need(value is True, "tick")


def _check_feed(value: Any) -> None:
    _need(isinstance(value, dict) and isinstance(value.get("name"), str), "feed.name")
    _need(isinstance(value.get("reason"), str | None), "feed.reason")
    _need(value.get("state") in ("up", "down"), "feed.state")


def _check_watch(value: Any) -> None:
    _need(isinstance(value, dict) and isinstance(value.get("conversation_id"), str), "watch.conversation_id")
    _need(isinstance(value.get("leg_id"), str | None), "watch.leg_id")
    _need(isinstance(value.get("qa_callback_url"), str | None), "watch.qa_callback_url")
    _need(isinstance(value.get("feed"), str | None), "watch.feed")
    _need(value.get("codec") in (None, *CODECS), "watch.codec")
    for key in LIMITS:
        _need(key not in value or _is_number(value[key]), f"watch.{key}")
    _check_labels(value.get("labels", {}))
    default = value.get("default_limits", [])
    _need(isinstance(default, list) and all(name in LIMITS for name in default), "watch.default_limits")


def _check_labels(labels: Any) -> None:
    _need(isinstance(labels, dict) and len(labels) <= MAX_LABELS, "labels")
    for name, value in labels.items():
        _need(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) is not None, "labels: name")
        _need(isinstance(value, str) and 1 <= len(value) <= 128, "labels: value")


def _check_settings(value: Any) -> None:
    tables: list[Any] = (
        [value.get(name, {}) for name in ("windows", "alerts", "defaults")] if isinstance(value, dict) else [None]
    )
    _need(all(isinstance(table, dict) for table in tables), "settings")
    windows, alerts, limits = WINDOWS | tables[0], ALERTS | tables[1], LIMITS | tables[2]
    length_s, slide_s = windows["length_s"], windows["slide_s"]
    _need(all(_is_number(seconds) and 0.001 <= seconds <= 3600 for seconds in (length_s, slide_s)), "settings.windows")
    _need(windows["codec"] in CODECS, "settings.windows.codec")
    length_ms, slide_ms = milliseconds(windows)
    _need(length_ms % slide_ms == 0 and length_ms // slide_ms <= 1000, "slide_s must divide length_s")
    _need(alerts["policy"] in ("incident", "frame") and alerts["unwatched"] in ("ignore", "default"), "settings.alerts")
    for key, low, high in (
        ("raise_n", 1, 1000),
        ("raise_m", 1, 1000),
        ("clear_ratio", 0, 1),
        ("clear_after_s", 0, 1e9),
    ):
        _need(_is_number(alerts[key]) and low <= alerts[key] <= high, f"settings.alerts.{key}")
    for key, least, most in (("mos_below", 1.0, 4.5), ("stalled_after_s", 0.001, 86_400.0)):
        given = alerts[key]
        _need(given is None or (_is_number(given) and least <= given <= most), f"settings.alerts.{key}")
    _need(all(_is_number(limits[key]) for key in LIMITS), "settings.defaults")
    _check_labels(limits.get("labels", {}))
    feeds = value.get("feeds", {})
    _need(isinstance(feeds, dict) and all(isinstance(rules, dict) for rules in feeds.values()), "settings.feeds")
    for rules in feeds.values():
        given = rules.get("stalled_after_s")
        _need(given is None or (_is_number(given) and 0.001 <= given <= 86_400.0), "settings.feeds")
    tables = value.get("limits", [])
    _need(isinstance(tables, list) and all(isinstance(table, dict) for table in tables), "settings.limits")
    for table in tables:
        _check_labels(table.get("match"))
        for key in LIMITS:
            _need(table.get(key) is None or _is_number(table[key]), f"settings.limits.{key}")


_CHECKS = {
    "frame": _check_frame,
    "invalid": _check_invalid,
    "tick": _check_tick,
    "feed": _check_feed,
    "watch": _check_watch,
    "settings": _check_settings,
}


def milliseconds(windows: dict[str, Any]) -> tuple[int, int]:
    return round(windows["length_s"] * 1000), round(windows["slide_s"] * 1000)
