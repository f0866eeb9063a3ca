"""Which topics a notifications feed subscribes to, and how they are spread over channels. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["MAX_CHANNELS", "MAX_TOPICS", "TOPICS_PER_CHANNEL", "in_channels", "kind_of", "topics_of"]

TOPICS_PER_CHANNEL: Final = 1000
MAX_CHANNELS: Final = 20
MAX_TOPICS: Final = TOPICS_PER_CHANNEL * MAX_CHANNELS

DETAIL_EVENTS: Final = (
    "customer.start",
    "customer.end",
    "user.start",
    "user.end",
    "acd.start",
    "acd.end",
    "flow.start",
    "flow.end",
    "acw",
    "wrapup",
)


_DETAIL: Final = re.compile(
    r"(v2\.detail\.events\.conversation\.).+?(\.(?:customer|user|acd|flow)\.\w+|\.acw|\.wrapup)"
)


def kind_of(topic: str) -> str:
    """Return the topic of a conversation without its id; any other topic as it is.

    >>> kind_of("v2.detail.events.conversation.c1.user.start"), kind_of("v2.users.u.conversations.calls")
    ('v2.detail.events.conversation.{id}.user.start', 'v2.users.u.conversations.calls')
    """
    detail = _DETAIL.fullmatch(topic)
    return topic if detail is None else f"{detail[1]}{{id}}{detail[2]}"


def topics_of(conversations: Sequence[str], queues: Sequence[str], users: Sequence[str]) -> list[str]:
    """Return the topics about these conversations, and about the calls of these queues and users.

    >>> topics_of([], ["q"], ["u"])
    ['v2.routing.queues.q.conversations.calls', 'v2.users.u.conversations.calls']
    """
    details = [f"v2.detail.events.conversation.{id_}.{event}" for id_ in conversations for event in DETAIL_EVENTS]
    of_queues = [f"v2.routing.queues.{id_}.conversations.calls" for id_ in queues]
    return [*details, *of_queues, *(f"v2.users.{id_}.conversations.calls" for id_ in users)]


def in_channels(topics: Sequence[str]) -> list[list[str]]:
    """Return the topics of each channel, on as few channels as possible. Raises ValueError if 20 do not suffice."""
    if len(topics) > MAX_TOPICS:
        raise ValueError(f"{len(topics)} topics; {MAX_CHANNELS} channels take {MAX_TOPICS}")
    return [list(topics[at : at + TOPICS_PER_CHANNEL]) for at in range(0, len(topics), TOPICS_PER_CHANNEL)]
