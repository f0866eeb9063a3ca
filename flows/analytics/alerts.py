"""What is told of an alert: its ids and the JSON body that is the callback and the line of `alerts.jsonl`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import orjson

__all__ = ["Alert", "incident_id", "make_alert"]

_NAMESPACE: Final = UUID("7d4e1c52-93c1-5a3e-8b1f-0f6f2d9c4a77")


class Alert(NamedTuple):
    """An alert, ready to be sent; `row` and `order` place it in its block, `url` is None where nobody is to be told."""

    row: int
    order: int
    alert_id: str
    conversation_id: str
    rule: str
    state: str
    reason: str | None
    url: str | None
    body: bytes


def incident_id(conversation_id: str, rule: str, began_at: float, ordinal: int) -> UUID:
    """The same incident's id in every run: from the conversation, the rule, when it began, and which of that time.

    >>> str(incident_id("c1", "PACKET_LOSS_DETECTED", 1700000000.25, 0))
    '4217ee93-62df-525b-8d1b-bdbd90dbbfde'
    """
    return uuid5(_NAMESPACE, orjson.dumps([conversation_id, rule, began_at, ordinal]).decode())


def make_alert(
    *,
    row: int,
    order: int,
    conversation_id: str,
    rule: str,
    state: str,
    reason: str | None,
    value: float | None,
    arrival: float,
    threshold: float,
    incident: UUID,
    leg_id: str | None,
    url: str | None,
    window: dict[str, Any] | None,
) -> Alert:
    """The alert with its body; `value` and `threshold` in milliseconds or as a ratio, `arrival` in epoch seconds."""
    alert_id = str(uuid5(incident, state))
    body = orjson.dumps(
        {
            "conversationId": conversation_id,
            "alertType": rule,
            "metricValue": value,
            "timestamp": arrival,
            "source": "genesys-interceptor",
            "alertId": alert_id,
            "incidentId": str(incident),
            "state": state,
            "reason": reason,
            "threshold": threshold,
            "legId": leg_id,
            "window": window,
        }
    )
    return Alert(row, order, alert_id, conversation_id, rule, state, reason, url, body)
