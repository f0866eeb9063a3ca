"""`[[notify]]` tables: what is wrong is named with its key, and no URL is ever shown."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from connectors.errors import ConfigurationError
from flows.settings.loading import parse_settings
from flows.settings.models import Settings
from flows.settings.notify import notify_secrets

TABLE = {"name": "oncall", "kind": "slack", "url_env": "SLACK_URL"}


def settings(*tables: dict[str, Any], **more: Any) -> Settings:
    return parse_settings({"notify": [dict(table) for table in tables], **more}, "test")


def test_a_table_with_everything() -> None:
    """All keys of a table, and severities by rule."""
    text = """
    [alerts.severity]
    LOW_MOS = "critical"
    [[notify]]
    name = "oncall"
    kind = "pagerduty"
    url_env = "PAGERDUTY_KEY"
    url = "https://events.eu.pagerduty.com/v2/enqueue"
    rules = ["LOW_MOS"]
    match = {queue = "support"}
    states = ["raised"]
    success_body = ["success"]
    """
    config = parse_settings(tomllib.loads(text), "test")
    (table,) = config.notify_targets
    assert (table.rules, table.match, table.states) == (("LOW_MOS",), {"queue": "support"}, ("raised",))
    assert config.alerts.severity == {"LOW_MOS": "critical"}
    assert "severity" not in config.flow_record()["alerts"]


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"kind": "sms"}, "kind"),
        ({"url_env": "https://hooks.example.com/x"}, "url_env: must be the name of an environment variable"),
        ({"url_env": "VOICEWATCH_SLACK"}, "url_env: must not begin with VOICEWATCH_"),
        ({"states": []}, "states: must name"),
        ({"states": ["raised", "raised"]}, "states: must name"),
        ({"url": "https://hooks.example.com/x"}, "url is for kind pagerduty only"),
        ({"failure_body": ["("]}, "failure_body: .* is not a regular expression"),
        ({"name": "on call"}, "name"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], mistake: str) -> None:
    """Each with the table and the key."""
    with pytest.raises(ConfigurationError, match=r"notify\[0\]?.*" + mistake):
        settings({**TABLE, **change})


def test_names_are_unique() -> None:
    """Two tables of one name are a mistake."""
    with pytest.raises(ConfigurationError, match="several tables with the name oncall"):
        settings(TABLE, TABLE)


def test_urls_come_from_the_environment() -> None:
    """A missing variable and one that holds something else are named, and their value is not shown."""
    config = settings(TABLE, {"name": "pd", "kind": "pagerduty", "url_env": "PD_KEY"})
    environ = {"SLACK_URL": "https://hooks.slack.com/services/x", "PD_KEY": "R0123"}
    assert notify_secrets(config.notify_targets, environ) == {"oncall": environ["SLACK_URL"], "pd": "R0123"}
    with pytest.raises(ConfigurationError) as caught:
        notify_secrets(config.notify_targets, {"SLACK_URL": "hunter2", "PD_KEY": " "})
    assert "oncall: SLACK_URL must begin with" in str(caught.value)
    assert "pd: PD_KEY is not set" in str(caught.value)
    assert "hunter2" not in str(caught.value)
