"""The configuration of which conversations are watched, and of what is kept of them: `[watch]` and `[privacy]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from connectors.format import limits
from connectors.format.limits import LABEL_NAME, MAX_LABELS
from flows.settings.errors import toml_repr
from flows.settings.values import Between, CrossTableError, Table

__all__ = ["PrivacySettings", "WatchSettings", "label_names", "require_for_discovery"]

REQUIRED: Final = ("interceptor_address", "qa_callback_url")

T = TypeVar("T")


def label_names(values: dict[str, T]) -> dict[str, T]:
    """Return the values by label. Raises ValueError for a name that no label can have, or too many."""
    for name in values:
        if not re.match(LABEL_NAME, name):
            raise ValueError(f"{toml_repr(name)} is not the name of a label (a letter, then letters, digits and _)")
    if len(values) > MAX_LABELS:
        raise ValueError(f"names {len(values)} labels (allowed: {MAX_LABELS})")
    return values


def _lists(value: Any) -> Any:
    """Return a match with each single text as a list of one."""
    if not isinstance(value, Mapping):
        return value
    return {name: [one] if isinstance(one, str) else one for name, one in value.items()}


Values = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class WatchSettings(Table):
    """`[watch]`: which conversations are watched."""

    mode: Literal["listed", "discover"] = Field(
        default="listed",
        description="`listed` watches what `[[interceptor]]` and `[[feed]]` name; `discover` finds the calls",
    )
    sample: Annotated[float, AfterValidator(Between(0, 1))] = Field(
        default=1.0,
        description="mode `discover`: the share of conversations to watch; a conversation is part of it when the first "
        "8 bytes of the SHA-256 of its id, as a big-endian fraction of 2^64, are below this value",
    )
    max: Annotated[int, AfterValidator(Between(1, 1_000_000))] = Field(
        default=1000, description="mode `discover`: conversations of a feed watched at a time"
    )
    match: Annotated[dict[str, Values], BeforeValidator(_lists), AfterValidator(label_names)] = Field(
        default={},
        description="mode `discover`: only conversations with these labels; a value or a list of values for each, for "
        'example `{direction = "inbound"}`',
    )
    forget_after_s: Annotated[float, AfterValidator(Between(*limits.FORGET_AFTER_S))] = Field(
        default=limits.DEFAULT_FORGET_AFTER_S,
        description="a conversation that has no frame for this many seconds, or for the length of a window if that is "
        "longer, is no longer watched, in every mode",
    )


class PrivacySettings(Table):
    """`[privacy]`: what is kept of messages that carry personal data."""

    keep_raw: bool = Field(
        default=False,
        description="keep notifications whole in the journal, with numbers, names, attributes and transcripts; audited",
    )


def require_for_discovery(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables, with an error in place of what discovery of voice events needs and `[defaults]` lacks."""
    watch, defaults, rows = (tables.get(key, {}) for key in ("watch", "defaults", "feed"))
    kinds = [row.get("kind") for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    creates = not kinds or "voice-events" in kinds
    if not creates or not isinstance(watch, Mapping) or watch.get("mode") != "discover":
        return dict(tables)
    if not isinstance(defaults, Mapping):
        return dict(tables)
    text = 'is missing: with [watch] mode = "discover", interceptors are created from [defaults]'
    missing = {key: CrossTableError(text) for key in REQUIRED if defaults.get(key) is None}
    return {**tables, "defaults": {**defaults, **missing}} if missing else dict(tables)
