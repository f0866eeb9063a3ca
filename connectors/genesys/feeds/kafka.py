"""The Kafka feed: frames, or Genesys' events, from a topic that another program fills.

Delivery guarantee: exactly once into the journal. The journal keeps the position of each message; offsets are committed
to the consumer group when the journal has the messages on the disk. After a crash the feed goes on behind the last
position that either of them holds. A message that its producer sent twice has two positions, and is recorded twice.

The feed reads every partition itself (Kafka's rebalancing is not used), so that several instances of a partitioned
deployment each read all messages and keep those of their own conversations.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from connectors.format.captures import unwrapped
from connectors.format.decode import parse_messages
from connectors.format.notifications import ENDED, is_notification
from connectors.format.owners import ALL, Share
from connectors.format.ownership import OwnMessages
from connectors.format.positions import Position, placed
from connectors.format.privacy import can_be_private, redacted_frame
from connectors.genesys.client import Clock
from connectors.genesys.feeds.base import (
    FeedBase,
    FeedLimits,
    OnEvent,
    OnState,
    Selection,
    WatchRules,
    ignore_event,
)
from connectors.genesys.feeds.lives import Lives
from connectors.genesys.feeds.notifications.messages import OURS, MessageRecorder
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.kafka.connection import KafkaConnection, describe
from connectors.retry import backoff_s
from connectors.runtime.logs import get_logger

__all__ = ["REMEMBERED_MESSAGES", "KafkaFeed", "KafkaTiming"]

REMEMBERED_MESSAGES: Final = 200_000
BATCH: Final = 1000
_LOST: Final = ("_ALL_BROKERS_DOWN", "_AUTHENTICATION", "_SSL", "_RESOLVE")


@dataclass(frozen=True, slots=True)
class KafkaTiming:
    """The feed's waits, in seconds: for an answer, for one after an error, for a message, between commits and looks for
    new partitions, and after failures.
    """

    answer_s: float = 5.0
    confirm_s: float = 2.0
    poll_s: float = 0.2
    commit_s: float = 1.0
    look_s: float = 60.0
    base_s: float = 0.5
    cap_s: float = 30.0


class _LostError(Exception):
    """The topic cannot be read at the moment, for the reason in the text."""


class KafkaFeed(FeedBase):
    """Take messages from `topic`, and commit them for the consumer group `group`.

    `recorded` are the offsets of the last messages in the journal, by partition. Where neither they nor the group know
    a partition, the feed begins at its end (`latest`) or its beginning (`earliest`). Conversations are watched from
    their first message on, if `rules` choose them, and again when a frame newer than their end shows them going on.
    `remembered` are the last messages that the runs before have recorded.
    """

    def __init__(
        self,
        *,
        name: str,
        connection: KafkaConnection,
        topic: str,
        group: str,
        start: Literal["latest", "earliest"],
        recorder: Recorder,
        limits: FeedLimits,
        recorded: Mapping[int, int],
        rules: WatchRules = WatchRules(),  # noqa: B008 - frozen
        share: Share = ALL,
        keep_raw: bool = False,
        names: Names = Names(),  # noqa: B008 - without state
        remembered: Sequence[bytes] = (),
        on_state: OnState | None = None,
        on_event: OnEvent = ignore_event,
        timing: KafkaTiming = KafkaTiming(),
        clock: Clock = Clock(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(name, recorder, on_state)
        self._connection = connection
        self._topic = topic
        self._group = group
        self._start = start
        selection = Selection.of_feed(name, recorder, rules, on_event)
        self._messages = _Messages(name, recorder, limits, selection, share, keep_raw=keep_raw, names=names)
        self._messages.recall(remembered)
        self._names_found = threading.Event()
        names.subscribe(self._names_found.set)
        self._next = {partition: offset + 1 for partition, offset in recorded.items()}
        self._committed: dict[int, int] = {}
        self._has_begun = False
        self._timing = timing
        self._clock = clock
        self._lost: str | None = None

    def _run(self, runner: asyncio.Runner) -> None:  # noqa: ARG002 - the client has threads of its own
        import confluent_kafka

        failures = 0
        while not self._thread.stopping.is_set():
            try:
                with closing(self._connect()) as consumer:
                    self._read(consumer)
            except confluent_kafka.KafkaException as error:
                reason = describe(error)
            except _LostError as lost:
                reason = str(lost)
            else:
                break
            failures = 1 if self._is_up else failures + 1
            self._change("down", reason)
            wait_s = backoff_s(failures, self._clock.u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)
            self._thread.stopping.wait(wait_s)
        self._recorder.flush()
        self._change("down", self._thread.reason)

    def _interrupt(self) -> None:
        """Do nothing: the thread looks at `stopping` after each wait for a message."""

    def _connect(self) -> Any:
        import confluent_kafka

        self._lost = None
        settings = self._connection.settings(
            group_id=self._group, enable_auto_commit=False, auto_offset_reset="earliest", error_cb=self._note
        )
        return confluent_kafka.Consumer(settings)

    def _note(self, error: Any) -> None:
        """Take an error of the client; called by it within `poll`."""
        if error.name() in _LOST and self._lost is None:
            self._lost = describe(error)

    def _read(self, consumer: Any) -> None:
        """Record messages until the feed is stopped. Raise KafkaException, _LostError."""
        self._assign(consumer)
        self._change("up", f"reading {self._topic}")
        monotonic = self._clock.monotonic
        looked = committed = monotonic()
        while not self._thread.stopping.is_set():
            first = consumer.poll(self._timing.poll_s)
            if self._lost is not None:
                self._confirm(consumer)
            if first is not None:
                self._take([first, *consumer.consume(BATCH - 1, timeout=0)])
            if self._names_found.is_set():
                self._names_found.clear()
                self._messages.names_known()
            if monotonic() - committed >= self._timing.commit_s:
                self._commit(consumer)
                committed = monotonic()
            if monotonic() - looked >= self._timing.look_s:
                self._assign(consumer)
                self._committed.clear()  # Kafka forgets the offset of a quiet partition that is not committed again
                looked = monotonic()
        self._commit(consumer)

    def _confirm(self, consumer: Any) -> None:
        """Raise _LostError if the brokers do not answer; the client also reports what has passed meanwhile."""
        import confluent_kafka

        reason, self._lost = str(self._lost), None
        try:
            self._ask(consumer, self._timing.confirm_s)
        except confluent_kafka.KafkaException as error:
            raise _LostError(reason) from error

    def _ask(self, consumer: Any, timeout_s: float) -> Any:
        """Return what the brokers know of the topic. Raise KafkaException after a while, or soon at a stop."""
        import confluent_kafka

        end = self._clock.monotonic() + timeout_s
        while True:
            try:
                return consumer.list_topics(self._topic, timeout=min(1.0, timeout_s)).topics[self._topic]
            except confluent_kafka.KafkaException:
                if self._thread.stopping.is_set() or self._clock.monotonic() >= end:
                    raise

    def _assign(self, consumer: Any) -> None:
        """Begin to read the partitions that are not read yet."""
        import confluent_kafka

        found = self._ask(consumer, self._timing.answer_s)
        if found.error is not None:
            raise _LostError(describe(found.error))
        known = {each.partition for each in consumer.assignment()}
        fresh = [
            confluent_kafka.TopicPartition(self._topic, one) for one in sorted(found.partitions) if one not in known
        ]
        if not fresh:
            return
        for each in consumer.committed(fresh, timeout=self._timing.answer_s):
            if each.error is not None:
                raise _LostError(describe(each.error))
            # A partition that was added while the feed reads, or is down, is read from its beginning.
            self._begin(consumer, each, "earliest" if self._has_begun else self._start)
        for each in fresh:
            each.offset = self._next[each.partition]
        consumer.incremental_assign(fresh)
        self._has_begun = True
        self._commit(consumer)  # so that a crash before the first message does not move the beginning

    def _begin(self, consumer: Any, at: Any, start: str) -> None:
        """Decide where to begin to read a partition, of which `at` is what the group has committed."""
        low, high = consumer.get_watermark_offsets(at, timeout=self._timing.answer_s)
        recorded = self._next.get(at.partition, -1)
        begin = max(recorded, at.offset if at.offset >= 0 else -1)
        if begin < 0:
            begin = low if start == "earliest" else high
        elif begin > high:  # the topic was deleted and created again
            get_logger(__name__).warning(
                "kafka_topic_replaced", feed=self._name, partition=at.partition, offset=begin, end=high
            )
            begin = low
        elif begin < low:
            get_logger(__name__).warning(
                "kafka_messages_expired", feed=self._name, partition=at.partition, count=low - begin
            )
            begin = low
        self._next[at.partition] = begin

    def _take(self, messages: list[Any]) -> None:
        """Record messages, and have them on the disk. Raise _LostError for an error of the topic."""
        lost: str | None = None
        for message in messages:
            if message.error() is not None:
                lost = describe(message.error())
                continue
            position = Position(self._topic, message.partition(), message.offset())
            self._messages.take(message.value() or b"", position, self._arrival(message))
            self._next[position.partition] = position.offset + 1
        self._recorder.sync()
        if lost is not None:
            raise _LostError(lost)

    def _arrival(self, message: Any) -> float | None:
        """Return when a message was put into the topic, None if that is unknown; never later than now."""
        kind, at_ms = message.timestamp()
        return min(at_ms / 1000.0, self._clock.now()) if kind and math.isfinite(at_ms) and at_ms > 0 else None

    def _commit(self, consumer: Any) -> None:
        """Commit what is on the disk. A failure is logged: the journal knows the positions, too."""
        import confluent_kafka

        due = dict(self._next.items() - self._committed.items())
        if not due:
            return
        places = [confluent_kafka.TopicPartition(self._topic, *each) for each in due.items()]
        try:
            for each in consumer.commit(offsets=places, asynchronous=False):
                if each.error is not None:
                    raise confluent_kafka.KafkaException(each.error)
            self._committed |= due
        except confluent_kafka.KafkaException as error:
            get_logger(__name__).warning("offsets_not_committed", feed=self._name, reason=describe(error))


class _Messages:
    """Record the messages of a topic, each with its position, and watch their conversations."""

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        limits: FeedLimits,
        selection: Selection,
        share: Share,
        *,
        keep_raw: bool,
        names: Names,
    ) -> None:
        self._recorder = recorder
        self._limits = limits
        self._selection = selection
        self._own = OwnMessages(share)
        self._lives = Lives(100_000)
        self._keep_raw = keep_raw
        self._events = MessageRecorder(
            name, recorder, limits, selection=selection, share=share, keep_raw=keep_raw, names=names
        )

    def recall(self, messages: Sequence[bytes]) -> None:
        """Learn what recorded messages say of their conversations."""
        self._events.recall(messages)
        self._lives.recall(parse_messages(messages).frames)

    def names_known(self) -> None:
        """Take that names of labels were found. Raise what the recorder raises."""
        self._events.names_known()
        self._recorder.flush()

    def take(self, message: bytes, position: Position, at: float | None) -> None:
        """Record a message that arrived `at` epoch seconds, None for now. Raise what the recorder raises."""
        if can_be_private(message) and (event := _event_in(message)) is not None:
            self._events.record(message.decode("utf-8", "replace"), {"id": position.id, **event}, at=at)
            return
        if not self._own.of([message]):
            return
        received = parse_messages([message])
        if received.invalid or not received.frames:
            reason = f"message {position.id}: {received.invalid.get(0, 'not a frame')}"
            # A topic may hold anything, in any encoding: no look at the text shows that it is harmless.
            self._recorder.invalid(message, reason, private=not self._keep_raw)
            return
        frame = received.frames[0]
        id_, is_end = frame.entity.id, frame.event == ENDED
        self._lives.learn(id_, frame.timestamp, ended=is_end)
        goes_on = not self._lives.is_over(id_)
        if goes_on and not is_end:
            self._watch(id_)
        kept = message if self._keep_raw else _frame_in(message)
        self._recorder.frame(placed(kept, position), at=at)
        if goes_on and is_end:  # newer frames have overtaken it, but for the dataflow it ends the watch
            self._watch(id_)

    def _watch(self, conversation_id: str) -> None:
        if self._recorder.is_watching(conversation_id):
            return
        if self._selection.takes(conversation_id, self._limits.labels):
            self._recorder.watch(self._limits.watch(conversation_id, None))


def _frame_in(message: bytes) -> bytes:
    """Return a frame without what a producer has added to it; other records as they are."""
    content = orjson.loads(message)
    return orjson.dumps(redacted_frame(content)) if "event" in content else message


def _event_in(message: bytes) -> dict[str, Any] | None:
    """Return Genesys' event in a message, None if it holds none."""
    try:
        content = orjson.loads(message)
        event = unwrapped(content) if isinstance(content, dict) else {}
    except (ValueError, TypeError):
        return None
    if not is_notification(event):
        return None
    return {key: value for key, value in event.items() if key not in (*OURS, "receivedAt", "id")}
