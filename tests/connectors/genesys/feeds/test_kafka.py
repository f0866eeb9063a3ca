"""The Kafka feed over librdkafka's mock cluster: positions, commits, restarts, outages, what is not a frame."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.format.owners import Share
from connectors.format.privacy import fingerprint
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.kafka import REMEMBERED_MESSAGES, KafkaFeed, KafkaTiming
from connectors.journal.events import recorded_offsets
from connectors.journal.writer import Journal
from connectors.kafka.connection import KafkaConnection
from tests.support.events import PRIVATE, detail_event
from tests.support.kafka import TOPIC_AUTHORIZATION_FAILED, MockKafka, mock_kafka
from tests.support.names import KnownNames
from tests.support.tape import DEADLINE_S, Tape, until

QUICK = KafkaTiming(answer_s=5.0, confirm_s=0.2, poll_s=0.05, commit_s=0.05, look_s=0.2, base_s=0.05, cap_s=0.1)


@pytest.fixture(scope="module")
def kafka() -> Iterator[MockKafka]:
    """One cluster for all tests, each with topics of its own."""
    with mock_kafka() as kafka:
        yield kafka


def frame(conversation: str, number: int = 0, event: str = "conversation.updated") -> bytes:
    """Return a frame."""
    entity = {"id": conversation}
    return json.dumps({"event": event, "entity": entity, "timestamp": 1000.5, "metrics": {"jitter": number}}).encode()


@contextmanager
def feeding(kafka: MockKafka, topic: str, recorder: Any, **more: Any) -> Iterator[KafkaFeed]:
    """A feed that runs."""
    settings = {"group": "watch", "start": "earliest", "recorded": {}, "timing": QUICK, **more}
    connection = KafkaConnection((kafka.brokers,))
    feed = KafkaFeed(
        name="bus", connection=connection, topic=topic, recorder=recorder, limits=FeedLimits("bus"), **settings
    )
    feed.start()
    try:
        yield feed
    finally:
        feed.stop("test over", timeout_s=DEADLINE_S)
        assert feed.failure is None


def test_frames_are_recorded_and_committed(kafka: MockKafka) -> None:
    """Messages of all partitions become frames with their positions; conversations are watched; offsets committed."""
    kafka.create("plain", 2)
    kafka.send("plain", frame("c1", 1), frame("c1", 2))
    kafka.send("plain", frame("c2", 3), partition=1)
    tape = Tape()
    with feeding(kafka, "plain", tape):
        until(lambda: len(tape.of("frame")) == 3)
        until(lambda: [kafka.committed("watch", "plain", one) for one in (0, 1)] == [2, 1])
    assert sorted(one["id"] for one in tape.of("frame")) == ["kafka:plain:0:0", "kafka:plain:0:1", "kafka:plain:1:0"]
    assert sorted(one["conversation_id"] for one in tape.of("watch")) == ["c1", "c2"]
    assert tape.states() == ["up", "down"]


def test_a_restart_goes_on_behind_the_journal(kafka: MockKafka, tmp_path: Path) -> None:
    """What the journal holds is not recorded again although nothing was committed, as after a kill -9."""
    kafka.create("again")
    kafka.send("again", *(frame("c1", number) for number in range(5)))
    for _ in range(2):
        journal = Journal(tmp_path, settings={})
        recorded = recorded_offsets(tmp_path, "bus", "again", REMEMBERED_MESSAGES)
        never = KafkaTiming(**{**QUICK_VALUES, "commit_s": 1000.0})
        with feeding(kafka, "again", journal.recorder("bus"), recorded=recorded, timing=never, group="lost") as feed:
            until(lambda: feed._next.get(0) == 5 + (recorded != {}))  # noqa: B023
            if not recorded:
                kafka.send("again", b"not JSON")
                until(lambda: feed._next.get(0) == 6)
        journal.close()
    lines = b"".join(segment.read_bytes() for segment in sorted(tmp_path.glob("*.jsonl"))).splitlines()
    frames = [json.loads(line)["frame"]["id"] for line in lines if b'"frame"' in line]
    assert frames == [f"kafka:again:0:{number}" for number in range(5)]
    assert sum(b'"invalid"' in line for line in lines) == 1


QUICK_VALUES = {name: getattr(QUICK, name) for name in KafkaTiming.__dataclass_fields__}


def test_what_is_not_a_frame(kafka: MockKafka) -> None:
    """It is recorded as invalid with its position; a tombstone, too; the messages behind it are taken."""
    kafka.create("poison")
    kafka.send("poison", b"not JSON", b"", b'{"event":"x"}', frame("c1"))
    tape = Tape()
    with feeding(kafka, "poison", tape):
        until(lambda: len(tape.of("frame")) == 1)
    reasons = [reason for _, reason in tape.of("invalid")]
    assert [reason.partition(": ")[0] for reason in reasons] == [f"message kafka:poison:0:{one}" for one in range(3)]
    assert all(reason.partition(": ")[2] for reason in reasons)


def test_the_text_of_what_is_not_a_frame(kafka: MockKafka) -> None:
    """It may hold personal data in any encoding, so that it is kept only with `keep_raw`."""
    kafka.create("avro")
    message = b"\x00\x00\x00\x00\x07\x1a+4930123456\x0aAnna"
    kafka.send("avro", message, b'{"caller":"Anna"}')
    for keep_raw, kept in ((False, [fingerprint(message), fingerprint(b'{"caller":"Anna"}')]), (True, "Anna")):
        tape = Tape()
        with feeding(kafka, "avro", tape, keep_raw=keep_raw, group=f"avro-{keep_raw}"):
            until(lambda: len(tape.of("invalid")) == 2)  # noqa: B023
        texts = [text for text, _ in tape.of("invalid")]
        assert all(kept in text for text in texts) if keep_raw else texts == kept


def test_labels_have_the_names_that_are_looked_up(kafka: MockKafka) -> None:
    """The ids of the labels of a first event are replaced as soon as their names are found, without another event."""
    names = KnownNames({("queue", "q1"): "Support"})
    kafka.create("named")
    kafka.send("named", json.dumps(detail_event("c1", "acd.start", queueId="q1")).encode())
    tape = Tape()
    with feeding(kafka, "named", tape, names=names, group="named"):
        until(lambda: tape.watched_by("bus") == ["c1"])
        names.find()
        until(lambda: tape.watch_settings("c1")["labels"] == {"queue": "Support"})  # type: ignore[index]


def test_events_of_genesys(kafka: MockKafka) -> None:
    """An EventBridge event in the topic is recorded without personal data, and its conversation is watched."""
    kafka.create("events")
    kafka.send("events", json.dumps(detail_event("c1", "customer.start")).encode())
    tape = Tape()
    with feeding(kafka, "events", tape):
        until(lambda: len(tape.of("frame")) == 1)
    assert tape.of("frame")[0]["id"] == "kafka:events:0:0"
    assert PRIVATE not in json.dumps(tape.of("frame"))
    assert [one["conversation_id"] for one in tape.of("watch")] == ["c1"]


def test_arrival_is_the_time_in_kafka(kafka: MockKafka, tmp_path: Path) -> None:
    """Latency ends when the message was put into the topic, however much later the feed reads it."""
    kafka.create("old")
    at = round(time.time() - 3600, 3)
    kafka.send("old", frame("c1"), at_ms=round(at * 1000))
    journal = Journal(tmp_path, settings={})
    with feeding(kafka, "old", journal.recorder("bus")):
        until(lambda: b'"frame"' in (tmp_path / "00000001.jsonl").read_bytes())
    journal.close()
    line = next(line for line in (tmp_path / "00000001.jsonl").read_bytes().splitlines() if b'"frame"' in line)
    assert json.loads(line)["arrived_at"] == pytest.approx(at, abs=0.002)
    assert json.loads(line)["received_at"] > at + 3000


def test_the_end_of_a_topic(kafka: MockKafka) -> None:
    """With `latest` the first run begins at the end and commits it, so that the second run misses nothing."""
    kafka.create("late")
    kafka.send("late", frame("c1", 1))
    tape = Tape()
    with feeding(kafka, "late", tape, start="latest", group="tail"):
        until(lambda: kafka.committed("tail", "late") == 1)
    kafka.send("late", frame("c1", 2))
    with feeding(kafka, "late", tape, start="latest", group="tail"):
        until(lambda: len(tape.of("frame")) == 1)
    assert tape.of("frame")[0]["metrics"]["jitter"] == 2


def test_shares(kafka: MockKafka) -> None:
    """Two instances read all messages, and each conversation is recorded by exactly one of them."""
    kafka.create("shared")
    kafka.send("shared", *(frame(f"c{number}") for number in range(20)))
    tapes = [Tape(), Tape()]
    for index, tape in enumerate(tapes):
        group = f"part-{index}"
        with feeding(kafka, "shared", tape, share=Share(index, 2), group=group):
            until(lambda: kafka.committed(group, "shared") == 20)  # noqa: B023
    seen = [{one["entity"]["id"] for one in tape.of("frame")} for tape in tapes]
    assert seen[0] | seen[1] == {f"c{number}" for number in range(20)}
    assert not seen[0] & seen[1]


def test_an_outage() -> None:
    """While no broker can be reached the feed is down with the reason; then it goes on without a gap."""
    tape = Tape()
    with mock_kafka() as kafka:
        kafka.create("away")
        kafka.send("away", frame("c1", 1))
        with feeding(kafka, "away", tape):
            until(lambda: len(tape.of("frame")) == 1)
            kafka.set_down()
            until(lambda: tape.states() == ["up", "down"])
            kafka.set_up()
            kafka.send("away", frame("c1", 2))
            until(lambda: len(tape.of("frame")) == 2)
    assert tape.of("feed")[1][2] == "Kafka: no broker can be reached (_ALL_BROKERS_DOWN)"


def test_a_topic_that_may_not_be_read(kafka: MockKafka) -> None:
    """The feed is down with the reason, and is up when the topic may be read."""
    kafka.create("secret")
    kafka.fail("secret", TOPIC_AUTHORIZATION_FAILED)
    tape = Tape()
    with feeding(kafka, "secret", tape):
        until(lambda: tape.states() == ["down"])
        kafka.fail("secret", 0)
        until(lambda: tape.states() == ["down", "up"])
    assert "may not use the topic" in tape.of("feed")[0][2]


def test_a_topic_that_was_created_again(kafka: MockKafka) -> None:
    """Positions behind the end of the topic are of another topic with that name: it is read from its beginning."""
    kafka.create("fresh")
    kafka.send("fresh", frame("c1"))
    tape = Tape()
    with feeding(kafka, "fresh", tape, recorded={0: 500}):
        until(lambda: len(tape.of("frame")) == 1)


def test_a_partition_that_was_added_in_an_outage(kafka: MockKafka) -> None:
    """A feed that began at the end of the topic reads a partition that it finds later from its beginning."""
    kafka.create("grown")
    tape = Tape()
    with feeding(kafka, "grown", tape, start="latest", group="grown"):
        until(lambda: kafka.committed("grown", "grown") == 0)
        kafka.fail("grown", TOPIC_AUTHORIZATION_FAILED)
        until(lambda: tape.states() == ["up", "down"])
        kafka.delete("grown")
        kafka.create("grown", 2)
        kafka.send("grown", frame("c1"), partition=1)
        until(lambda: len(tape.of("frame")) == 1)


def test_nothing_is_committed_before_it_is_on_the_disk(kafka: MockKafka) -> None:
    """A journal that cannot be synced ends the feed, and the group's offset stays."""

    class Broken(Tape):
        def sync(self) -> None:
            raise OSError(5, "Input/output error")

    kafka.create("broken")
    kafka.send("broken", frame("c1"))
    feed = KafkaFeed(
        name="bus",
        connection=KafkaConnection((kafka.brokers,)),
        topic="broken",
        group="broken",
        start="earliest",
        recorder=Broken(),
        limits=FeedLimits("bus"),
        recorded={},
        timing=QUICK,
    )
    feed.start()
    until(lambda: feed.failure is not None)
    feed.stop(timeout_s=DEADLINE_S)
    assert isinstance(feed.failure, OSError)
    assert kafka.committed("broken", "broken") == 0
