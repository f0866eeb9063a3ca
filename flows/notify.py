"""Choose which alerts are sent to which `[[notify]]` target; render them when they enter the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from connectors.callbacks.routes import Route
from connectors.callbacks.targets import Target, callback_of, route_of
from connectors.format.rule_names import is_lasting
from flows.analytics.alerts import Alert
from flows.settings.models import Settings
from flows.settings.notify import NotifySettings, notify_secrets

if TYPE_CHECKING:
    from connectors.callbacks.outbox import Callback

__all__ = ["Notifier"]


class Notifier:
    """Hold the targets of a configuration. Raises ConfigurationError if the environment lacks the URL of one."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        secrets = notify_secrets(settings.notify_targets, environ)
        self._policy = settings.alerts.policy
        self._severity = settings.alerts.severity
        self._web = settings.web
        self._targets = [(table, _target(table, secrets[table.name])) for table in settings.notify_targets]

    @property
    def targets(self) -> list[Target]:
        """Return the targets, in the order of the file."""
        return [target for _, target in self._targets]

    @property
    def routes(self) -> dict[str, Route]:
        """Return where callbacks to targets are sent, by what stands in the outbox as their URL."""
        return {target.key: route_of(target) for target in self.targets}

    def callbacks(self, alert: Alert) -> list[Callback]:
        """Return the callbacks that an alert leads to, none for one that a group's alert or the rate inhibits."""
        if not self._targets:
            return []
        shown: dict[str, Any] = orjson.loads(alert.body)
        link, severity = self._web.link(shown), self._severity.get(alert.rule, "warning")
        lasts = self.is_lasting(shown)
        return [
            callback_of(target, shown, alert.body, severity, link, is_resolved_later=lasts)
            for table, target in self._targets
            if _wanted(table, shown)
        ]

    def is_lasting(self, alert: Mapping[str, Any]) -> bool:
        """Return whether an alert, the object of its line, is followed by a resolved one."""
        return is_lasting(str(alert.get("alertType")), alert.get("evidence"), framewise=self._policy == "frame")


def _wanted(table: NotifySettings, alert: Mapping[str, Any]) -> bool:
    labels = {**(alert.get("labels") or {}), **(alert.get("group") or {})}
    return (
        (not table.rules or alert["alertType"] in table.rules)
        and alert["state"] in table.states
        and all(labels.get(name) == value for name, value in table.match.items())
    )


def _target(table: NotifySettings, secret: str) -> Target:
    return Target(
        name=table.name,
        kind=table.kind,
        secret=secret,
        url=table.url,
        failure_body=table.failure_body,
        success_body=table.success_body,
        allow_private_addresses=table.allow_private_addresses,
    )
