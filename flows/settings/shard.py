"""The configuration of a partitioned deployment: which of several instances this one is, and what it watches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from connectors.errors import ConfigurationError
from flows.settings.values import Between, Table

if TYPE_CHECKING:
    from connectors.format.owners import Share
    from flows.settings.models import Settings

__all__ = ["ShardSettings", "of_instance"]

MAX_COUNT: Final = 1000
_ORDINAL: Final = re.compile(r"-([0-9]{1,4})\Z")


class ShardSettings(Table):
    """`[shard]`: this instance of several that divide the conversations."""

    count: Annotated[int, AfterValidator(Between(1, MAX_COUNT))] = Field(
        default=1, description="instances that divide the conversations; the same in all of them"
    )
    index: Annotated[int, AfterValidator(Between(0, MAX_COUNT - 1))] | None = Field(
        default=None, description="the number of this instance, from 0 to `count` - 1"
    )
    index_from: Literal["hostname"] | None = Field(
        default=None,
        description='`"hostname"` takes `index` from the end of the host name, such as 2 of `voicewatch-2`: the '
        "ordinal in a Kubernetes StatefulSet",
    )

    @model_validator(mode="after")
    def _has_an_index(self) -> ShardSettings:
        if self.index is not None and self.index_from is not None:
            raise ValueError("index and index_from are both set; leave one out")
        if self.index is not None and self.index >= self.count:
            raise ValueError(f"index {self.index} is not below count, which is {self.count}")
        if self.count > 1 and self.index is None and self.index_from is None:
            raise ValueError(f"count is {self.count}: set index, or index_from")
        return self

    @property
    def share(self) -> Share:
        """Return the share of the conversations of this instance; `index` must be known."""
        from connectors.format.owners import ALL, Share  # it imports NumPy, which checking a file does without

        return ALL if self.count == 1 or self.index is None else Share(self.index, self.count)


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
