"""Which topics a notifications feed subscribes to, and how they are spread over channels. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["MAX_CHANNELS", "MAX_TOPICS", "TOPICS_PER_CHANNEL", "in_channels", "topics_of"]

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
