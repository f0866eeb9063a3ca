"""Which topics are subscribed on which channel. Pure, but for the connections that slots hold."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.genesys.feeds.notifications.channels import Channel
from connectors.genesys.feeds.notifications.sockets import ChannelSocket
from connectors.genesys.feeds.notifications.topics import (
    MAX_CHANNELS,
    TOPICS_PER_CHANNEL,
    in_channels,
    kind_of,
    topics_of,
)

__all__ = ["Slot", "Slots"]


class Slot:
    """Some of the topics, the channel that they are subscribed on, and the connection to it.

    `is_essential` if the feed is down without it. `is_changed` if the topics are not those subscribed on the channel,
    and `is_awaited` if some of them are new.
    """

    def __init__(self, number: int, topics: Sequence[str], *, is_essential: bool = True) -> None:
        self.number = number
        self.topics = list(topics)
        self.is_essential = is_essential
        self.is_changed = self.is_awaited = False
        self.channel: Channel | None = None
        self.renew_at = 0.0
        self.current: ChannelSocket | None = None


class Slots:
    """The slots of a feed: those of its own topics, and room for the detail topics of single conversations."""

    def __init__(self, topics: Sequence[str]) -> None:
        self.all = [Slot(number, group) for number, group in enumerate(in_channels(topics), 1)]
        self._of_conversation: dict[str, Slot] = {}
        self._own = frozenset(topics)

    @property
    def essential(self) -> list[Slot]:
        """Return the slots that the feed is down without."""
        return [slot for slot in self.all if slot.is_essential]

    def figures(self, now: float) -> dict[str, float]:
        """Return the topics and channels in use, and how old the oldest connection is; `now` is a monotonic clock."""
        slots = list(self.all)
        opened_at = [slot.current.opened_at for slot in slots if slot.current is not None]
        ages = {"channel_age_s": now - min(opened_at)} if opened_at else {}
        return {"topics": sum(len(slot.topics) for slot in slots), "channels": len(opened_at), **ages}

    @property
    def conversations(self) -> list[str]:
        """Return the conversations with detail topics."""
        return list(self._of_conversation)

    def add_conversation(self, conversation_id: str) -> Slot | None:
        """Give a conversation its detail topics; returns the slot, None if all channels are full."""
        if (slot := self._of_conversation.get(conversation_id)) is not None:
            return slot
        topics = topics_of([conversation_id], [], [])
        slot = next((slot for slot in self.all if len(slot.topics) + len(topics) <= TOPICS_PER_CHANNEL), None)
        if slot is None:
            if len(self.all) >= MAX_CHANNELS:
                return None
            slot = Slot(len(self.all) + 1, (), is_essential=False)
            self.all.append(slot)
        slot.topics += topics
        slot.is_changed = slot.is_awaited = True
        self._of_conversation[conversation_id] = slot
        return slot

    def next_changed(self) -> Slot | None:
        """Return a slot whose channel is to be subscribed again; new topics come before those that are given up."""
        changed = [slot for slot in self.all if slot.is_changed and slot.channel is not None]
        return min(changed, key=lambda slot: not slot.is_awaited, default=None)

    def name_of(self, topic: str) -> str:
        """Return how a topic is reported: those of single conversations by their kind, unless the feed names them."""
        return topic if topic in self._own else kind_of(topic)

    def remove_conversation(self, conversation_id: str) -> None:
        """Give up the detail topics of a conversation."""
        slot = self._of_conversation.pop(conversation_id, None)
        if slot is not None:
            topics = set(topics_of([conversation_id], [], []))
            slot.topics = [topic for topic in slot.topics if topic not in topics]
            slot.is_changed = True
