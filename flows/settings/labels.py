"""The configuration of labels, and of limits by label: the `labels` tables and the `[[limits]]` list."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from connectors.format.limits import LABEL_CHARACTERS, LABEL_NAME, MAX_LABELS
from flows.settings.errors import toml_repr
from flows.settings.values import Between, Table

__all__ = ["Labels", "LimitsSettings"]


def _labels(labels: dict[str, str]) -> dict[str, str]:
    """Return the labels themselves. Raises ValueError for a name or a value that no label may have."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"has {len(labels)} labels (allowed: {MAX_LABELS})")
    for name, value in labels.items():
        if not re.match(LABEL_NAME, name):
            raise ValueError(
                f"{toml_repr(name)} is not a label's name: a letter, then letters, digits and _, all small"
            )
        if not LABEL_CHARACTERS[0] <= len(value) <= LABEL_CHARACTERS[1]:
            allowed = f"{LABEL_CHARACTERS[0]} to {LABEL_CHARACTERS[1]}"
            raise ValueError(f"{name} has a value of {len(value)} characters (allowed: {allowed})")
    return labels


def _some(labels: dict[str, str]) -> dict[str, str]:
    if not labels:
        raise ValueError("must name a label; limits of all conversations belong to [defaults]")
    return labels


Labels = Annotated[dict[str, str], AfterValidator(_labels)]


class LimitsSettings(Table):
    """`[[limits]]`: limits for the conversations that have all the labels of `match`; the first that matches holds."""

    match: Annotated[Labels, AfterValidator(_some)] = Field(
        description='labels that a conversation must have, for example `{queue = "support"}`'
    )
    max_latency_ms: Annotated[float, AfterValidator(Between(50, 10_000))] | None = Field(
        default=None, description="latency limit in milliseconds; by default as without this table"
    )
    packet_loss_threshold: Annotated[float, AfterValidator(Between(0, 0.1))] | None = Field(
        default=None, description="packet loss limit, as a ratio; by default as without this table"
    )
