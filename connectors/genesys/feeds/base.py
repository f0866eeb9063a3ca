"""What feeds share that begin to watch conversations by themselves."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

__all__ = ["EndedConversations", "FeedLimits"]


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """The limits of the conversations that the feed called `name` hears of: milliseconds, and a ratio 0..1.

    Without a `qa_callback_url`, their alerts are recorded and sent to nobody.
    """

    name: str
    max_latency_ms: float = 150.0
    packet_loss_threshold: float = 0.02
    qa_callback_url: str | None = None

    def watch(self, conversation_id: str, leg_id: str | None, **more: Any) -> dict[str, Any]:
        """The `watch` record of a conversation, for a recorder's `watch`, with `more` settings."""
        return {
            "conversation_id": conversation_id,
            "leg_id": leg_id,
            "max_latency_ms": self.max_latency_ms,
            "packet_loss_threshold": self.packet_loss_threshold,
            "qa_callback_url": self.qa_callback_url,
            "feed": self.name,
            **more,
        }


class EndedConversations:
    """The ids of the last `limit` conversations to end, so that a late message does not begin to watch one again.

    Not safe across threads: each feed has its own.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, conversation_id: str) -> None:
        """Remember an id as the last to have ended; the oldest one is forgotten if there are too many."""
        self._ids[conversation_id] = None
        self._ids.move_to_end(conversation_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def __contains__(self, conversation_id: object) -> bool:
        return conversation_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)
