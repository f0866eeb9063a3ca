"""What a notifications feed makes of a message: a watch, labels, an end, a record without personal data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from connectors.format.labels import joined_labels
from connectors.format.notifications import (
    Heard,
    Leg,
    body_of,
    is_notification,
    labels_of,
    legs_of,
    read_notification,
    topic_of,
)
from connectors.format.owners import ALL, Share
from connectors.format.privacy import redacted
from connectors.genesys.feeds.base import FeedLimits, Selection
from connectors.genesys.feeds.notifications.enrichment import Enricher
from connectors.genesys.feeds.notifications.legs import Conversations, KnownLegs
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.runtime.logs import get_logger
from connectors.runtime.threads import relayed

__all__ = ["MessageRecorder", "WatchHooks", "parse_object"]

OURS: Final = ("over", "enrich")
"""Top-level keys that the feed writes into what it records; a received message has none of them that counts."""
LIST_IS_OLD_S: Final = 30.0
"""A list of the calls in progress may still hold a call that ended less than this long ago (seconds)."""
FIRST_KEPT: Final = frozenset({"direction", "provider"})


@dataclass(frozen=True, slots=True)
class WatchHooks:
    """Called in the feed's thread when a conversation starts or ends being watched."""

    started: Callable[[str], None] = lambda _: None
    ended: Callable[[str], None] = lambda _: None


class _Read(NamedTuple):
    """What a message says, and what of it is kept."""

    topic: str
    heard: Heard | None
    legs: list[Leg]
    labels: dict[str, str]
    kept: dict[str, Any]


class MessageRecorder:
    """Record messages, and watch their conversations.

    A conversation is watched from the first message on that shows it going on, under `limits`, if `selection` takes it.
    It ends when none of its known legs is alive, and goes on when a later message shows one that is, or when Genesys
    lists it as in progress long after its end. What an earlier run has recorded is known by `recall`. With an
    `enricher` an end is recorded with a top-level `"enrich": true`, and the media record ends the watch.

    Unless `keep_raw`, only ids, times, states and measurements of a message are recorded, and of a message that cannot
    be read only its length and SHA-256.

    Labels have the names that `names` gives for ids. A conversation that can be chosen by its name only waits for it.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        limits: FeedLimits,
        *,
        selection: Selection,
        share: Share = ALL,
        keep_raw: bool = False,
        names: Names = Names(),  # noqa: B008 - without state
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enricher: Enricher | None = None
        self._name = name
        self._recorder = recorder
        self._limits = limits
        self._selection = selection
        self.share = share
        self.hooks = WatchHooks()
        self._keep_raw = keep_raw
        self._conversations = Conversations()
        self._names = names
        self._now = now
        self._began_at = now()
        self._recorded: dict[str, list[bytes]] = {}
        self._unnamed: dict[str, str | None] = {}

    def recall(self, messages: Iterable[bytes]) -> None:
        """Know what recorded messages say of their conversations, so that their order means the same after a restart.

        Nothing is recorded, and what is watched stays as it is. A message is read when its conversation is met again.
        """
        for message in messages:
            body = body_of(parse_object(message)) or {}
            id_ = body.get("conversationId", body.get("id"))
            if isinstance(id_, str):
                self._recorded.setdefault(id_, []).append(message)

    async def follow_names(self) -> None:
        """Give conversations the names of their labels as these are found, until cancelled."""
        found = asyncio.Event()
        self._names.subscribe(relayed(asyncio.get_running_loop(), found.set))
        while True:
            await found.wait()
            found.clear()
            self.names_known()
            self._recorder.flush()

    def invalid(self, message: str | bytes, reason: str) -> None:
        """Record a message that cannot be a notification."""
        self._recorder.invalid(message, reason, private=not self._keep_raw)

    def record(self, message: str, content: Mapping[str, Any], *, at: float | None = None) -> None:
        """Record a notification as received now or `at` epoch seconds; its `content` has none of our own keys."""
        if not is_notification(content):
            self.invalid(message, "not a notification: it is not a JSON object with a topicName")
            return
        try:
            # What becomes of a message must not depend on what is dropped of it, nor bring that back as a label.
            kept = redacted(content)
            read = _Read(
                topic_of(kept),
                read_notification(kept),
                legs_of(kept),
                labels_of(kept),
                dict(content) if self._keep_raw else kept,
            )
            text = orjson.dumps(read.kept)  # which a message that is nested too deeply cannot be
        except Exception as error:  # whatever it is, it is about this message alone
            self.cannot_handle(message, error)
            return
        # What is about no conversation is the first instance's.
        if not (self.share.index == 0 if read.heard is None else self.share.owns_text(read.heard.conversation_id)):
            return
        heard = read.heard
        if heard is not None and (notes := self._follow(read, heard)):
            noted = {**read.kept, **notes}
            text, heard = orjson.dumps(noted), read_notification(noted)
        self._recorder.event(text, heard, at=at)

    def cannot_handle(self, message: str, error: Exception) -> None:
        """Record a message that raised an error, whose text may quote the message."""
        reason = f"it cannot be handled: {type(error).__name__}"
        get_logger(__name__).warning("message_not_handled", feed=self._name, reason=reason)
        self.invalid(message, reason)

    def found(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Watch a conversation that a query has found in progress, unless it has ended just now, or is not ours."""
        if not self.share.owns_text(conversation_id):
            return
        known = self._known(conversation_id)
        if known.is_over and self._now() >= known.over_at + LIST_IS_OLD_S:
            known.go_on()
            self._goes_on(conversation_id, known)
            if self.enricher is not None and self._recorder.is_watching(conversation_id):
                self.enricher.resume(conversation_id)
        self.label(conversation_id, labels)

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Add labels to a conversation of this feed that is not over, and watch it."""
        known = self._known(conversation_id)
        if not known.is_over:
            self._add_labels(known, labels)
            self._watch(conversation_id, None, known)

    def names_known(self) -> None:
        """Take that names were found: give the conversations that wait for some their new labels, or watch them."""
        unnamed, self._unnamed = self._unnamed, {}
        for id_, leg_id in unnamed.items():
            known = self._known(id_)
            if not known.is_over:
                self._add_labels(known, known.labels)
                self._watch(id_, leg_id, known)

    def _known(self, id_: str) -> KnownLegs:
        """Return what is known of a conversation, also from an earlier run."""
        known = self._conversations.of(id_)
        if (recorded := self._recorded.pop(id_, None)) is None:
            return known
        for message in recorded:
            record = parse_object(message)
            if (heard := read_notification(record)) is not None:
                _learn(known, topic_of(record), legs_of(record), heard)
                known.labels = _labels_after(known.labels, labels_of(record))
        if known.is_over:
            known.over_at = self._began_at
        else:
            self._add_labels(known, known.labels)  # with their names
        return known

    def _follow(self, read: _Read, heard: Heard) -> dict[str, bool]:
        """Learn from a message, watch its conversation if need be, and return what to note in its record."""
        id_ = heard.conversation_id
        known = self._known(id_)
        was_over = known.is_over
        _learn(known, read.topic, read.legs, heard)
        self._add_labels(known, read.labels)
        over = known.is_over
        if heard.begins and not over:
            if was_over:
                self._goes_on(id_, known)
            self._watch(id_, heard.leg_id, known)
        notes: dict[str, bool] = {}
        if over != heard.ended and over != was_over:
            notes["over"] = over
        elif heard.ended and not over:
            notes["over"] = False
        if over and not was_over:
            known.over_at = self._now()
            self.hooks.ended(id_)
        if self._enrich(id_, read.topic, heard, over=over, was_over=was_over):
            notes["enrich"] = True
        return notes

    def _goes_on(self, id_: str, known: KnownLegs) -> None:
        """Take that a conversation goes on that was over."""
        get_logger(__name__).info("conversation_goes_on", feed=self._name, conversation=id_)
        self._add_labels(known, known.labels)  # those of an earlier run have no names yet
        if self._recorder.is_watching(id_):  # until its media record comes
            self.hooks.started(id_)

    def _enrich(self, id_: str, topic: str, heard: Heard, *, over: bool, was_over: bool) -> bool:
        """Have media fetched; whether its record is going to end the conversation in place of this message."""
        if self.enricher is None or not self._recorder.is_watching(id_):
            return False
        if over and not was_over:
            self.enricher.want(id_, ended=True)
        elif was_over and not over:
            self.enricher.resume(id_)
        elif topic.endswith(".user.end") and not over:
            self.enricher.want(id_, ended=False)
        return over and (heard.ended or not was_over)

    def _watch(self, id_: str, leg_id: str | None, known: KnownLegs) -> None:
        """Start to watch a conversation, or journal its new labels."""
        pending = {name for name, value in known.labels.items() if self._names.is_pending(name, value)}
        if pending:
            self._unnamed[id_] = self._unnamed.get(id_, leg_id)
        if self._recorder.is_watching(id_):
            before = (self._recorder.watch_settings(id_) or {}).get("labels", {})
            if joined_labels(before, known.labels) != joined_labels(before, {}):
                self._recorder.watch({"conversation_id": id_, "labels": known.labels})
            return
        if pending & self._selection.rules.match.keys():
            return  # until the names are known, and with them whether it is one of those to be watched
        labels = joined_labels(self._limits.labels, known.labels)
        if not self._selection.takes(id_, labels):
            return
        more = {"labels": labels} if labels else {}
        self._recorder.watch(self._limits.watch(id_, leg_id, **more))
        self.hooks.started(id_)
        if self.enricher is not None:
            self.enricher.note(id_)

    def _add_labels(self, known: KnownLegs, labels: Mapping[str, str]) -> None:
        named = {name: self._names.name_of(name, value) for name, value in labels.items()}
        known.labels = _labels_after(known.labels, named)


def _learn(known: KnownLegs, topic: str, legs: Iterable[Leg], heard: Heard) -> None:
    known.learn(legs, ended=heard.ended, customer_left=topic.endswith(".customer.end"))


def _labels_after(known: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a conversation after a message: of some kinds the first one counts, of others the newest."""
    return {**known, **{name: value for name, value in labels.items() if name not in FIRST_KEPT or name not in known}}


def parse_object(message: str | bytes) -> dict[str, Any]:
    """Return a message as an object without our own keys, empty if it is not an object."""
    try:
        content = orjson.loads(message)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if key not in OURS}
