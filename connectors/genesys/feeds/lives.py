"""Which conversations of voice events go on, by the times of their frames, in whatever order these arrive. Pure."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

__all__ = ["Lives"]


class _Life:
    """The newest frame of a conversation that shows it going on, and the newest that ends it; epoch seconds."""

    __slots__ = ("ended_at", "on_at")

    def __init__(self) -> None:
        self.on_at = self.ended_at = -inf

    @property
    def is_over(self) -> bool:
        return self.ended_at >= self.on_at and self.ended_at > -inf


class Lives:
    """The last `limit` conversations that were seen first. Not safe across threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lives: OrderedDict[str, _Life] = OrderedDict()

    def know(self, conversation_id: str) -> None:
        """Take that a conversation is known; above the limit, the first one is forgotten."""
        if conversation_id not in self._lives:
            self._lives[conversation_id] = _Life()
            if len(self._lives) > self._limit:
                self._lives.popitem(last=False)

    def learn(self, conversation_id: str, timestamp: float, *, ended: bool) -> bool:
        """Take a frame; returns whether the conversation is to be watched from now on.

        It is if it goes on and was not known, or was over, or if this is an end that newer frames have overtaken.

        >>> lives = Lives(10)
        >>> [lives.learn("c", at, ended=ended) for at, ended in [(1.0, False), (3.0, True), (2.0, False), (4.0, False)]]
        [True, False, False, True]
        """
        life = self._lives.get(conversation_id)
        is_new = life is None
        if life is None:
            self.know(conversation_id)
            life = self._lives[conversation_id]
        was_over = life.is_over
        if ended:
            life.ended_at = max(life.ended_at, timestamp)
        else:
            life.on_at = max(life.on_at, timestamp)
        return not life.is_over and (is_new or was_over or ended)

    def is_over(self, conversation_id: str) -> bool:
        """Tell whether the newest frame of a conversation ended it."""
        life = self._lives.get(conversation_id)
        return life is not None and life.is_over
