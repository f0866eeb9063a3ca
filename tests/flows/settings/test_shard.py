"""The settings of one instance of several: its number, and what it watches."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.errors import ConfigurationError
from connectors.format.owners import Share
from flows.settings.instance import of_instance
from flows.settings.loading import parse_settings

INTERCEPTORS = [
    {
        "conversation_id": f"c{number}",
        "leg_id": "l",
        "interceptor_address": "sip:a@b",
        "qa_callback_url": "https://qa.example.com",
    }
    for number in range(20)
]


def instance(shard: dict[str, Any], host_name: str = "host", **tables: Any) -> Any:
    return of_instance(parse_settings({"shard": shard, **tables}, "f", {}), host_name)


def test_an_instance_watches_its_own_conversations() -> None:
    """Of the interceptors and the conversations of feeds; settings.interceptors of all instances are those of one."""
    feed = {"kind": "notifications", "conversations": [f"n{number}" for number in range(20)]}
    both = [instance({"index": index, "count": 2}, interceptor=INTERCEPTORS, feed=[feed]) for index in range(2)]
    for index, settings in enumerate(both):
        assert settings.shard.share == Share(index, 2)
        assert all(Share(index, 2).owns_text(one.conversation_id) for one in settings.interceptors)
        assert all(map(Share(index, 2).owns_text, settings.feeds[0].conversations))
    assert sorted(one.conversation_id for settings in both for one in settings.interceptors) == sorted(
        one["conversation_id"] for one in INTERCEPTORS
    )
    assert sum(len(settings.feeds[0].conversations) for settings in both) == 20


def test_the_ordinal_of_a_stateful_set_is_the_index() -> None:
    """Of the host name's first part; without [shard] nothing is divided."""
    shard = {"index_from": "hostname", "count": 3}
    assert instance(shard, "voicewatch-2").shard.share == Share(2, 3)
    assert instance(shard, "voicewatch-0.voicewatch.ns.svc").shard.share == Share(0, 3)
    # Instances that share a machine have one configuration, and VOICEWATCH_SHARD_INDEX.
    assert instance({**shard, "index": 1}, "worker").shard.share == Share(1, 3)
    assert instance({}, "voicewatch-2", interceptor=INTERCEPTORS).shard.share == Share(0, 1)


def test_groups_of_an_instance_are_parts() -> None:
    """The record of settings says so, so that a replay of its journal gives the same parts."""
    settings = instance({"index": 1, "count": 3}, groups={"by": ["queue"]})
    assert settings.flow_record()["groups"]["part"] == [1, 3]
    assert "part" not in instance({}, groups={"by": ["queue"]}).flow_record()["groups"]


@pytest.mark.parametrize(
    ("shard", "host_name", "reason"),
    [
        ({"count": 3}, "h", "set index, or index_from"),
        ({"count": 3, "index": 3}, "h", "is not below count"),
        ({"count": 0}, "h", "count"),
        ({"count": 3, "index_from": "hostname"}, "worker", "does not end in a number"),
        ({"count": 3, "index_from": "hostname"}, "voicewatch-3", "raise count"),
    ],
)
def test_a_number_that_cannot_be_is_refused(shard: dict[str, Any], host_name: str, reason: str) -> None:
    """With the key and the remedy."""
    with pytest.raises(ConfigurationError, match=reason) as error:
        instance(shard, host_name)
    assert "shard" in str(error.value)


def test_a_feed_whose_events_arrive_anywhere_is_refused() -> None:
    """Events of EventBridge come over HTTP to whichever instance a balancer chooses."""
    feed = {"kind": "eventbridge", "name": "bridge", "listen": "127.0.0.1:0"}
    with pytest.raises(ConfigurationError, match="feed bridge: events of one conversation may arrive at any instance"):
        instance({"index": 0, "count": 2}, feed=[feed])
