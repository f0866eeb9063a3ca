"""The sink of a Kafka topic: a real flow, kill -9, outages, lines that Kafka refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.connection import KafkaConnection, topic_problem
from connectors.kafka.publisher import BATCH, Publisher, PublisherTiming
from connectors.kafka.sink import KEPT_SNAPSHOTS, KafkaLinesSink, line_of
from connectors.kafka.spool import Spool, spool_state
from tests.support.kafka import MockKafka, mock_kafka
from tests.support.tape import until

QUICK = PublisherTiming(message_s=2.0, base_s=0.05, cap_s=0.1)


@pytest.fixture(scope="module")
def kafka() -> Iterator[MockKafka]:
    """One cluster for all tests, each with a topic of its own."""
    with mock_kafka() as kafka:
        yield kafka


def lines(first: int, last: int) -> bytes:
    """Return lines of windows, one for each number."""
    return b"".join(b'{"conversation_id":"c%d","start":%d}\n' % (number % 3, number) for number in range(first, last))


def part(kafka: MockKafka, topic: str, path: Path, resume: int | None = None, **more: Any) -> Any:
    """Build the sink's partition."""
    sink = KafkaLinesSink(KafkaConnection((kafka.brokers,)), topic, path, timing=QUICK, **more)
    return sink.build_part("step", "spool", resume)


def starts(messages: list[Any]) -> list[int]:
    """Return the numbers of the lines in messages."""
    return sorted(json.loads(one.value())["start"] for one in messages)


def test_lines_reach_the_topic(kafka: MockKafka, tmp_path: Path) -> None:
    """Each line of a chunk is a message with the conversation as key and its id as a header."""
    kafka.create("windows")
    partition = part(kafka, "windows", tmp_path / "spool.sqlite3")
    partition.write_batch([lines(0, 3), b"", lines(3, 5)])
    messages = kafka.read("windows", 5)
    partition.close()
    assert starts(messages) == [0, 1, 2, 3, 4]
    assert {one.key() for one in messages} == {b"c0", b"c1", b"c2"}
    assert [dict(one.headers())["id"].decode() for one in messages] == [line_of(one.value()).id for one in messages]


def test_a_certificate_that_is_not_one(tmp_path: Path) -> None:
    """A file that is not PEM is named as the reason, by its settings."""
    file = tmp_path / "client.pem"
    file.write_text("not PEM")
    connection = KafkaConnection(("127.0.0.1:1",), tls=True, cert=file, key=file)
    assert "check kafka.tls_ca, kafka.tls_cert and kafka.tls_key" in str(topic_problem(connection, "windows", 0.1))


def test_keys_and_ids() -> None:
    """An alert has its alertId as id; a group's window has the group as key, its alert the incident."""
    assert line_of(b'{"conversationId":"c1","alertId":"a1","incidentId":"i1"}')[:2] == ("a1", b"c1")
    assert line_of(b'{"conversationId":null,"alertId":"a2","incidentId":"i1","group":null}')[:2] == ("a2", b"i1")
    assert line_of(b'{"group":{"queue":"support"},"start":0}').key == b'{"queue":"support"}'


def test_a_resumed_flow_sends_no_line_twice(kafka: MockKafka, tmp_path: Path) -> None:
    """Lines that were spooled after the snapshot are known when the flow writes them again."""
    kafka.create("resumed")
    partition = part(kafka, "resumed", tmp_path / "spool.sqlite3")
    partition.write_batch([lines(0, 10)])
    mark = partition.snapshot()
    partition.write_batch([lines(10, 30)])
    kafka.read("resumed", 30)
    partition.close()
    partition = part(kafka, "resumed", tmp_path / "spool.sqlite3", mark)
    partition.write_batch([lines(10, 25)])
    partition.write_batch([lines(25, 40)])
    assert partition.snapshot() == 40
    kafka.read("resumed", 40)
    partition.close()
    assert kafka.size("resumed") == 40


def test_old_lines_are_forgotten(kafka: MockKafka, tmp_path: Path) -> None:
    """What was sent is removed once no snapshot can be resumed from that is older."""
    kafka.create("forgotten")
    partition = part(kafka, "forgotten", tmp_path / "spool.sqlite3")
    for number in range(KEPT_SNAPSHOTS + 2):
        partition.write_batch([lines(number, number + 1)])
        kafka.read("forgotten", number + 1) if number == 2 else None
        partition.snapshot()
    until(lambda: partition._spool.count() == 0)
    partition.write_batch([lines(500, 501)])
    partition.snapshot()
    first = min(partition._spool.added_after(0).values())
    partition.close()
    assert first > 1


def test_an_outage_holds_nothing_up(tmp_path: Path) -> None:
    """While the broker is away, lines are taken at once and kept, also by the next run; then all of them are sent."""
    path = tmp_path / "spool.sqlite3"
    with mock_kafka() as kafka:
        kafka.create("away")
        kafka.set_down()
        partition = part(kafka, "away", path, drain_s=0.1)
        partition.write_batch([lines(0, 50)])
        mark = partition.snapshot()
        partition.close()
        spool = Spool(path)
        assert spool.count() == 50
        spool.close()
        kafka.set_up()
        partition = part(kafka, "away", path, mark)
        assert starts(kafka.read("away", 50)) == list(range(50))
        partition.close()


def test_a_full_spool_leaves_lines_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Lines beyond the limit are left out, once logged; what was kept is sent, then there is room for new ones."""
    path = tmp_path / "spool.sqlite3"
    limit = sum(line_of(line).size for line in lines(0, 30).splitlines())
    with mock_kafka() as kafka:
        kafka.create("full")
        kafka.set_down()
        partition = part(kafka, "full", path, max_bytes=limit)
        for first in range(0, 90, 15):
            partition.write_batch([lines(first, first + 15)])
        partition.close()
        assert spool_state(path) == (30, 60)
        partition = part(kafka, "full", path, 30, max_bytes=limit)  # which knows what waits
        partition.write_batch([lines(90, 91)])
        assert spool_state(path) == (30, 61)
        kafka.set_up()
        until(lambda: spool_state(path).waiting == 0)
        partition.write_batch([lines(100, 110)])
        assert starts(kafka.read("full", 40)) == [*range(30), *range(100, 110)]
        partition.close()
    logged = capfd.readouterr()
    log = logged.out + logged.err
    assert log.count("kafka_spool_full") == 2
    assert log.count("kafka_spool_has_room") == 1


def test_a_stop_leaves_a_backlog(kafka: MockKafka, tmp_path: Path) -> None:
    """When the time to drain is over, what a batch does not hold waits for the next run, although the broker is up."""
    kafka.create("backlog")
    spool = Spool(tmp_path / "spool.sqlite3")
    publisher = Publisher(spool, KafkaConnection((kafka.brokers,)), "backlog", timing=QUICK)
    publisher.start()
    spool.add([*map(line_of, lines(0, 1).splitlines())])
    publisher.wake()
    until(lambda: spool.count() == 0)
    spool.add([*map(line_of, lines(0, 3 * BATCH).splitlines())])
    publisher.stop(drain_s=0.0)
    publisher.check()
    assert not publisher._thread.is_alive()
    assert spool.count() >= 2 * BATCH
    spool.close()


def test_a_line_that_kafka_refuses(kafka: MockKafka, tmp_path: Path) -> None:
    """A line above the size limit is left out, and those around it are sent."""
    kafka.create("large")
    partition = part(kafka, "large", tmp_path / "spool.sqlite3")
    large = json.dumps({"conversation_id": "c0", "start": 1, "legs": "x" * 2_000_000}).encode() + b"\n"
    partition.write_batch([lines(0, 1), large, lines(2, 3)])
    assert starts(kafka.read("large", 2)) == [0, 2]
    until(lambda: partition._spool.count() == 0)
    partition.close()
