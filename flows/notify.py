"""Choose which alerts are sent to which `[[notify]]` target; render them when they enter the outbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from connectors.callbacks.routes import Route
from connectors.callbacks.targets import Target, callback_of, route_of
from connectors.format.rule_names import is_lasting
from flows.analytics.alerts import Alert, alert_id_of
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
        callbacks = []
        for table, target in self._targets:
            if (table.rules and alert.rule not in table.rules) or alert.state not in table.states:
                continue
            lasts = self._lasts(shown, table)
            callback = callback_of(target, shown, alert.body, severity, link, is_resolved_later=lasts)
            if _matches(table, shown):
                callbacks.append(callback)
            elif callback.closes:  # the labels may have matched when the alert was raised
                raised = alert_id_of(callback.incident, "raised")
                callbacks.append(replace(callback, only_after=f"{raised}/{target.name}"))
        return callbacks

    def is_lasting(self, alert: Mapping[str, Any], target: str) -> bool:
        """Return whether a raised alert, the object of its line, is followed by a resolved one for this target."""
        return any(self._lasts(alert, table) for table, _ in self._targets if table.name == target)

    def _lasts(self, alert: Mapping[str, Any], table: NotifySettings) -> bool:
        rule, evidence = str(alert.get("alertType")), alert.get("evidence")
        return "resolved" in table.states and is_lasting(rule, evidence, framewise=self._policy == "frame")


def _matches(table: NotifySettings, alert: Mapping[str, Any]) -> bool:
    labels = {**(alert.get("labels") or {}), **(alert.get("group") or {})}
    return all(labels.get(name) == value for name, value in table.match.items())


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
