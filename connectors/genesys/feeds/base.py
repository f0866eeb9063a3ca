"""What a feed is: a thread that receives messages of one kind from Genesys and writes them to a recorder.

To add a feed: subclass `FeedBase`, implement `_run` (called in the feed's thread with the runner of its event loop)
and `_interrupt` (called in that loop at a stop), hand messages to `self._recorder`, flush it (`DelayedFlush`), and
report every connection and loss with `_change`. Then add its kind to `flows.settings.feeds` and construct it in
`flows.live`.

A feed has a thread and an event loop of its own, so that nothing else in the process can starve its sockets. An
exception of the recorder (a full disk) ends the feed: see `failure`. A feed that starts watching conversations gives
them the limits of its `FeedLimits`.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from websockets.http11 import Response

from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD, MAX_TEXT_CHARACTERS
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import FeedThread

__all__ = [
    "MAX_MESSAGE_BYTES",
    "SILENT",
    "DelayedFlush",
    "EndedConversations",
    "FeedBase",
    "FeedLimits",
    "OnState",
    "binary_text",
    "headers_of",
]

MAX_MESSAGE_BYTES: Final = 2**20

SILENT: Final = logging.Logger("websockets-silenced", level=logging.CRITICAL + 1)
"""For websockets, which logs tokens, API keys and channel addresses at level DEBUG. It is outside the hierarchy of
loggers, so that no configuration of logging can turn it on.
"""

OnState = Callable[[str, str, str], None]
"""Called with the name of a feed, its new state and the reason."""


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """The limits of the conversations that the feed called `name` watches: milliseconds, and a ratio 0..1.

    Without a `qa_callback_url`, their alerts are recorded and not sent.
    """

    name: str
    max_latency_ms: float = DEFAULT_MAX_LATENCY_MS
    packet_loss_threshold: float = DEFAULT_PACKET_LOSS_THRESHOLD
    qa_callback_url: str | None = None

    def watch(self, conversation_id: str, leg_id: str | None, **more: Any) -> dict[str, Any]:
        """Return the `watch` record of a conversation, for a recorder's `watch`, with `more` settings."""
        return {
            "conversation_id": conversation_id,
            "leg_id": leg_id,
            "max_latency_ms": self.max_latency_ms,
            "packet_loss_threshold": self.packet_loss_threshold,
            "qa_callback_url": self.qa_callback_url,
            "feed": self.name,
            **more,
        }


class FeedBase(ABC):
    """What all feeds share: the thread and the changes of state.

    State changes go to `recorder.feed` and then to `on_state`, once for each change, both in the feed's thread.
    """

    def __init__(self, name: str, recorder: Recorder, on_state: OnState | None) -> None:
        self._name = name
        self._recorder = recorder
        self._on_state = on_state
        self._state: Literal["up", "down"] | None = None
        self._thread = FeedThread(name, self._run, self._interrupt)

    @property
    def failure(self) -> Exception | None:
        """The error that ended the feed; None while it runs, and after a stop."""
        return self._thread.failure

    def start(self) -> None:
        """Start the thread; a feed starts once."""
        self._thread.start()

    def stop(self, reason: str = "stopped", *, timeout_s: float = 5.0) -> None:
        """Close the connections, record the feed as down with `reason`, and wait up to `timeout_s` for the thread.

        Returns in any case; calling it again, or before `start`, does no harm.
        """
        self._thread.interrupt(reason)
        self._thread.join(timeout_s)

    @abstractmethod
    def _run(self, runner: asyncio.Runner) -> None:
        """Receive until `self._thread.stopping` is set. Exceptions end the feed."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Make `_run` return soon; called in the event loop."""

    @property
    def _is_up(self) -> bool:
        return self._state == "up"

    def _change(self, state: Literal["up", "down"], reason: str) -> None:
        """Record and report the feed's state, if it is another one than before."""
        if state == self._state:
            return
        self._state = state
        self._recorder.feed(self._name, state, reason)
        self._recorder.flush()
        get_logger(__name__).info("feed_changed", feed=self._name, state=state, reason=reason)
        if self._on_state is not None:
            self._on_state(self._name, state, reason)


class DelayedFlush:
    """Have a recorder write what it holds within `flush_s`; for the event loop of a feed.

    `failed` gets an exception of the recorder, which must not be raised into asyncio: that would log and forget it.
    """

    def __init__(self, recorder: Recorder, flush_s: float, failed: Callable[[Exception], None]) -> None:
        self._recorder = recorder
        self._flush_s = flush_s
        self._failed = failed
        self._due: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Flush within `flush_s`."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._flush_s, self._in_time)

    def now(self) -> None:
        """Flush what is due. Raises what the recorder raises."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
            self._recorder.flush()

    def _in_time(self) -> None:
        try:
            self.now()
        except Exception as error:
            self._failed(error)


class EndedConversations:
    """The ids of the last `limit` conversations that ended, so that a late message does not start a watch again.

    Not safe across threads: each feed has its own.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, conversation_id: str) -> None:
        """Remember an id as the last that ended; above the limit, the oldest one is forgotten."""
        self._ids[conversation_id] = None
        self._ids.move_to_end(conversation_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def __contains__(self, conversation_id: object) -> bool:
        return conversation_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)


def binary_text(message: bytes) -> str:
    """Return the beginning of a binary message as text, for an `invalid` record."""
    return message[: 4 * MAX_TEXT_CHARACTERS].decode("utf-8", "backslashreplace")[:MAX_TEXT_CHARACTERS]


def headers_of(response: Response) -> Mapping[str, str]:
    """Return the headers of an answer by their names in lower case."""
    return {name.lower(): value for name, value in response.headers.raw_items()}
