"""What a run would end without is a warning of `check`."""

from __future__ import annotations

import pytest

from flows.settings import warnings
from flows.settings.loading import parse_settings
from flows.settings.warnings import warnings_of

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
