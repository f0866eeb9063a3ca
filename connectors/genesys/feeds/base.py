"""What a feed is: a thread that receives messages of one kind from Genesys and writes them to a recorder.

To add a feed: subclass `FeedBase`, implement `_run` (called in the feed's thread with the runner of its event loop)
and `_interrupt` (called in that loop at a stop), hand messages to `self._recorder`, flush it (`DelayedFlush`), and
report every connection and loss with `_change`. Then add its kind to `flows.settings.feeds` and construct it in
`flows.feeds`.

A feed has a thread and an event loop of its own, so that nothing else in the process can starve its sockets. An
exception of the recorder (a full disk) ends the feed: see `failure`. A feed that starts watching conversations gives
them the limits of its `FeedLimits`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from websockets.http11 import Response

from connectors.format.limits import DEFAULT_MAX_LATENCY_MS, DEFAULT_PACKET_LOSS_THRESHOLD
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import FeedThread

__all__ = [
    "MAX_MESSAGE_BYTES",
    "SILENT",
    "DelayedFlush",
    "FeedBase",
    "FeedLimits",
    "OnEvent",
    "OnState",
    "RecentIds",
    "Selection",
    "WatchRules",
    "headers_of",
    "ignore_event",
    "is_sampled",
]

MAX_MESSAGE_BYTES: Final = 2**20

SILENT: Final = logging.Logger("websockets-silenced", level=logging.CRITICAL + 1)
"""For websockets, which logs tokens, API keys and channel addresses at level DEBUG. It is outside the hierarchy of
loggers, so that no configuration of logging can turn it on.
"""

OnState = Callable[[str, str, str], None]
"""Called with the name of a feed, its new state and the reason."""

OnEvent = Callable[[str, str, Mapping[str, str]], None]
"""Called with the name of a feed, what happened (`topic_refused`, `not_watched`) and the details."""


@dataclass(frozen=True, slots=True)
class FeedLimits:
    """The limits of the conversations that the feed called `name` watches: milliseconds, and a ratio 0..1.

    `labels` are those of all its conversations. `default_limits` names the limits that limits by label override.
    Without a `qa_callback_url`, their alerts are recorded and not sent.
    """

    name: str
    max_latency_ms: float = DEFAULT_MAX_LATENCY_MS
    packet_loss_threshold: float = DEFAULT_PACKET_LOSS_THRESHOLD
    qa_callback_url: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    default_limits: tuple[str, ...] = ()

    def watch(self, conversation_id: str, leg_id: str | None, **more: Any) -> dict[str, Any]:
        """Return the `watch` record of a conversation, for a recorder's `watch`, with `more` settings.

        `labels` among them are added to those of the feed.
        """
        if labels := {**self.labels, **more.get("labels", {})}:
            more["labels"] = labels
        if self.default_limits:
            more["default_limits"] = list(self.default_limits)
        return {
            "conversation_id": conversation_id,
            "leg_id": leg_id,
            "max_latency_ms": self.max_latency_ms,
            "packet_loss_threshold": self.packet_loss_threshold,
            "qa_callback_url": self.qa_callback_url,
            "feed": self.name,
            **more,
        }


@dataclass(frozen=True, slots=True)
class WatchRules:
    """Which conversations are watched: a share of all (`sample`), at most `max_watched` at a time, None for any number,
    and only those whose labels have one of the values in `match`.
    """

    sample: float = 1.0
    max_watched: int | None = None
    match: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def is_sampled(conversation_id: str, sample: float) -> bool:
    """Tell whether a conversation is part of a sample, the same on every machine and in every run.

    It is when the first 8 bytes of the SHA-256 of its id (UTF-8), read as a big-endian integer and divided by 2^64, are
    below `sample`.

    >>> [is_sampled("c1", share) for share in (0.0, 0.5, 1.0)]
    [False, False, True]
    """
    digest = hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < sample * 2**64


class Selection:
    """Decide which conversations a feed watches, and count by reason those that it does not.

    `watching` gives the number of conversations watched now. `refused` is called with the reason and the id once for
    each conversation and reason: `sample`, `match` or `max`.
    """

    def __init__(
        self,
        rules: WatchRules = WatchRules(),
        *,
        watching: Callable[[], int] = lambda: 0,
        refused: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self.rules = rules
        self._watching = watching
        self._refused = refused
        self._known = {reason: RecentIds(100_000) for reason in ("sample", "match", "max")}

    @classmethod
    def of_feed(cls, name: str, recorder: Recorder, rules: WatchRules, on_event: OnEvent) -> Selection:
        """Return the selection of a feed, which reports the conversations that it does not watch to `on_event`."""

        def refused(reason: str, conversation_id: str) -> None:
            on_event(name, "not_watched", {"reason": reason, "conversation": conversation_id})

        return cls(rules, watching=lambda: len(recorder.watched_by(name)), refused=refused)

    def takes(self, conversation_id: str, labels: Mapping[str, str]) -> bool:
        """Tell whether a conversation that is not watched yet is to be watched."""
        reason = self._obstacle(conversation_id, labels)
        if reason is None:
            return True
        if conversation_id not in self._known[reason]:
            self._known[reason].add(conversation_id)
            self._refused(reason, conversation_id)
        return False

    def lacks_label(self, conversation_id: str, labels: Mapping[str, str]) -> bool:
        """Tell whether only labels that `match` names and the conversation does not have yet speak against it."""
        of_match = self.rules.match
        if labels.keys() >= of_match.keys() or not is_sampled(conversation_id, self.rules.sample):
            return False
        return all(labels[name] in values for name, values in of_match.items() if name in labels)

    def _obstacle(self, conversation_id: str, labels: Mapping[str, str]) -> str | None:
        rules = self.rules
        if rules.sample < 1.0 and not is_sampled(conversation_id, rules.sample):
            return "sample"
        if any(labels.get(name) not in values for name, values in rules.match.items()):
            return "match"
        if rules.max_watched is not None and self._watching() >= rules.max_watched:
            return "max"
        return None


def ignore_event(feed: str, what: str, details: Mapping[str, str]) -> None:
    """Do nothing: the default of `OnEvent`."""


class FeedBase(ABC):
    """What all feeds share: the thread and the changes of state.

    State changes go to `recorder.feed` and then to `on_state`, once for each change, both in the feed's thread.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        on_state: OnState | None,
        *,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._on_state = on_state
        self._state: Literal["up", "down"] | None = None
        self._thread = FeedThread(name, self._run, self._interrupt, new_loop)

    @property
    def failure(self) -> Exception | None:
        """Return the error that ended the feed; None while it runs, and after a stop."""
        return self._thread.failure

    def figures(self) -> Mapping[str, float]:
        """Return what the feed uses and has left out since its start; any thread may call it.

        The keys are among `duplicates` (messages received again), `topics`, `channels` and `channel_age_s` (of the
        oldest one).
        """
        return {}

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


class RecentIds:
    """The last `limit` ids that were added. Not safe across threads."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, conversation_id: str) -> None:
        """Remember an id as the newest; above the limit, the oldest one is forgotten."""
        self._ids[conversation_id] = None
        self._ids.move_to_end(conversation_id)
        if len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def __contains__(self, conversation_id: object) -> bool:
        return conversation_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)


def headers_of(response: Response) -> Mapping[str, str]:
    """Return the headers of an answer by their names in lower case."""
    return {name.lower(): value for name, value in response.headers.raw_items()}
