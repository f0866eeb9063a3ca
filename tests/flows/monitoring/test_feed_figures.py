"""The metrics of what feeds use: a zero for a feed that has none."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from connectors.genesys.client import RequestBudget
from flows.monitoring.metrics import Metrics


def test_feeds_without_figures_show_zeros() -> None:
    """A rule or a panel sees each feed, whatever its kind."""
    metrics = Metrics("0", 0)
    metrics.watch_feeds({"a": lambda: {"duplicates": 3, "topics": 30, "channels": 2}, "b": dict}, lambda: 12)
    found = {
        (sample.name, sample.labels.get("feed")): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    assert found["voicewatch_feed_duplicates_total", "a"] == 3
    assert found["voicewatch_feed_topics", "a"] == 30
    assert found["voicewatch_feed_channels", "b"] == 0
    assert found["voicewatch_genesys_requests", None] == 12


def test_requests_are_those_of_the_last_minute() -> None:
    """A request leaves the count 60 s after it was sent."""
    now = 0.0
    budget = RequestBudget(now=lambda: now)
    for now in (0.0, 10.0, 59.0):  # noqa: B007 - the clock of the budget
        budget.spend()
    assert budget.spent() == 3
    now = 65.0
    assert budget.spent() == 2
