"""Which conversations go on: the legs that messages have shown, whatever their order. Pure.

Messages of one conversation come on several topics, so an end may arrive before the start of the next leg, or after it.
What is known of the legs is merged so that the order does not matter: for each leg, its newest start and its newest
end. A leg is alive if it was not seen to end, or started after its last end. A conversation is over when a message has
ended it and none of its legs is alive. The end of the last customer ends all legs that had started before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import inf, isnan, nan
from typing import Final

from connectors.format.notifications import Leg

__all__ = ["Conversations", "KnownLegs"]

_MAX_LEGS: Final = 200


class KnownLegs:
    """The legs of one conversation."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self._legs: dict[str, Leg] = {}
        self.over_at = -inf
        """When the feed last received an end of the conversation, on its monotonic clock."""
        self._end_seen = False
        self._customer_ended_at = nan

    def learn(self, legs: Iterable[Leg], *, ended: bool, customer_left: bool = False) -> None:
        """Merge what a message says; `ended` if it ends the conversation as far as it knows, `customer_left` if it
        does so as the end of a customer's session rather than as a list of all legs.
        """
        self._end_seen = self._end_seen or ended
        for leg in legs:
            known = self._legs.get(leg.id)
            if known is None and len(self._legs) >= _MAX_LEGS:
                continue
            before = known or Leg(leg.id, leg.is_customer, nan, nan)
            self._legs[leg.id] = Leg(
                leg.id,
                before.is_customer or leg.is_customer,
                _newer(before.started_at, leg.started_at),
                _newer(before.ended_at, leg.ended_at),
            )
            if customer_left:
                self._customer_ended_at = _newer(self._customer_ended_at, leg.ended_at)

    def go_on(self) -> None:
        """Take that the conversation is in progress, whatever its legs are said to be: an end has been wrong."""
        self._end_seen = False
        self._customer_ended_at = nan

    @property
    def is_over(self) -> bool:
        """Return whether the conversation has ended, as far as is known now."""
        if not self._end_seen:
            return False
        alive = [leg for leg in self._legs.values() if _is_alive(leg)]
        if isnan(self._customer_ended_at) or any(leg.is_customer for leg in alive):
            return not alive
        return not any(leg.started_at > self._customer_ended_at for leg in alive)


class Conversations:
    """The legs of the last `limit` conversations that messages were about.

    Not safe across threads: each feed has its own.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._known: OrderedDict[str, KnownLegs] = OrderedDict()

    def of(self, conversation_id: str) -> KnownLegs:
        """Return what is known of a conversation; above the limit, the one not heard from for longest is forgotten."""
        known = self._known.get(conversation_id)
        if known is None:
            known = self._known[conversation_id] = KnownLegs()
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(conversation_id)
        return known

    def __len__(self) -> int:
        return len(self._known)


def _newer(one: float, other: float) -> float:
    if isnan(one) or isnan(other):
        return other if isnan(one) else one
    return max(one, other)


def _is_alive(leg: Leg) -> bool:
    return isnan(leg.ended_at) or leg.started_at > leg.ended_at
