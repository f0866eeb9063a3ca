"""Define the values that the outbox stores and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AttemptResult", "Callback", "DueBatch", "DueCallback", "Entry", "State", "WaitingFor"]

State = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class Callback:
    """Describe one HTTP POST to make: `body` to `url`, under an `id` that never changes.

    The part of the id before a slash is sent as `webhook-id`: callbacks of one alert to several targets share it.

    Callbacks of one `thread`, by default the conversation, are sent in the order in which they were inserted. One with
    `refresh_s` is sent again at that interval after its delivery, until one that `closes` its `incident` is inserted
    for the same `url`. One with `only_after` is inserted only if the callback of that id is or was in the outbox.
    """

    id: str
    conversation_id: str
    url: str
    body: bytes
    thread: str = ""
    incident: str = ""
    closes: bool = False
    refresh_s: float = 0.0
    only_after: str = ""

    @property
    def order_key(self) -> str:
        """Return the key that callbacks share if they must be sent in order."""
        return self.thread or self.conversation_id


@dataclass(frozen=True, slots=True)
class DueCallback:
    """Hold a callback that may be sent now, after `attempts` earlier ones.

    It is `requeued` if an operator asked for it again, and a `refresh` if it was delivered before.
    """

    callback: Callback
    attempts: int
    requeued: bool
    created_at: float = 0.0
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class DueBatch:
    """Hold what can be sent now, and when (in the time of `due`) the next one falls due, if one is known."""

    waiting: list[DueCallback]
    next_at: float | None


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """Hold the result of an attempt. `state` "pending" means: try again at `at`, which is `wait_s` ahead.

    `answer` is the start of what the receiver said. A `refresh` leaves the callback delivered.
    """

    callback: Callback
    state: State
    at: float
    attempts: int
    error: str | None = None
    answer: str | None = None
    wait_s: float = 0.0
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold a row of the outbox as commands show it.

    `body` is None once delivered. Times are epoch seconds; a `due_at` of 0 means at once.
    """

    id: str
    conversation_id: str
    url: str
    body: bytes | None
    state: State
    attempts: int
    created_at: float
    due_at: float
    done_at: float | None
    last_error: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """Hold a receiver with pending callbacks: their number, when the next attempt is due, and a recent error."""

    url: str
    count: int
    next_at: float
    error: str | None
