"""A thread that sends the lines of a spool to a Kafka topic until they are acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from connectors.kafka.connection import KafkaConnection, describe
from connectors.kafka.spool import Line, Spool
from connectors.retry import backoff_s
from connectors.runtime.logs import get_logger

__all__ = ["Publisher", "PublisherTiming"]

BATCH: Final = 1000
_SLICE_S: Final = 0.1
_UNUSABLE: Final = ("_MSG_SIZE_TOO_LARGE", "MSG_SIZE_TOO_LARGE", "INVALID_RECORD")


@dataclass(frozen=True, slots=True)
class PublisherTiming:
    """How long a line may take, and how long to wait after failures, in seconds."""

    message_s: float = 10.0
    base_s: float = 0.5
    cap_s: float = 30.0


class Publisher:
    """Send what `spool` holds to `topic`, in order, with all replicas' acknowledgement.

    A line has the header `id`. While no broker takes lines, they stay in the spool, and the log has one warning. A line
    that Kafka cannot take, because it is too large, is logged and left out.
    """

    def __init__(
        self,
        spool: Spool,
        connection: KafkaConnection,
        topic: str,
        *,
        timing: PublisherTiming = PublisherTiming(),
        u: Callable[[], float] = random.random,
    ) -> None:
        self._spool = spool
        self._connection = connection
        self._topic = topic
        self._timing = timing
        self._u = u
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._until = float("inf")
        self._producer: Any = None
        self._is_up: bool | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._live, name=f"kafka-{topic}", daemon=True)

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def wake(self) -> None:
        """Have new lines sent now."""
        self._woken.set()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        if self._failure is not None:
            raise self._failure

    def stop(self, drain_s: float) -> None:
        """Send what is left, for `drain_s` at most, and end the thread."""
        self._until = time.monotonic() + drain_s
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(drain_s + self._timing.message_s)  # which it takes only if the client is slow to end

    def _live(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._failure = error
            get_logger(__name__).exception("kafka_publisher_failed", topic=self._topic)

    def _work(self) -> None:
        failures = 0
        while True:
            self._woken.clear()
            lines = self._spool.waiting(BATCH)
            if not lines:
                if self._stopping.is_set():
                    return
                self._woken.wait()
                continue
            reason = self._send(lines)
            if reason is None:
                failures = 0
                if self._is_late():  # the rest waits for the next run, however fast the brokers are
                    return
                continue
            failures += 1
            self._change(up=False, reason=reason)
            wait_s = backoff_s(failures, self._u(), base_s=self._timing.base_s, cap_s=self._timing.cap_s)
            if time.monotonic() + wait_s >= self._until or (self._stopping.wait(wait_s) and self._is_late()):
                return

    def _is_late(self) -> bool:
        return time.monotonic() >= self._until

    def _send(self, lines: list[tuple[int, Line]]) -> str | None:
        """Send lines and wait for their acknowledgements; return why some were not acknowledged, None if all were."""
        import confluent_kafka

        done: dict[int, Line] = {}
        failed: list[str] = []

        def reported(number: int, line: Line, error: Any, _: Any) -> None:
            if error is None:
                done[number] = line
            elif error.name() in _UNUSABLE:
                get_logger(__name__).error("kafka_line_refused", topic=self._topic, id=line.id, reason=describe(error))
                done[number] = line
            else:
                failed.append(describe(error))

        try:
            producer = self._producer or self._connect()
            for number, line in lines:
                self._produce(producer, line, partial(reported, number, line))
            late = time.monotonic() + 2 * self._timing.message_s
            while producer.flush(_SLICE_S) and time.monotonic() < min(late, self._until):
                pass
        except confluent_kafka.KafkaException as error:
            failed.append(describe(error))
        if done:
            self._spool.mark_sent(done)
        if failed or len(done) < len(lines):
            self._producer = None  # what it still holds is sent again by the next one
            return failed[0] if failed else "Kafka: no broker answered in time"
        self._change(up=True, reason="acknowledged")
        return None

    def _connect(self) -> Any:
        import confluent_kafka

        self._producer = confluent_kafka.Producer(
            self._connection.settings(
                enable_idempotence=True,
                compression_type="lz4",
                linger_ms=5,
                message_timeout_ms=int(self._timing.message_s * 1000),
                queue_buffering_max_messages=10 * BATCH,
            )
        )
        return self._producer

    def _produce(self, producer: Any, line: Line, reported: Callable[[Any, Any], None]) -> None:
        import confluent_kafka

        try:
            producer.produce(
                self._topic, line.value, key=line.key, headers=[("id", line.id.encode())], on_delivery=reported
            )
        except confluent_kafka.KafkaException as error:
            if error.args[0].name() not in _UNUSABLE:
                raise
            reported(error.args[0], None)

    def _change(self, *, up: bool, reason: str) -> None:
        if up == self._is_up:
            return
        self._is_up = up
        if up:
            get_logger(__name__).info("kafka_topic_up", topic=self._topic)
        else:
            get_logger(__name__).warning(
                "kafka_topic_down", topic=self._topic, reason=reason, waiting=self._spool.count()
            )
