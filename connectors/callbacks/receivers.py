"""Share connections among the receivers of a delivery: slow receivers never delay those that answer."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from connectors.callbacks.addresses import Resolve
from connectors.callbacks.model import DueCallback
from connectors.callbacks.pace import Pace
from connectors.callbacks.policy import Breaker, DeliveryPolicy
from connectors.callbacks.routes import Route

__all__ = ["Receiver", "Shares", "Standing"]

Standing = Literal["proven", "new", "failing"]
_RANK: dict[Standing, int] = {"proven": 0, "new": 1, "failing": 2}
_AHEAD_PROVEN = 64  # callbacks read ahead, so that a receiver is kept busy
_AHEAD_PROBE = 2
_KEPT_S = 60.0
_MOST_DOUBLINGS = 10


class Receiver:
    """Hold everything that belongs to one receiver. Its times are of a monotonic clock."""

    def __init__(
        self, key: str, route: Route, policy: DeliveryPolicy, verify: ssl.SSLContext, resolver: Resolve
    ) -> None:
        self.key = key
        self.route = route
        self.shown = route.shown
        self.sender = route.sender(policy, verify, resolver)
        self.queue: deque[DueCallback] = deque()
        self.attempts: dict[asyncio.Task[None], float] = {}
        self.breaker = Breaker(base_s=policy.breaker_base_s)
        self.pace = Pace()
        self.standing: Standing = "new"
        self.gone = False  # answered 410
        self.cuts = 0  # attempts in a row that had to make room for others
        self.used_at = 0.0
        self._concurrency = policy.concurrency

    @property
    def share(self) -> int:
        """Return how many attempts it may have under way; one, as a probe, unless it is known to answer."""
        return self._concurrency if self.standing == "proven" else 1

    def ready(self, now: float) -> bool:
        """Report whether an attempt may begin as far as this receiver is concerned."""
        under_way = len(self.attempts)
        admitted = self.breaker.admits(now, under_way) and self.pace.admits(now, under_way)
        return bool(self.queue) and under_way < self.share and admitted

    def wanted(self, now: float) -> int:
        """Return how many callbacks to read from the outbox, 0 while there is no use for more."""
        if self.gone:
            return _AHEAD_PROVEN
        if self.standing != "proven":
            idle = not (self.queue or self.attempts) and self.blocked_until(now) is None
            return _AHEAD_PROBE if idle else 0
        full = len(self.queue) * 2 >= _AHEAD_PROVEN or self.blocked_until(now) is not None
        return 0 if full else _AHEAD_PROVEN

    def blocked_until(self, now: float) -> float | None:
        """Return the time until which its breaker stays open, or its pace admits nothing; None without such a time."""
        until = max(self.breaker.open_until if self.breaker.tripped else now, self.pace.next_at)
        return until if now < until else None

    def is_given_time(self, now: float) -> bool:
        """Report whether its breaker is open: a stop does not wait for that."""
        return self.breaker.tripped and now < self.breaker.open_until

    def forgettable(self, now: float) -> bool:
        """Report whether nothing would be lost with it."""
        busy = self.queue or self.attempts or self.gone or self.breaker.tripped or now < self.pace.next_at
        return not busy and now > self.used_at + _KEPT_S

    @property
    def state(self) -> str:
        """Return the receiver's state in the metrics."""
        return "gone" if self.gone else "open" if self.breaker.tripped else "closed"


@dataclass(slots=True)
class Shares:
    """Divide `total` connections among receivers.

    Receivers that are new or failing may hold half of them, so that those that answer always find some. When a
    receiver finds none, attempts that have had no answer for `patience_s` make room: those at failing receivers first.
    Among failing receivers the time doubles with each attempt that made room, so that a slow one can answer.
    """

    total: int
    patience_s: float
    used: int = 0
    unproven: int = 0

    def count(self, receivers: Iterable[Receiver]) -> None:
        """Count the attempts under way."""
        self.used = self.unproven = 0
        for receiver in receivers:
            self.used += len(receiver.attempts)
            if receiver.standing != "proven":
                self.unproven += len(receiver.attempts)

    def free(self, receiver: Receiver) -> bool:
        """Report whether a connection is left for one more attempt at a receiver."""
        if receiver.standing != "proven" and self.unproven >= max(1, self.total // 2):
            return False
        return self.used < self.total

    def take(self, receiver: Receiver) -> None:
        """Count one more attempt."""
        self.used += 1
        self.unproven += receiver.standing != "proven"

    def in_turn(self, receivers: Iterable[Receiver], now: float) -> Iterator[Receiver]:
        """Give the receivers whose attempt may begin: proven ones first, each once a round.

        Of the others those that had to make room least often come first, then those least recently used.

        The caller begins an attempt, and calls `take`, before it asks for the next one.
        """
        ranked = sorted((r for r in receivers if r.ready(now)), key=lambda r: (_RANK[r.standing], r.cuts, r.used_at))
        line = deque(ranked)
        while line:
            receiver = line.popleft()
            if not self.free(receiver):
                continue
            yield receiver
            if receiver.ready(now):
                line.append(receiver)

    def to_cut(self, receivers: Iterable[Receiver], now: float) -> tuple[list[asyncio.Task[None]], float | None]:
        """Choose the attempts that must make room for waiting receivers, and say when there may be more to cut."""
        everyone = list(receivers)
        waiting = [r for r in everyone if r.ready(now) and not self.free(r)]
        if not waiting:
            return [], None
        best = min(_RANK[r.standing] for r in waiting)
        full = self.used >= self.total  # otherwise those that are new or failing hold all that they may
        running = sorted(
            (-_RANK[r.standing], began, id(task), task, began + self._patience_s(r, best))
            for r in everyone
            if full or r.standing != "proven"
            for task, began in r.attempts.items()
        )
        old = [task for *_, task, until in running if until <= now]
        later = [until for *_, until in running if until > now]
        return old[: len(waiting)], min(later, default=now + self.patience_s)

    def _patience_s(self, receiver: Receiver, best: int) -> float:
        """Return how long an attempt may take while receivers wait, the best of them of the rank `best`."""
        return self.patience_s * (2 ** min(receiver.cuts, _MOST_DOUBLINGS) if best == _RANK["failing"] else 1)
