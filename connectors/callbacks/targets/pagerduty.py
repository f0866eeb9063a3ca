"""Render alerts for the PagerDuty Events API v2: https://developer.pagerduty.com/docs/send-alert-event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import iso_time, message_of, plain

__all__ = ["ENQUEUE", "render", "with_key"]

ENQUEUE: Final = "https://events.pagerduty.com/v2/enqueue"
_EVENT_BYTES: Final = 512 * 1024 - 100  # for the key


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return the event without its routing key, which must not be stored; `with_key` adds it."""
    message = message_of(alert)
    event: dict[str, Any] = {
        "event_action": "resolve" if alert.get("state") == "resolved" else "trigger",
        "dedup_key": str(alert.get("incidentId")),
        "client": "voicewatch",
        "payload": {
            "summary": message.summary,
            "source": plain(str(alert.get("conversationId") or "voicewatch")),
            "severity": severity,
            "timestamp": iso_time(alert.get("timestamp")),
            "class": str(alert.get("alertType")),
            "custom_details": {**dict(message.facts), "window": alert.get("window")},
        },
    }
    if message.link:
        event["links"] = [{"href": message.link, "text": "Live page"}]
    if len(body := orjson.dumps(event)) > _EVENT_BYTES:  # a window of very many legs
        event["payload"]["custom_details"]["window"] = None
        body = orjson.dumps(event)
    return body


def with_key(body: bytes, key: str) -> bytes:
    """Return a rendered event with its routing key.

    >>> with_key(b'{"event_action":"trigger"}', "R0")
    b'{"routing_key":"R0","event_action":"trigger"}'
    """
    return b'{"routing_key":' + orjson.dumps(key) + b"," + body[1:]
