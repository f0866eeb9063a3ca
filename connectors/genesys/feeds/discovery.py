"""Find calls and create their interceptors while the voice events feed runs, beside it.

Calls are found in two ways: the load check lists those in progress, at the start and every minute, and the feed offers
each conversation that it receives its first frame of. A thread asks for their interceptors one by one, within the
request budget, so that neither the feed nor the dataflow ever waits for Genesys.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from types import MappingProxyType
from typing import Final, Protocol

from connectors.errors import AccessDeniedError, CredentialsError, GenesysError
from connectors.format.decode import parse_messages
from connectors.format.notifications import ENDED
from connectors.format.owners import ALL, Share
from connectors.format.records import Frame
from connectors.genesys.client import RequestBudget
from connectors.genesys.entities import ActiveConversation
from connectors.genesys.feeds.base import RecentIds, Selection
from connectors.genesys.feeds.lives import Lives
from connectors.runtime.logs import get_logger

__all__ = ["CallDiscovery", "DiscoveryTiming", "Interceptors"]

MAX_WAITING: Final = 100_000


class Interceptors(Protocol):
    """Knows which interceptors exist, lists calls and creates interceptors at Genesys."""

    def active(self) -> list[ActiveConversation]:
        """Return the calls in progress; raises GenesysError."""

    def create(self, conversation_id: str, labels: Mapping[str, str]) -> str | None:
        """Create an interceptor, unless it was asked for before, and have the conversation watched.

        Returns the reason if that failed. Raises CredentialsError or AccessDeniedError if no other can be created.
        """

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Give a watched conversation the labels that it has now."""

    def is_watching(self, conversation_id: str) -> bool:
        """Tell whether a conversation is watched already."""

    def forget_others(self, active: Collection[str]) -> None:
        """Forget the discovered interceptors of conversations that are over."""


@dataclass(frozen=True, slots=True)
class DiscoveryTiming:
    """The load check is repeated every `every_s`; after a failure nothing is asked for `hold_s`.

    For a call that it has not listed, or has listed without a label that decides or without any label, it is repeated
    sooner, but not within `labels_s`.
    `reserve` of the requests of a minute are left to everything else.
    """

    every_s: float = 60.0
    labels_s: float = 5.0
    hold_s: float = 30.0
    reserve: int = 30


class CallDiscovery:
    """A thread that has interceptors created for the calls that `selection` takes.

    While `max_concurrent` calls or more are in progress, or no load check has been answered, none is created, as at the
    bootstrap: `refused` gets the reason `max_concurrent`, or `failed`, and the id, once for each. Calls that could not
    be served are tried again after the next load check, and so is, once, a call that lacks a label which `selection`
    decides by. A watched call that is listed without any label is looked up again, soon. Of the calls that it lists,
    those of `share` are served; `observe` must be given frames of these only.
    `labels` are those of all calls, `recorded` the last frames that the runs before have recorded. An exception that is
    not Genesys' (a full disk) ends the thread: see `failure`.
    """

    def __init__(
        self,
        name: str,
        interceptors: Interceptors,
        selection: Selection,
        budget: RequestBudget,
        *,
        max_concurrent: int,
        share: Share = ALL,
        refused: Callable[[str, str], None],
        labels: Mapping[str, str] = MappingProxyType({}),
        recorded: Sequence[bytes] = (),
        timing: DiscoveryTiming = DiscoveryTiming(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._interceptors = interceptors
        self._selection = selection
        self._budget = budget
        self._max_concurrent = max_concurrent
        self._share = share
        self._refused = refused
        self._of_all = labels
        self._timing = timing
        self._now = now
        self._in_progress: set[str] = set()
        self._labels: dict[str, dict[str, str]] = {}
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._lives = Lives(100_000)
        self._lives.recall(parse_messages(recorded).frames)
        self._put_off: list[str] = []
        self._is_load_known = False
        self._were_put_off = {is_listed: RecentIds(100_000) for is_listed in (False, True)}
        self._were_bare = RecentIds(100_000)
        self._newly_watched, self._log_due = 0, -inf
        self._reported = {reason: RecentIds(100_000) for reason in ("max_concurrent", "failed")}
        self._changed = threading.Condition()
        self._stopping = False
        self._is_listing = False
        self._thread = threading.Thread(target=self._run, name=f"discovery-{name}", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread, and wait up to `timeout_s` for a request in progress, unless it only lists the calls."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            is_listing = self._is_listing
        if self._thread.ident is not None and not is_listing:
            self._thread.join(timeout_s)

    def observe(self, frames: Iterable[Frame]) -> None:
        """Take the conversations that frames are about; those without a time are ignored.

        A conversation that ends, for the dataflow, while newer frames show it going on is offered again.
        """
        started: list[str] = []
        with self._changed:
            for frame in frames:
                if isnan(frame.timestamp):
                    continue
                id_ = frame.entity.id
                if self._lives.learn(id_, frame.timestamp, ended=frame.event == ENDED):
                    started.append(id_)
                if self._lives.is_over(id_):
                    self._in_progress.discard(id_)
        if started:
            self._offer(started)

    def _offer(self, conversation_ids: Iterable[str]) -> None:
        with self._changed:
            for id_ in conversation_ids:
                self._in_progress.add(id_)
                self._waiting.append(id_)
            self._changed.notify()

    def _run(self) -> None:
        load_due = labels_due = self._now()
        try:
            while not self._stopping:
                if self._now() >= load_due:
                    is_listed = self._load()
                    load_due = self._now() + (self._timing.every_s if is_listed else self._timing.hold_s)
                    labels_due = self._now() + self._timing.labels_s if is_listed else load_due
                    if [one for one in self._labels if self._is_new_without_labels(one)]:  # all are noted
                        load_due = min(load_due, labels_due)
                self._log_found()
                id_ = self._next(load_due - self._now())
                if id_ is None:
                    continue
                is_served = self._take(id_)
                if self._put_off or id_ not in self._labels or self._is_new_without_labels(id_):
                    load_due = min(load_due, labels_due)
                if not is_served:
                    load_due = self._now() + self._timing.hold_s
                    self._pause(self._timing.hold_s)
        except Exception as error:
            self.failure = error
            get_logger(__name__).exception("discovery_failed", feed=self._name)

    def _load(self) -> bool:
        """Offer the calls in progress; False if Genesys did not list them."""
        self._wait_for_budget()
        with self._changed:
            if self._stopping:
                return True
            self._is_listing = True
        try:
            listed = {one.id: one.labels for one in self._interceptors.active() if one.id}
        except GenesysError as error:
            get_logger(__name__).warning("discovery_load_check_failed", feed=self._name, reason=str(error))
            return False
        finally:
            with self._changed:
                self._is_listing = False
                was_stopped = self._stopping
        if was_stopped:
            return True  # nothing more may be recorded
        self._labels, active, self._is_load_known = listed, list(listed), True
        self._interceptors.forget_others(set(active))
        with self._changed:
            self._waiting.extend(self._put_off)
            self._put_off.clear()
            waiting = set(self._waiting)
            self._in_progress = set(active) | waiting
            for id_ in active:
                self._lives.know(id_)
        watched = [id_ for id_ in active if self._interceptors.is_watching(id_)]
        for id_ in watched:
            self._interceptors.label(id_, self._labels[id_])
        self._offer(id_ for id_ in active if id_ not in waiting and id_ not in watched and self._share.owns_text(id_))
        return True

    def _is_new_without_labels(self, id_: str) -> bool:
        """Tell of a watched call, once, that it is listed without any label: it had hardly begun."""
        if self._labels.get(id_) != {} or id_ in self._were_bare or not self._interceptors.is_watching(id_):
            return False
        self._were_bare.add(id_)
        return True

    def _next(self, wait_s: float) -> str | None:
        with self._changed:
            if not self._waiting and not self._stopping and wait_s > 0:
                self._changed.wait(wait_s)
            return self._waiting.popleft() if self._waiting and not self._stopping else None

    def _take(self, id_: str) -> bool:
        """Have a call watched, if it is to be; False if Genesys lets no interceptor be created."""
        if not self._is_load_known:  # there may be too many calls for another interceptor
            self._put_off.append(id_)
            return True
        labels = {**self._of_all, **self._labels.get(id_, {})}
        # An event of its end counts, although a list that was asked for before may have the call.
        if self._lives.is_over(id_) or id_ not in self._in_progress or self._interceptors.is_watching(id_):
            return True
        were_put_off = self._were_put_off[id_ in self._labels]
        if id_ not in were_put_off and self._selection.lacks_label(id_, labels):
            were_put_off.add(id_)
            self._put_off.append(id_)
            return True
        if not self._selection.takes(id_, labels):
            return True
        if len(self._in_progress) >= self._max_concurrent:
            self._refuse("max_concurrent", id_)
            return True
        self._wait_for_budget()
        if self._stopping:
            return True
        try:
            reason = self._interceptors.create(id_, labels)
        except (CredentialsError, AccessDeniedError) as error:
            get_logger(__name__).warning("discovery_on_hold", feed=self._name, reason=str(error))
            self._refuse("failed", id_)
            return False
        if reason is not None:
            self._refuse("failed", id_)
        else:
            self._newly_watched += 1
        return True

    def _log_found(self) -> None:
        """Log how many calls are in progress and newly watched, once all are served: first in any case, then if any."""
        is_first = self._log_due == -inf
        if self._waiting or not self._is_load_known or not (is_first or self._newly_watched):
            return
        if self._now() >= self._log_due:
            listed, watched = len(self._labels), self._newly_watched
            get_logger(__name__).info("calls_found", feed=self._name, listed=listed, newly_watched=watched)
            self._newly_watched, self._log_due = 0, self._now() + self._timing.every_s

    def _refuse(self, reason: str, id_: str) -> None:
        if id_ not in self._reported[reason]:
            self._reported[reason].add(id_)
            self._refused(reason, id_)

    def _wait_for_budget(self) -> None:
        while not self._stopping and (wait_s := self._budget.wait_s(self._timing.reserve)):
            self._pause(wait_s)

    def _pause(self, seconds: float) -> None:
        end = self._now() + seconds
        with self._changed:
            while not self._stopping and (left_s := end - self._now()) > 0:
                self._changed.wait(left_s)
