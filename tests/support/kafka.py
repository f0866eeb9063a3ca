"""A Kafka cluster for tests: librdkafka's mock cluster, which real clients of any process reach over TCP.

It speaks the protocol of the brokers and keeps messages and committed offsets in memory. It makes a topic when a client
asks for it, and has no TLS and no SASL. Confluent's package has no function for its faults, so the library is called by
`ctypes`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import confluent_kafka

from tests.support.tape import DEADLINE_S

__all__ = ["KafkaCluster", "MockKafka", "mock_kafka"]

TOPIC_AUTHORIZATION_FAILED: Final = 29
UNKNOWN_TOPIC_OR_PART: Final = 3


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class KafkaCluster:
    """What clients do with a cluster."""

    brokers: str

    def send(self, topic: str, *values: bytes, partition: int = 0, at_ms: int = 0) -> None:
        """Put messages into a partition, with a time of their own if `at_ms` is given."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self.brokers, "linger.ms": 0})
        failed: list[Any] = []
        for value in values:
            producer.produce(
                topic,
                value,
                partition=partition,
                timestamp=at_ms,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(DEADLINE_S) == 0
        assert not failed, failed

    def read(self, topic: str, count: int) -> list[Any]:
        """Return the first messages of a topic, from all partitions; wait until there are as many."""
        settings = {"bootstrap.servers": self.brokers, "group.id": "test", "enable.auto.commit": False}
        with closing(confluent_kafka.Consumer(settings)) as consumer:
            partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
            consumer.assign([confluent_kafka.TopicPartition(topic, one, 0) for one in partitions])
            messages: list[Any] = []
            while len(messages) < count:
                found = consumer.consume(count - len(messages), timeout=DEADLINE_S)
                assert found, f"{len(messages)} of {count} messages"
                messages += [one for one in found if one.error() is None]
            return messages

    def size(self, topic: str) -> int:
        """Return the number of messages in a topic."""
        settings = {"bootstrap.servers": self.brokers, "group.id": "test"}
        with closing(confluent_kafka.Consumer(settings)) as consumer:
            partitions = consumer.list_topics(topic, timeout=DEADLINE_S).topics[topic].partitions
            places = [confluent_kafka.TopicPartition(topic, one) for one in partitions]
            return sum(consumer.get_watermark_offsets(one, timeout=DEADLINE_S)[1] for one in places)

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the offset that a group has committed, -1001 for none."""
        settings = {"bootstrap.servers": self.brokers, "group.id": group}
        with closing(confluent_kafka.Consumer(settings)) as consumer:
            place = confluent_kafka.TopicPartition(topic, partition)
            return int(consumer.committed([place], timeout=DEADLINE_S)[0].offset)


class MockKafka(KafkaCluster):
    """A cluster of one broker, whose topics have `partitions`."""

    def __init__(self) -> None:
        self._library = _library()
        text = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._handle = ctypes.c_void_p(self._library.rd_kafka_new(0, conf, text, len(text)))
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._handle, 1))
        self.brokers = str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic."""
        assert self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1) == 0

    def fail(self, topic: str, error: int) -> None:
        """Answer every request for a topic with an error, 0 for none."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        assert self._library.rd_kafka_mock_topic_delete(self._cluster, topic.encode()) == 0

    def set_down(self) -> None:
        """Close the broker's connections, and accept none."""
        assert self._library.rd_kafka_mock_broker_set_down(self._cluster, 1) == 0

    def set_up(self) -> None:
        """Accept connections again."""
        assert self._library.rd_kafka_mock_broker_set_up(self._cluster, 1) == 0

    def close(self) -> None:
        """End the cluster."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)


@contextmanager
def mock_kafka() -> Iterator[MockKafka]:
    """Run a cluster."""
    with closing(MockKafka()) as kafka:
        yield kafka
