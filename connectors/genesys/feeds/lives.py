"""Which conversations of voice events go on, by the times of their frames, in whatever order these arrive. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import inf, isnan

from connectors.format.notifications import ENDED
from connectors.format.records import Frame

__all__ = ["Lives"]


class _Life:
    """The newest frame of a conversation that shows it going on, and the newest that ends it; epoch seconds.

    `is_new` until the first frame of this run.
    """

    __slots__ = ("ended_at", "is_new", "on_at")

    def __init__(self, *, is_new: bool) -> None:
        self.on_at = self.ended_at = -inf
        self.is_new = is_new

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
        self._of(conversation_id, is_new=False).is_new = False

    def learn(self, conversation_id: str, timestamp: float, *, ended: bool) -> bool:
        """Take a frame; returns whether the conversation is to be watched from now on.

        It is if it goes on and was not known, or was over, or if this is an end that newer frames have overtaken.

        >>> lives = Lives(10)
        >>> [lives.learn("c", at, ended=ended) for at, ended in [(1.0, False), (3.0, True), (2.0, False), (4.0, False)]]
        [True, False, False, True]
        """
        life = self._of(conversation_id, is_new=True)
        is_new, was_over = life.is_new, life.is_over
        life.is_new = False
        _take(life, timestamp, ended=ended)
        return not life.is_over and (is_new or was_over or ended)

    def recall(self, frames: Iterable[Frame]) -> None:
        """Learn the times of frames that an earlier run has recorded; the conversations are as new as unknown ones."""
        for frame in frames:
            if not isnan(frame.timestamp):
                _take(self._of(frame.entity.id, is_new=True), frame.timestamp, ended=frame.event == ENDED)

    def is_over(self, conversation_id: str) -> bool:
        """Tell whether the newest frame of a conversation ended it."""
        life = self._lives.get(conversation_id)
        return life is not None and life.is_over

    def _of(self, conversation_id: str, *, is_new: bool) -> _Life:
        life = self._lives.get(conversation_id)
        if life is None:
            life = self._lives[conversation_id] = _Life(is_new=is_new)
            if len(self._lives) > self._limit:
                self._lives.popitem(last=False)
        return life


def _take(life: _Life, timestamp: float, *, ended: bool) -> None:
    if ended:
        life.ended_at = max(life.ended_at, timestamp)
    else:
        life.on_at = max(life.on_at, timestamp)
