"""The configuration of a partitioned deployment: which of several instances this one is, and what it watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from flows.settings.values import Between, Table

if TYPE_CHECKING:
    from connectors.format.owners import Share

__all__ = ["ShardSettings"]

MAX_COUNT: Final = 1000


class ShardSettings(Table):
    """`[shard]`: this instance of several that divide the conversations."""

    count: Annotated[int, AfterValidator(Between(1, MAX_COUNT))] = Field(
        default=1, description="instances that divide the conversations; the same in all of them"
    )
    index: Annotated[int, AfterValidator(Between(0, MAX_COUNT - 1))] | None = Field(
        default=None, description="the number of this instance, from 0 to `count` - 1; overrides `index_from`"
    )
    index_from: Literal["hostname"] | None = Field(
        default=None,
        description='`"hostname"` takes `index` from the end of the host name, such as 2 of `voicewatch-2`: the '
        "ordinal in a Kubernetes StatefulSet",
    )

    @model_validator(mode="after")
    def _has_an_index(self) -> ShardSettings:
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
