"""What a run would end without is a warning of `check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from flows.settings import warnings
from flows.settings.loading import parse_settings
from flows.settings.warnings import warnings_of
from tests.support.cli import ROOT

DEFAULTS = {"qa_callback_url": "https://qa.example.com/alerts"}
KAFKA = {
    "kafka": {"brokers": ["127.0.0.1:9092"]},
    "feed": [{"kind": "kafka", "topic": "frames", "defaults": DEFAULTS}],
}
QUEUE = {
    "feed": [{"kind": "eventbridge", "queue_url": "https://sqs.eu-central-1.amazonaws.com/1/q", "defaults": DEFAULTS}]
}


@pytest.mark.parametrize(("tables", "package", "extra"), [(KAFKA, "confluent-kafka", "kafka"), (QUEUE, "boto3", "sqs")])
def test_a_missing_package_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tables: dict[str, object], package: str, extra: str
) -> None:
    """It names the extra; without the environment, as for a file for another machine, nothing is said."""
    settings = parse_settings(tables, "a file")
    secrets = {"VOICEWATCH_CALLBACK_SECRET": "whsec_x"}
    assert warnings_of(settings, secrets) == []
    monkeypatch.setattr(warnings, "find_spec", lambda _: None)
    [line] = warnings_of(settings, secrets)
    assert f"needs {package}, which is not installed: pip install 'voicewatch[{extra}]'" in line
    assert warnings_of(settings) == []


URL = "https://qa.example.com/alerts"
PAGER = {"name": "pager", "kind": "pagerduty", "url_env": "KEY"}


@pytest.mark.parametrize(
    ("tables", "is_told"),
    [
        ({}, False),
        ({"groups": {"by": ["queue", "edge"], "qa_callback_url": URL}}, True),
        ({"kafka": {"brokers": ["127.0.0.1:9092"], "alerts_topic": "alerts"}}, True),
        ({"notify": [PAGER]}, True),
        ({"notify": [PAGER | {"rules": ["GROUP_DEGRADED"], "match": {"edge": "edge-1"}}]}, True),
        ({"notify": [PAGER | {"rules": ["LOW_MOS"]}]}, False),
        ({"notify": [PAGER | {"states": ["resolved"]}]}, False),
        ({"notify": [PAGER | {"match": {"team": "a"}}]}, False),
        ({"notify": [PAGER | {"match": {"queue": "a", "edge": "b"}}]}, False),
    ],
)
def test_groups_whose_alerts_have_no_receiver(tables: dict[str, Any], is_told: bool) -> None:
    """A bad group then stops the alerts of its conversations, and its own alert is not sent."""
    defaults = DEFAULTS | {"labels": {"team": "a"}}
    settings = parse_settings({"defaults": defaults, "groups": {"by": ["queue", "edge"]}} | tables, "a file")
    found = [line for line in warnings_of(settings) if line.startswith("groups.qa_callback_url")]
    assert len(found) == (0 if is_told else 1)
    assert is_told or "sent to no receiver, and until it is resolved the alerts" in found[0]
    uninhibited = parse_settings({"groups": {"by": ["queue"], "inhibit": False}}, "a file")
    assert "the alerts of its conversations" not in "".join(warnings_of(uninhibited))


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.stem
)
def test_documented_groups_have_a_receiver(page: Path) -> None:
    """Alerts of groups in a configuration that is copied from there are sent."""
    for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        tables = re.split(r"(?m)^ *(?=\[)", text)
        for table in tables:
            if table.startswith("[groups]") and re.search(r"(?m)^ *by =", table):
                assert "qa_callback_url" in table


@pytest.mark.parametrize(
    ("tables", "environ", "missing"),
    [
        ({}, {}, "GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET not set"),
        ({"watch": {"mode": "discover"}}, {"GENESYS_CLIENT_ID": "client"}, "GENESYS_CLIENT_SECRET not set"),
        (
            {"feed": [{"kind": "notifications", "queues": ["a"]}]},
            {},
            "GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET not set",
        ),
        (KAFKA, {}, None),
        (KAFKA | {"genesys": {"resolve_names": True}}, {}, "GENESYS_CLIENT_ID and GENESYS_CLIENT_SECRET not set"),
        ({}, {"GENESYS_CLIENT_ID": "client", "GENESYS_CLIENT_SECRET": "secret"}, None),
    ],
)
def test_missing_credentials_are_a_warning(
    tables: dict[str, Any], environ: dict[str, str], missing: str | None
) -> None:
    """Only where a feed makes requests to Genesys, and only if there is an environment to ask."""
    settings = parse_settings({"defaults": DEFAULTS | {"interceptor_address": "sip:a@b"}} | tables, "a file")
    found = [line for line in warnings_of(settings, environ) if "GENESYS_CLIENT" in line]
    assert len(found) == (0 if missing is None else 1)
    assert missing is None or found[0].startswith(f"run would end at once: {missing}; export the id and secret")
    assert not any("GENESYS_CLIENT" in line for line in warnings_of(settings))
