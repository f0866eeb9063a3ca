"""The EventBridge feed over a queue of moto's server: long polling, deletion, duplicates, poison, outages."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.eventbridge.queue import QueueFeed, QueueTiming
from connectors.genesys.feeds.eventbridge.recorder import REMEMBERED_EVENTS
from connectors.journal.events import recorded_event_ids
from connectors.journal.writer import Journal
from tests.support.callbacks import eventually
from tests.support.cli import configuration, running
from tests.support.events import PRIVATE, detail_event, journaled_ids
from tests.support.names import KnownNames
from tests.support.sqs import AWS, SqsServer, sqs_server
from tests.support.tape import DEADLINE_S, Tape, until

QUICK = QueueTiming(pollers=2, long_poll_s=1, base_s=0.05, cap_s=0.1)
LONG_S = 60.0
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")


@pytest.fixture(scope="module")
def server() -> Iterator[SqsServer]:
    """One server for all tests."""
    with sqs_server() as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials where boto3 looks for them."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


@contextmanager
def feeding(recorder: Any, url: str, known: list[str] | None = None, **more: Any) -> Iterator[QueueFeed]:
    """A feed that runs."""
    settings = {"limits": FeedLimits("bus"), "known": known or (), "timing": QUICK, **more}
    feed = QueueFeed(name="bus", url=url, recorder=recorder, **settings)
    feed.start()
    try:
        yield feed
    finally:
        feed.stop("test over", timeout_s=DEADLINE_S)


def test_events_are_recorded_and_deleted(server: SqsServer) -> None:
    """Each message becomes a frame without personal data; those of SNS are unwrapped; the queue is empty afterwards."""
    url = server.queue("plain")
    events = [detail_event(f"c{number}", "customer.start") for number in range(25)]
    server.send(
        url, *map(json.dumps, events[1:]), json.dumps({"Type": "Notification", "Message": json.dumps(events[0])})
    )
    tape = Tape()
    with feeding(tape, url):
        until(lambda: len(tape.of("frame")) == 25)
        until(lambda: server.count(url) == 0)
    assert sorted(frame["id"] for frame in tape.of("frame")) == sorted(event["id"] for event in events)
    assert PRIVATE not in json.dumps(tape.of("frame"))
    assert tape.states() == ["up", "down"]


def test_labels_have_the_names_that_are_looked_up(server: SqsServer) -> None:
    """The ids of the labels of a first event are replaced as soon as their names are found, without another event."""
    names = KnownNames({("queue", "q1"): "Support"})
    url, tape = server.queue("named"), Tape()
    server.send(url, json.dumps(detail_event("c1", "acd.start", queueId="q1")))
    with feeding(tape, url, names=names):
        until(lambda: tape.watched_by("bus") == ["c1"])
        names.find()
        until(lambda: tape.watch_settings("c1")["labels"] == {"queue": "Support"})  # type: ignore[index]


def test_duplicates(server: SqsServer, tmp_path: Path) -> None:
    """An event that is in the queue again is deleted and not recorded, also by the next run."""
    url = server.queue("duplicates")
    event = json.dumps(detail_event("c1", "customer.start"))
    for _ in range(2):
        journal = Journal(tmp_path, settings={})
        server.send(url, event, event)
        with feeding(journal.recorder("bus"), url, recorded_event_ids(tmp_path, "bus", REMEMBERED_EVENTS)):
            until(lambda: server.count(url) == 0)
        journal.close()
    assert list(journaled_ids(tmp_path).values()) == [1]


def test_nothing_is_deleted_before_it_is_on_the_disk(server: SqsServer) -> None:
    """A journal that cannot be synced ends the feed, and the messages stay."""

    class Broken(Tape):
        def sync(self) -> None:
            raise OSError(5, "Input/output error")

    url = server.queue("broken")
    server.send(url, json.dumps(detail_event("c1", "customer.start")))
    with feeding(Broken(), url) as feed:
        until(lambda: feed.failure is not None)
    assert isinstance(feed.failure, OSError)
    assert server.count(url) == 1


def test_poison(server: SqsServer) -> None:
    """What is not an event is recorded once, without its text. It is deleted, or left for the dead-letter queue."""
    dead = server.queue("dead")
    policy = json.dumps({"deadLetterTargetArn": server.arn(dead), "maxReceiveCount": "2"})
    for name, attributes in (("poison", {}), ("redriven", {"RedrivePolicy": policy})):
        url = server.queue(name, **attributes)
        server.send(url, f"call me: {PRIVATE}")
        tape = Tape()
        with feeding(tape, url):
            until(lambda: server.count(url) == 0)  # noqa: B023
        assert len(tape.of("invalid")) == 1
        assert PRIVATE not in str(tape.of("invalid"))
    until(lambda: server.count(dead) == 1)


def test_outages() -> None:
    """While the queue cannot be reached, or does not exist, the feed is down with the reason; then it goes on."""
    tape = Tape()
    with sqs_server() as server:
        with feeding(tape, f"{server.url}/123456789012/late"):
            until(lambda: tape.states() == ["down"])
            url = server.queue("late")
            server.send(url, json.dumps(detail_event("c1", "customer.start")))
            until(lambda: len(tape.of("frame")) == 1)
        assert "NonExistentQueue" in tape.of("feed")[0][2]
        gone = f"{server.url}/123456789012/late"
    other = Tape()
    with feeding(other, gone):
        eventually(lambda: other.states() == ["down"], LONG_S)
    assert other.of("feed")[0][2] == "SQS: EndpointConnectionError"


def test_kill_9_loses_and_repeats_nothing(server: SqsServer, tmp_path: Path) -> None:
    """Killed while it takes messages: each is in the journal once, and the queue is empty in the end."""
    url = server.queue("killed")
    events = [detail_event(f"c{number}", "customer.start") for number in range(300)]
    server.send(url, *map(json.dumps, events))
    feed = {"kind": "eventbridge", "queue_url": url}
    path = configuration(tmp_path / "voicewatch.toml", {"feed": [feed], "state": {"dir": str(tmp_path / "state")}})
    journal = tmp_path / "state" / "journal"
    with running(tmp_path, "run", path, **AWS) as process:
        eventually(lambda: journal.exists() and len(journaled(journal)) >= 30, LONG_S)
        assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    with running(tmp_path, "run", path, **AWS) as process:
        eventually(lambda: server.count(url) == 0, LONG_S)
        assert process.stop() == 0, process.log
    assert journaled_ids(journal) == dict.fromkeys([event["id"] for event in events], 1)


def journaled(journal: Path) -> list[bytes]:
    """Return the frames that are in a journal while it is written."""
    lines = [line for segment in journal.glob("*.jsonl") for line in segment.read_bytes().splitlines()]
    return [line for line in lines if b'"frame":' in line]
