"""Take from the settings of a partitioned deployment what one instance does."""

from __future__ import annotations

import re
from typing import Final

from connectors.errors import ConfigurationError
from flows.settings.models import Settings
from flows.settings.shard import ShardSettings

__all__ = ["of_instance"]

_ORDINAL: Final = re.compile(r"-([0-9]{1,4})\Z")


def of_instance(settings: Settings, host_name: str) -> Settings:
    """Return the settings of one instance: its `index`, and of the conversations listed only its own.

    Raises ConfigurationError if the index cannot be taken from the host name, or a feed cannot be divided.
    """
    shard = settings.shard
    if shard.count == 1:
        return settings
    if shard.index is None:
        shard = ShardSettings(count=shard.count, index=_ordinal(host_name, shard.count))
    if divided := [row.name for row in settings.feeds if row.kind == "eventbridge"]:
        reason = "events of one conversation may arrive at any instance; run it in an instance with count = 1"
        raise ConfigurationError("shard", [f"feed {divided[0]}: {reason}"])
    share = shard.share
    return settings.model_copy(
        update={
            "shard": shard,
            "interceptors": tuple(one for one in settings.interceptors if share.owns_text(one.conversation_id)),
            "feeds": tuple(
                row.model_copy(update={"conversations": tuple(filter(share.owns_text, row.conversations))})
                for row in settings.feeds
            ),
        }
    )


def _ordinal(host_name: str, count: int) -> int:
    found = _ORDINAL.search(host_name.partition(".")[0])
    if found is None:
        raise ConfigurationError(
            "shard", [f"index_from: the host name {host_name} does not end in a number, as voicewatch-0 does"]
        )
    index = int(found[1])
    if index >= count:
        reason = f"the host name {host_name} has the number {index}, and count is {count}; raise count"
        raise ConfigurationError("shard", [f"index_from: {reason}"])
    return index
