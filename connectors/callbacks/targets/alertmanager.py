"""Render alerts for Prometheus Alertmanager: https://github.com/prometheus/alertmanager api/v2/openapi.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from connectors.callbacks.targets.message import iso_time, message_of

__all__ = ["PATH", "REFRESH_S", "render"]

PATH: Final = "/api/v2/alerts"
REFRESH_S: Final = 60.0  # Alertmanager resolves what it has not seen for `resolve_timeout`, by default 5 minutes
_OWN: Final = frozenset({"alertname", "severity", "conversation", "incident", "source"})


def render(alert: Mapping[str, Any], severity: str) -> bytes:
    """Return the alert as a list of one. A raised one has no end, so that it expires unless it is sent again.

    The labels are the alert's identity there: they hold nothing that differs between `raised` and `resolved`, unless
    the labels of the conversation have changed meanwhile; then the raised one expires by itself.
    """
    message = message_of(alert)
    at = iso_time(alert.get("timestamp"))
    labels = {
        re.sub(r"[^a-zA-Z0-9_]", "_", str(name)): str(text)
        for source in ("labels", "group")
        for name, text in (alert.get(source) or {}).items()
        if name not in _OWN
    }
    labels |= {
        "alertname": str(alert.get("alertType")),
        "severity": severity,
        "source": "voicewatch",
        "incident": str(alert.get("incidentId")),
    }
    if alert.get("conversationId"):
        labels["conversation"] = str(alert["conversationId"])
    entry: dict[str, Any] = {
        "labels": labels,
        "annotations": {
            "summary": message.summary,
            "description": "\n".join(f"{name}: {text}" for name, text in message.facts),
        },
    }
    entry["endsAt" if alert.get("state") == "resolved" else "startsAt"] = at
    if message.link:
        entry["generatorURL"] = message.link
    return orjson.dumps([entry], option=orjson.OPT_SORT_KEYS)
