"""Render alerts for the services that they can be sent to besides the callback of their conversation.

`render` is a pure function of the alert and its severity: a replay renders the same bytes. `route_of` says where a
target's callbacks are posted. Each vendor's format is in a module of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from connectors.callbacks.model import Callback
from connectors.callbacks.policy import FAILURE_BODY, BodyRules
from connectors.callbacks.routes import Route
from connectors.callbacks.targets import alertmanager, apprise, cloudevents, pagerduty, slack, teams
from connectors.callbacks.targets.message import LINK

__all__ = ["KINDS", "Kind", "Severity", "Target", "callback_of", "route_of", "sample_alert"]

Kind = Literal["webhook", "cloudevents", "alertmanager", "pagerduty", "slack", "teams", "apprise"]
Severity = Literal["warning", "critical"]
KINDS: Final[tuple[Kind, ...]] = ("webhook", "cloudevents", "alertmanager", "pagerduty", "slack", "teams", "apprise")
_RENDERERS: Final = {
    "alertmanager": alertmanager.render,
    "pagerduty": pagerduty.render,
    "slack": slack.render,
    "teams": teams.render,
    "apprise": apprise.render,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Describe a place to send alerts to. `secret` is its URL; for pagerduty the routing key, besides `url`.

    `failure_body` and `success_body` are as in `BodyRules`; None means what the kind needs.
    """

    name: str
    kind: Kind
    secret: str
    url: str | None = None
    failure_body: tuple[str, ...] | None = None
    success_body: tuple[str, ...] | None = None
    allow_private_addresses: bool = False

    @property
    def key(self) -> str:
        """Return what stands in the outbox in place of the URL, which must not be stored."""
        return f"notify:{self.name}"


def callback_of(
    target: Target,
    alert: Mapping[str, Any],
    body: bytes,
    severity: Severity,
    link: str = "",
    *,
    is_resolved_later: bool = True,
) -> Callback:
    """Return the callback that sends an alert, whose line is `body`, to a target.

    `link` is the address of its view on the live page; messages show it, and `body` stays as it is. A raised alert
    that is not resolved later is sent to Alertmanager once, which ends it after its `resolve_timeout`.
    """
    kind, incident = target.kind, str(alert.get("incidentId") or "")
    conversation = str(alert.get("conversationId") or "")
    closes = alert.get("state") == "resolved"
    return Callback(
        id=f"{alert['alertId']}/{target.name}",
        conversation_id=conversation,
        url=target.key,
        body=_RENDERERS[kind]({**alert, LINK: link}, severity) if kind in _RENDERERS else body,
        thread=f"{target.key}/{conversation or incident}",
        incident=incident,
        closes=closes,
        refresh_s=alertmanager.REFRESH_S if kind == "alertmanager" and is_resolved_later and not closes else 0.0,
    )


def route_of(target: Target) -> Route:
    """Return where and how a target's callbacks are posted."""
    url, secrets, complete = target.secret, (target.secret,), None
    if target.kind == "alertmanager":
        url = target.secret.rstrip("/") + alertmanager.PATH
    elif target.kind == "pagerduty":
        url = target.url or pagerduty.ENQUEUE
        complete = partial(pagerduty.with_key, key=target.secret)
    success = target.success_body
    if success is None:
        success = (r'^ok\b|"ok"\s*:\s*true',) if target.kind == "slack" else ()
    rules = BodyRules(FAILURE_BODY if target.failure_body is None else target.failure_body, success)
    return Route(
        url,
        rules,
        signed=target.kind in ("webhook", "cloudevents"),
        complete=complete,
        headers_of=cloudevents.headers_of if target.kind == "cloudevents" else None,
        label=target.key if target.kind == "apprise" else f"{target.key} ({urlsplit(url).hostname})",
        secrets=secrets,
        allow_private_addresses=target.allow_private_addresses,
        custom=partial(apprise.AppriseSender, url) if target.kind == "apprise" else None,
    )


def sample_alert(state: Literal["raised", "resolved"], at: float, incident: str) -> dict[str, Any]:
    """Return an alert that says that it is a test."""
    return {
        "conversationId": "voicewatch-test",
        "alertType": "LATENCY_THRESHOLD_EXCEEDED",
        "metricValue": 312.5 if state == "raised" else 12.5,
        "timestamp": at,
        "source": "genesys-interceptor",
        "alertId": f"{incident}-{state}",
        "incidentId": incident,
        "state": state,
        "reason": None if state == "raised" else "test",
        "threshold": 150.0,
        "legId": None,
        "window": None,
        "labels": {"queue": "test"},
    }
