"""A Bytewax sink that writes lines of results to a Kafka topic, through a spool on the disk.

Bytewax' own `KafkaSink` takes no part in recovery: what it holds in memory when the process dies is lost, and a
broker that is away holds up the flow. Here a line is on the disk before the flow goes on, and a thread sends it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from connectors.kafka.connection import KafkaConnection
from connectors.kafka.publisher import Publisher, PublisherTiming
from connectors.kafka.spool import MAX_BYTES, Line, Spool
from connectors.runtime.logs import get_logger
from connectors.state.files import logged_failures

__all__ = ["KafkaLinesSink", "line_of"]

_KEYS: Final = ("conversation_id", "conversationId", "group", "incidentId")
KEPT_SNAPSHOTS: Final = 64
"""The ids of lines are kept for this many snapshots; none that is older is resumed from."""


def line_of(line: bytes) -> Line:
    r"""Return a line of results with its id and key.

    The id is the `alertId`, or a hash of the line; the same results have the same ids. The key is the conversation's
    id, the group, or, of an alert of a group, the incident's id.

    >>> line_of(b'{"conversation_id":"c1","start":0}')
    Line(id='aa66ec6b25f7b92e48933f0f5ef0dbad', key=b'c1', value=b'{"conversation_id":"c1","start":0}')
    """
    record = orjson.loads(line)
    key = next(record[name] for name in _KEYS if record.get(name) is not None)
    id_ = record.get("alertId") or hashlib.sha256(line).hexdigest()[:32]
    return Line(id_, key.encode() if isinstance(key, str) else orjson.dumps(key, option=orjson.OPT_SORT_KEYS), line)


class _KafkaPartition(StatefulSinkPartition[bytes, int]):
    def __init__(self, spool: Spool, publisher: Publisher, topic: str, drain_s: float, resume_at: int) -> None:
        self._spool = spool
        self._topic = topic
        self._left_out = 0  # since the spool is full
        self._publisher = publisher
        self._drain_s = drain_s
        self._last = resume_at
        self._again = spool.added_after(resume_at)
        self._marks: deque[int] = deque()

    def write_batch(self, values: Sequence[bytes]) -> None:
        with logged_failures("kafka_spool_failed"):
            self._publisher.check()
            if fresh := list(self._fresh(values)):
                last, left_out = self._spool.add(fresh)
                self._last = max(self._last, last)
                self._publisher.wake()
                self._note(left_out)

    def _note(self, left_out: int) -> None:
        """Log once that the spool is full, and once that it has room again."""
        if left_out and not self._left_out:
            get_logger(__name__).error("kafka_spool_full", topic=self._topic, waiting=self._spool.count())
        elif self._left_out and not left_out:
            get_logger(__name__).warning("kafka_spool_has_room", topic=self._topic, left_out=self._left_out)
            self._left_out = 0
        self._left_out += left_out

    def snapshot(self) -> int:
        self._marks.append(self._last)
        if len(self._marks) > KEPT_SNAPSHOTS and self._marks.popleft() < self._marks[0]:
            with logged_failures("kafka_spool_failed"):
                self._spool.forget(self._marks[0])
        return self._last

    def close(self) -> None:
        # Must not raise: Bytewax calls it while another exception unwinds, and a second one aborts the process.
        try:
            self._publisher.stop(self._drain_s)
            self._spool.close()
        except Exception:
            get_logger(__name__).exception("kafka_sink_close_failed")

    def _fresh(self, values: Sequence[bytes]) -> Iterator[Line]:
        """Yield the lines that the spool did not get before a crash."""
        for value in values:
            for line in map(line_of, value.splitlines()):
                number = self._again.pop(line.id, None) if self._again else None
                if number is None:
                    yield line
                else:
                    self._last = max(self._last, number)


class KafkaLinesSink(FixedPartitionedSink[bytes, int]):
    """Act as a Bytewax sink of items `(key, chunk)`, of complete JSON lines as bytes, into a topic.

    Lines wait in the file `spool`, for as long as the brokers are away. At the end of the flow they are sent for
    `drain_s` seconds at most; the rest waits for the next run. While the lines that wait have `max_bytes`, further ones
    are left out, logged and counted.

    Delivery guarantee: at least once, with recovery on, also after a crash (`kill -9`) or a power loss. A line whose
    acknowledgement was lost is sent again under the same id. Lines of one key are in order, unless they are repeated.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        spool: Path,
        *,
        drain_s: float = 5.0,
        timing: PublisherTiming = PublisherTiming(),  # noqa: B008 - frozen
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._max_bytes = max_bytes
        self._connection = connection
        self._topic = topic
        self._spool = spool
        self._drain_s = drain_s
        self._timing = timing

    def list_parts(self) -> list[str]:
        """Return the name of the one partition, whatever the number of workers."""
        return ["spool"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _KafkaPartition:  # noqa: ARG002
        """Open the spool and start the thread. Raise StateError."""
        with logged_failures("kafka_spool_failed", step=step_id):
            spool = Spool(self._spool, self._max_bytes)
            publisher = Publisher(spool, self._connection, self._topic, timing=self._timing)
            partition = _KafkaPartition(spool, publisher, self._topic, self._drain_s, resume_state or 0)
        publisher.start()
        publisher.wake()
        return partition
