"""The configuration of targets besides the callback: the `[[notify]]` list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from connectors.errors import ConfigurationError
from flows.settings.labels import Labels
from flows.settings.values import HttpUrl, Patterns, Table, Text, UrlRule, environment_variable, feed_name

__all__ = ["NotifySettings", "NotifyTables", "Severity", "notify_secrets"]

Severity = Literal["warning", "critical"]


class NotifySettings(Table):
    """`[[notify]]`: a further place to send alerts to."""

    name: Annotated[str, AfterValidator(feed_name)] = Field(
        description="name in logs, the audit log and the outbox; unique"
    )
    kind: Literal["webhook", "cloudevents", "alertmanager", "pagerduty", "slack", "teams", "apprise"] = Field(
        description="the format: the alert as in the callback, that with CloudEvents headers, that of a service, or "
        "any service that the library Apprise knows (extra `notify`)"
    )
    url_env: Annotated[str, AfterValidator(environment_variable)] = Field(
        description="the environment variable that holds the URL; for pagerduty the routing key; for alertmanager the "
        "address without a path"
    )
    url: HttpUrl | None = Field(
        default=None,
        description="pagerduty: where events are sent; by default `https://events.pagerduty.com/v2/enqueue`",
    )
    rules: tuple[Text, ...] = Field(
        default=(), strict=False, description="alert types to send, such as `LOW_MOS`; all if empty"
    )
    match: Labels = Field(default={}, description="labels that an alert must have; any if empty")
    states: tuple[Literal["raised", "resolved"], ...] = Field(
        default=("raised", "resolved"), strict=False, description="states to send"
    )
    failure_body: Patterns | None = Field(default=None, description="as in `[delivery]`, for this target")
    success_body: Patterns | None = Field(
        default=None, description="as in `[delivery]`, for this target; unset: `ok` for slack, any for the others"
    )
    allow_private_addresses: bool = Field(
        default=False, description="allow loopback, private and link-local addresses for this target"
    )

    @field_validator("states")
    @classmethod
    def _some_state(cls, states: tuple[str, ...]) -> tuple[str, ...]:
        if not states or len(set(states)) < len(states):
            raise ValueError('must name "raised", "resolved" or both, each once')
        return states

    @model_validator(mode="after")
    def _url_of_pagerduty(self) -> NotifySettings:
        if self.url is not None and self.kind != "pagerduty":
            raise ValueError("url is for kind pagerduty only; put other URLs into the variable of url_env")
        return self


def _unique(tables: tuple[NotifySettings, ...]) -> tuple[NotifySettings, ...]:
    names = [table.name for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"there are several tables with the name {name}")
    return tables


NotifyTables = Annotated[tuple[NotifySettings, ...], Field(strict=False), AfterValidator(_unique)]


def notify_secrets(tables: tuple[NotifySettings, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the URL or key of each target by its name.

    Raise ConfigurationError for variables that are missing or do not hold a URL, without repeating what they hold.
    """
    secrets: dict[str, str] = {}
    mistakes = []
    for table in tables:
        value = environ.get(table.url_env, "").strip()
        if not value:
            mistakes.append(f"{table.name}: {table.url_env} is not set in the environment")
            continue
        try:
            if table.kind == "apprise":
                from connectors.callbacks.targets.apprise import mistake_in

                if mistake := mistake_in(value):
                    raise ValueError(mistake)
            elif table.kind != "pagerduty":
                UrlRule(("http", "https"), base=table.kind == "alertmanager")(value)
            elif not (value.isascii() and value.isalnum()):
                raise ValueError("must be a routing key: letters and digits")
        except ValueError as error:
            mistakes.append(f"{table.name}: {table.url_env} {error}")
        secrets[table.name] = value
    if mistakes:
        raise ConfigurationError("notify", mistakes)
    return secrets
