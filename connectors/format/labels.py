"""The labels of a conversation: which queue, agent, edge or carrier it belongs to; and the settings by label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard, get_args

import msgspec

from connectors.format import limits
from connectors.format.limits import LABEL_CHARACTERS, LABEL_NAME, MAX_LABELS

__all__ = [
    "GroupSettings",
    "LabelLimits",
    "LabelName",
    "LabelValue",
    "Labels",
    "LimitName",
    "is_label_value",
    "joined_labels",
    "joined_watch",
    "within",
]

LabelName = Annotated[str, msgspec.Meta(pattern=LABEL_NAME)]
LabelValue = Annotated[str, msgspec.Meta(min_length=LABEL_CHARACTERS[0], max_length=LABEL_CHARACTERS[1])]
Labels = Annotated[dict[LabelName, LabelValue], msgspec.Meta(max_length=MAX_LABELS)]
LimitName = Literal["max_latency_ms", "packet_loss_threshold"]


def is_label_value(value: object) -> TypeGuard[str]:
    """Return whether something can be the value of a label: a text of 1 to 128 characters.

    >>> is_label_value("Support"), is_label_value(""), is_label_value("x" * 129), is_label_value(None)
    (True, False, False, False)
    """
    least, most = LABEL_CHARACTERS
    return isinstance(value, str) and least <= len(value) <= most


def within(bounds: tuple[float, float]) -> msgspec.Meta:
    """Return the bounds of a number, both included, for msgspec."""
    return msgspec.Meta(ge=bounds[0], le=bounds[1])


class LabelLimits(msgspec.Struct, gc=False):
    """A `[[limits]]` table: limits for the conversations with all labels of `match`; None leaves a limit as it is."""

    match: Labels
    max_latency_ms: float | None = None
    packet_loss_threshold: float | None = None


class GroupSettings(msgspec.Struct, gc=False):
    """The `[groups]` table: the labels that groups are made by, and when a group's incident is raised and resolved.

    `part`: the number of this instance and how many divide the conversations, so that groups are not whole.
    """

    by: Annotated[tuple[LabelName, ...], msgspec.Meta(max_length=limits.MAX_GROUP_LABELS)] = ()
    min_conversations: Annotated[int, within(limits.GROUP_CONVERSATIONS)] = limits.DEFAULT_MIN_CONVERSATIONS
    raise_ratio: Annotated[float, within(limits.CLEAR_RATIO)] = limits.DEFAULT_GROUP_RAISE_RATIO
    clear_ratio: Annotated[float, within(limits.CLEAR_RATIO)] = limits.DEFAULT_GROUP_CLEAR_RATIO
    clear_after_s: Annotated[float, within(limits.CLEAR_AFTER_S)] = limits.DEFAULT_GROUP_CLEAR_AFTER_S
    inhibit: bool = True
    qa_callback_url: str | None = None
    part: tuple[int, int] | None = None


def joined_labels(earlier: Mapping[str, str], later: Mapping[str, str]) -> dict[str, str]:
    """Add labels to earlier ones and replace those of the same names; the names are sorted.

    A conversation keeps at most 16: new names beyond are dropped, the last of the alphabet first.

    >>> joined_labels({"queue": "sales", "agent": "a1"}, {"agent": "a2", "edge": "e1"})
    {'agent': 'a2', 'edge': 'e1', 'queue': 'sales'}
    """
    joined = {**earlier, **later}
    for name in sorted(joined.keys() - earlier.keys(), reverse=True)[: max(0, len(joined) - MAX_LABELS)]:
        del joined[name]
    return dict(sorted(joined.items()))


def joined_watch(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one `watch` record that says what two records of a conversation say one after the other.

    >>> joined_watch({"conversation_id": "c", "labels": {"queue": "q"}}, {"conversation_id": "c", "max_latency_ms": 90})
    {'conversation_id': 'c', 'labels': {'queue': 'q'}, 'max_latency_ms': 90}
    """
    joined = {**earlier, **later}
    said_by = {name: later if name in later else earlier for name in get_args(LimitName)}
    default = [name for name, watch in said_by.items() if name in watch.get("default_limits", ())]
    if default or "default_limits" in joined:
        joined["default_limits"] = default
    if "labels" in joined:
        joined["labels"] = joined_labels(earlier.get("labels", {}), later.get("labels", {}))
    return joined
