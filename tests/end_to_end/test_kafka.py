"""A live run between two topics of Kafka: frames in; windows, groups and alerts out; nothing lost through kill -9."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.callbacks import eventually
from tests.support.cli import DEADLINE_S, configuration, running, voicewatch
from tests.support.kafka import UNKNOWN_TOPIC_OR_PART, KafkaCluster, mock_kafka
from tests.support.tansu import tansu


def config(directory: Path, kafka: KafkaCluster) -> Path:
    """Write a configuration that reads frames and writes results of one-second windows."""
    tables: dict[str, Any] = {
        "windows": {"length_s": 1, "slide_s": 1},
        "groups": {"by": ["queue"], "min_conversations": 1},
        "kafka": {
            "brokers": [kafka.brokers],
            "windows_topic": "windows",
            "groups_topic": "groups",
            "alerts_topic": "alerts",
        },
        "feed": [{"kind": "kafka", "topic": "frames", "start": "earliest"}],
        "defaults": {"max_latency_ms": 500, "labels": {"queue": "support"}},
        "state": {"dir": str(directory / "state")},
    }
    return configuration(directory / "voicewatch.toml", tables)


def frames(numbers: range) -> list[bytes]:
    """Return frames of four conversations, each a second late."""
    return [
        json.dumps(
            {"event": "conversation.updated", "entity": {"id": f"c{number % 4}"}, "timestamp": time.time() - 1.0}
        ).encode()
        for number in numbers
    ]


def test_kill_9_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Killed twice: each frame is journaled once, and the topics have every line of the results."""
    with mock_kafka() as kafka:
        for topic in ("frames", "windows", "groups", "alerts"):
            kafka.create(topic, 2)
        path = config(tmp_path, kafka)
        state = tmp_path / "state"
        for kill in range(3):
            kafka.send("frames", *frames(range(kill * 50, kill * 50 + 50)), partition=kill % 2)
            with running(tmp_path, "run", path) as process:
                eventually(lambda: len(journaled(state)) >= 50 * (kill + 1), DEADLINE_S)  # noqa: B023
                eventually(lambda: kafka.size("windows") >= 4 * (kill + 1), DEADLINE_S)  # noqa: B023
                number = signal.SIGKILL if kill < 2 else signal.SIGTERM
                assert process.stop(number) == (-number if kill < 2 else 0), process.log
        ids = journaled(state)
        assert len(ids) == len(set(ids)) == 150
        for name in ("windows", "groups", "alerts"):
            lines = (state / f"{name}.jsonl").read_bytes().splitlines()
            sent = {one.value() for one in kafka.read(name, kafka.size(name))}
            assert sent == set(lines), name
            assert lines
        assert kafka.committed("voicewatch", "frames", 0) == 100
        assert kafka.committed("voicewatch", "frames", 1) == 50


def test_a_broker_of_another_make(tmp_path: Path) -> None:
    """Tansu does not share a line with the clients. Killed twice, a run loses and repeats nothing there, either."""
    with tansu(tmp_path) as kafka:
        for topic in ("frames", "windows", "groups", "alerts"):
            kafka.create(topic, 2)
        path = config(tmp_path, kafka)
        found = voicewatch("check", path, "--online")
        assert (found.returncode, "4 of 4 Kafka topic(s) found" in found.stdout) == (0, True), found.stdout
        state = tmp_path / "state"
        for kill in range(3):
            kafka.send_apart("frames", *frames(range(kill * 20, kill * 20 + 20)), partition=kill % 2)
            with running(tmp_path, "run", path) as process:
                eventually(lambda: len(journaled(state)) >= 20 * (kill + 1), DEADLINE_S)  # noqa: B023
                number = signal.SIGKILL if kill < 2 else signal.SIGTERM
                assert process.stop(number) == (-number if kill < 2 else 0), process.log
        ids = journaled(state)
        assert len(ids) == len(set(ids)) == 60
        for name in ("windows", "groups", "alerts"):
            lines = (state / f"{name}.jsonl").read_bytes().splitlines()
            assert {one.value() for one in kafka.read_all(name)} == set(lines), name
            assert lines
        assert kafka.committed("voicewatch", "frames", 0) == 40
        assert kafka.committed("voicewatch", "frames", 1) == 20


def journaled(state: Path) -> list[str]:
    """Return the positions of the frames in a journal, while it is written."""
    lines = [line for one in (state / "journal").glob("*.jsonl") for line in one.read_bytes().splitlines(keepends=True)]
    return [json.loads(line)["frame"]["id"] for line in lines if b'"frame"' in line and line.endswith(b"\n")]


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """`check --online` names it in one line; a run stays up, and the feed comes up with the broker."""
    with mock_kafka() as kafka:
        kafka.create("frames")
        for topic in ("windows", "groups", "alerts"):
            kafka.create(topic)
        path = config(tmp_path, kafka)
        found = voicewatch("check", path, "--online")
        assert (found.returncode, "4 of 4 Kafka topic(s) found" in found.stdout) == (0, True), found.stdout
        kafka.fail("alerts", UNKNOWN_TOPIC_OR_PART)
        missing = voicewatch("check", path, "--online")
        assert missing.returncode == 1
        assert 'problem: topic "alerts": Kafka: the topic does not exist; create it' in missing.stdout
        kafka.fail("alerts", 0)
        kafka.set_down()
        with running(tmp_path, "run", path) as process:
            eventually(lambda: "no broker can be reached" in process.log, DEADLINE_S)
            kafka.set_up()
            kafka.send("frames", *frames(range(8)))
            eventually(lambda: len(journaled(tmp_path / "state")) == 8, DEADLINE_S)
            assert process.stop() == 0, process.log
        assert "Traceback" not in process.log


def test_mistakes_are_explained(tmp_path: Path) -> None:
    """A missing password, and a topic without brokers, are one line each before anything starts."""
    kafka = {"brokers": ["kafka.example.com:9093"], "tls": True, "sasl": "PLAIN"}
    feed = {"kind": "kafka", "topic": "frames"}
    state = {"dir": str(tmp_path / "state")}
    path = configuration(tmp_path / "a.toml", {"kafka": kafka, "feed": [feed], "state": state})
    for command in ("run", "check"):
        done = voicewatch(command, path, KAFKA_USERNAME="watcher")
        assert (done.returncode, "KAFKA_PASSWORD is not set" in done.stderr) == (2, True), done.stderr
    path = configuration(tmp_path / "b.toml", {"feed": [feed], "state": state})
    done = voicewatch("check", path)
    assert (done.returncode, "kafka.brokers: must name a broker" in done.stderr) == (2, True), done.stderr
