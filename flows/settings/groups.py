"""The configuration of groups: conversations that share the value of a label."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from connectors.format import limits
from flows.settings.errors import toml_repr
from flows.settings.values import Between, HttpUrl, Table

__all__ = ["GroupSettings"]


def _label_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names themselves. Raises ValueError for a name that no label has, a repeated one, or too many."""
    if len(names) > limits.MAX_GROUP_LABELS:
        raise ValueError(f"has {len(names)} labels (allowed: {limits.MAX_GROUP_LABELS})")
    for name in names:
        if not re.match(limits.LABEL_NAME, name):
            raise ValueError(f"{toml_repr(name)} is not the name of a label")
        if names.count(name) > 1:
            raise ValueError(f"{toml_repr(name)} is named twice")
    return names


class GroupSettings(Table):
    """`[groups]`: windows of groups and their incidents, which inhibit the alerts of their conversations."""

    by: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_label_names)] = Field(
        default=(), description='labels that groups are made by, for example `["queue", "edge"]`'
    )
    min_conversations: Annotated[int, AfterValidator(Between(*limits.GROUP_CONVERSATIONS))] = Field(
        default=limits.DEFAULT_MIN_CONVERSATIONS,
        description="conversations that a group needs to raise an incident",
    )
    raise_ratio: Annotated[float, AfterValidator(Between(*limits.CLEAR_RATIO))] = Field(
        default=limits.DEFAULT_GROUP_RAISE_RATIO,
        description="share of breaching conversations from which an incident is raised",
    )
    clear_ratio: Annotated[float, AfterValidator(Between(*limits.CLEAR_RATIO))] = Field(
        default=limits.DEFAULT_GROUP_CLEAR_RATIO,
        description="share of breaching conversations up to which an incident can be resolved",
    )
    clear_after_s: Annotated[float, AfterValidator(Between(*limits.CLEAR_AFTER_S))] = Field(
        default=limits.DEFAULT_GROUP_CLEAR_AFTER_S,
        description="seconds since the last larger share after which an incident is resolved",
    )
    inhibit: bool = Field(
        default=True,
        description="while a group has an incident, do not send the alerts of its conversations",
    )
    qa_callback_url: HttpUrl | None = Field(
        default=None,
        description="where the alerts of groups, and ALERT_STORM, are sent; `[defaults]` is not used for them",
    )
