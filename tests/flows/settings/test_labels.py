"""`labels` tables and `[[limits]]`: what is accepted, and what the journal and the feeds get of it."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.errors import ConfigurationError
from connectors.genesys.feeds.base import FeedLimits
from flows.commands.replay import overrides_of
from flows.settings.loading import parse_settings
from flows.settings.warnings import warnings_of

INTERCEPTOR = {
    "conversation_id": "c1",
    "leg_id": "l1",
    "interceptor_address": "sip:qa@monitoring.internal",
    "qa_callback_url": "https://qa.example.com/a",
}


@pytest.mark.parametrize(
    ("tables", "mistake"),
    [
        ({"defaults": {"labels": {"Queue": "a"}}}, r"defaults\.labels: \"Queue\" is not a label's name"),
        ({"defaults": {"labels": {"queue": ""}}}, r"defaults\.labels: queue has a value of 0 characters"),
        ({"defaults": {"labels": {"queue": "x" * 129}}}, "of 129 characters"),
        ({"defaults": {"labels": {f"l{n}": "v" for n in range(17)}}}, "has 17 labels"),
        ({"defaults": {"labels": {"queue": 7}}}, r"defaults\.labels\.queue"),
        ({"limits": [{"max_latency_ms": 90}]}, r"limits\[0\]\.match"),
        ({"limits": [{"match": {}, "max_latency_ms": 90}]}, r"limits\[0\]\.match: must name a label"),
        ({"limits": [{"match": {"queue": "a"}, "max_latency_ms": 5}]}, "5 is below 50"),
        ({"limits": [{"match": {"queue": "a"}, "latency": 5}]}, r"limits\[0\]\.latency"),
    ],
)
def test_mistakes_are_named_by_key(tables: dict[str, Any], mistake: str) -> None:
    """One line for each."""
    with pytest.raises(ConfigurationError, match=mistake):
        parse_settings(tables, "test")


def test_a_watch_carries_the_labels_of_the_defaults_and_its_own() -> None:
    """Its own replace those of the same names."""
    defaults = {"labels": {"region": "eu", "queue": "all"}}
    row = INTERCEPTOR | {"labels": {"queue": "support"}}
    settings = parse_settings({"defaults": defaults, "interceptor": [row, INTERCEPTOR | {"conversation_id": "c2"}]}, "")
    first, second = settings.interceptors
    assert settings.watch_of(first)["labels"] == {"region": "eu", "queue": "support"}
    assert settings.watch_of(second)["labels"] == {"region": "eu", "queue": "all"}


def test_a_watch_without_labels_is_what_it_was() -> None:
    """So that recordings without labels keep their bytes."""
    settings = parse_settings({"interceptor": [INTERCEPTOR]}, "")
    assert not {"labels", "default_limits"} & settings.watch_of(settings.interceptors[0]).keys()


def test_limits_by_label_override_those_that_are_not_an_interceptors_own() -> None:
    """The watch says which ones are not; the tables are in the settings record."""
    limits = [{"match": {"queue": "support"}, "max_latency_ms": 90}]
    row = INTERCEPTOR | {"max_latency_ms": 200}
    tables = {"limits": limits, "defaults": {"packet_loss_threshold": 0.01}, "interceptor": [row]}
    settings = parse_settings(tables, "")
    assert settings.watch_of(settings.interceptors[0])["default_limits"] == ["packet_loss_threshold"]
    assert settings.flow_record()["limits"] == [{"match": {"queue": "support"}, "max_latency_ms": 90.0}]


def test_a_feeds_watch_carries_labels() -> None:
    """Those of `[defaults]`, of `[feed.defaults]`, and of what the feed itself knows; the later ones replace."""
    feed = {"kind": "notifications", "queues": ["q1"], "defaults": {"labels": {"region": "us"}}}
    tables = {"feed": [feed], "defaults": {"labels": {"region": "eu", "team": "t"}}}
    settings = parse_settings(tables | {"limits": [{"match": {"region": "us"}, "max_latency_ms": 90}]}, "")
    limits = FeedLimits(name="n", **settings.limits_of(settings.feeds[0]))
    watch = limits.watch("c", None, labels={"team": "u", "agent": "a"})
    assert watch["labels"] == {"region": "us", "team": "u", "agent": "a"}
    assert watch["default_limits"] == ["max_latency_ms", "packet_loss_threshold"]


def test_only_what_stands_in_the_tables_overrides_a_recording() -> None:
    """Built-in defaults do not: what is not set keeps its recorded value."""
    feed = {"kind": "notifications", "queues": ["q1"], "name": "n", "defaults": {"max_latency_ms": 70}}
    defaults = {"packet_loss_threshold": 0.03}
    row = INTERCEPTOR | {"max_latency_ms": 80}
    overrides = overrides_of(parse_settings({"defaults": defaults, "feed": [feed], "interceptor": [row]}, ""))
    assert overrides.defaults == {"packet_loss_threshold": 0.03}
    assert overrides.feeds["n"]["max_latency_ms"] == 70
    assert overrides.watches["c1"]["max_latency_ms"] == 80
    assert "packet_loss_threshold" not in overrides.watches["c1"]


def test_labels_that_no_conversation_has_are_warned_of() -> None:
    """One line for each place, which names the key, what may be meant, and the known labels, own ones among them."""
    tables = {
        "defaults": {"labels": {"site": "north"}},
        "feed": [{"kind": "audiohook", "labels_from": {"campaign": "key"}}],
        "audiohook": {"listen": "127.0.0.1:8443", "path": "/a", "api_keys": ["k"]},
        "groups": {"by": ["queue", "edg"]},
        "watch": {"mode": "discover", "match": {"site": ["north"], "quue": ["a"]}},
        "limits": [
            {"match": {"campaign": "x"}, "max_latency_ms": 90},
            {"match": {"agnt": "x"}, "max_latency_ms": 90},
        ],
        "notify": [{"name": "chat", "kind": "slack", "url_env": "URL", "match": {"zzz": "1"}}],
    }
    names = "agent, campaign, direction, division, edge, media, provider, queue, region, site, station, team, trunk"
    known = f"known are {names}"
    found = [line for line in warnings_of(parse_settings(tables, "test")) if "label" in line]
    assert found == [
        f"groups.by: no conversation has the label edg (did you mean edge?); {known}",
        f"watch.match: no conversation has the label quue (did you mean queue?); {known}",
        f"limits[1].match: no conversation has the label agnt (did you mean agent?); {known}",
        f"notify[0].match: no conversation has the label zzz; {known}",
    ]
