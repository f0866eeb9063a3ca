"""The EventBridge feed on real sockets: what is acknowledged, refused, deduplicated and kept."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.genesys.feeds.base import FeedLimits, WatchRules
from connectors.genesys.feeds.eventbridge.feed import EventBridgeFeed
from connectors.genesys.feeds.eventbridge.http import HttpLimits
from connectors.genesys.feeds.eventbridge.recorder import REMEMBERED_EVENTS
from connectors.journal.events import recorded_event_ids
from connectors.journal.writer import Journal, Recorder
from tests.support.events import PRIVATE, detail_event, journaled_ids
from tests.support.names import KnownNames
from tests.support.tape import DEADLINE_S, Tape, until

KEY = "key-of-the-connection"
TLS = Path(__file__).parents[4] / "data" / "tls"
JSON = "application/json; charset=utf-8"


@contextmanager
def feeding(recorder: Recorder, *, keys: tuple[str, ...] = (KEY,), **options: Any) -> Iterator[EventBridgeFeed]:
    """A feed that runs."""
    feed = EventBridgeFeed(
        name="bus",
        listen=("127.0.0.1", 0),
        path="/events",
        header="X-Api-Key",
        keys=keys,
        recorder=recorder,
        limits=FeedLimits("bus"),
        **options,
    )
    feed.start()
    try:
        yield feed
    finally:
        feed.stop("test over", timeout_s=DEADLINE_S)
    assert not any(thread.name == "feed-bus" for thread in threading.enumerate())


def post(feed: EventBridgeFeed, content: Any, **headers: str) -> httpx.Response:
    """Post an event as an API destination does."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    url = f"http://127.0.0.1:{feed.address[1]}/events"
    return httpx.post(url, content=body, headers={"Content-Type": JSON, "X-Api-Key": KEY, **headers}, timeout=30)


def raw(feed: EventBridgeFeed, data: bytes) -> bytes:
    """Send bytes, and return everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", feed.address[1]), timeout=DEADLINE_S) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_events_are_recorded_and_watched() -> None:
    """A detail event is a frame, its conversation is watched with its labels, and personal data is dropped."""
    tape = Tape()
    with feeding(tape) as feed:
        start = detail_event("c1", "customer.start", queueId="q1")
        assert post(feed, start).status_code == 200
        assert post(feed, detail_event("c1", "customer.end", participantId="p")).status_code == 200
    watch, *_ = tape.of("watch")
    assert (watch["conversation_id"], watch["feed"], watch["labels"]["queue"]) == ("c1", "bus", "q1")
    first, last = tape.of("frame")
    assert first["id"] == start["id"]
    assert last["detail"]["topicName"].endswith(".customer.end")
    assert PRIVATE not in json.dumps(tape.of("frame"))
    assert tape.states() == ["up", "down"]


def test_labels_have_the_names_that_are_looked_up() -> None:
    """The ids of the labels of a first event are replaced as soon as their names are found, without another event."""
    names = KnownNames({("queue", "q1"): "Support", ("agent", "u1"): "Ada Abel"})
    tape = Tape()
    rules = WatchRules(match={"queue": ("Support",)})
    with feeding(tape, names=names, rules=rules) as feed:
        assert post(feed, detail_event("c1", "user.start", queueId="q1", userId="u1")).status_code == 200
        assert not tape.watched_by("bus")  # until the name tells whether it is to be watched
        names.find()
        until(lambda: tape.watched_by("bus") == ["c1"])
    assert tape.of("watch")[0]["labels"] == {"queue": "Support", "agent": "Ada Abel"}


def test_keep_raw_keeps_everything() -> None:
    """With `keep_raw` an event is recorded whole, with its id in front."""
    tape = Tape()
    with feeding(tape, keep_raw=True) as feed:
        post(feed, detail_event("c1", "customer.start"))
    (frame,) = tape.of("frame")
    assert next(iter(frame)) == "id"
    assert frame["detail"]["eventBody"]["ani"] == PRIVATE


def test_an_event_is_recorded_once(tmp_path: Path) -> None:
    """An event that is sent again is acknowledged and not recorded, also by the next run of the same journal."""
    events = [detail_event(f"c{number}", "customer.start") for number in range(3)]
    without_id = {key: value for key, value in events[0].items() if key != "id"}
    for run in range(2):
        journal = Journal(tmp_path, settings={})
        known = recorded_event_ids(tmp_path, "bus", REMEMBERED_EVENTS)
        assert len(known) == (4 if run else 0)
        with feeding(journal.recorder("bus"), known=known) as feed:
            for event in [*events, without_id, *events]:
                assert post(feed, event).status_code == 200
            assert feed.duplicates == (7 if run else 3)
            assert feed.figures() == {"duplicates": feed.duplicates}
        journal.close()
    assert list(journaled_ids(tmp_path).values()) == [1, 1, 1, 1]


def test_ids_of_other_feeds_are_not_ours(tmp_path: Path) -> None:
    """Two feeds may receive the same event; each knows only what it wrote."""
    journal = Journal(tmp_path, settings={})
    journal.recorder("a.b").frame(b'{"id":"e1","detail-type":"t","detail":{}}')
    journal.recorder("aXb").frame(b'{"id":"e2","detail-type":"t","detail":{}}')
    journal.close()
    assert recorded_event_ids(tmp_path, "a.b", 10) == ["e1"]


def test_acknowledged_means_on_the_disk(tmp_path: Path) -> None:
    """No answer is given before the sync that follows the record has ended."""
    synced, may_sync = threading.Event(), threading.Event()

    class Slow(Journal):
        def sync(self) -> None:
            assert may_sync.wait(DEADLINE_S)
            super().sync()
            synced.set()

    journal = Slow(tmp_path, settings={})
    statuses: list[bool] = []
    with feeding(journal) as feed:  # type: ignore[arg-type]

        def send() -> None:
            assert post(feed, detail_event("c1", "customer.start")).status_code == 200
            statuses.append(synced.is_set())

        clients = [threading.Thread(target=send) for _ in range(5)]
        for client in clients:
            client.start()
        until(lambda: journal.messages[None, "frame"] == 5)
        assert statuses == []
        may_sync.set()
        for client in clients:
            client.join(DEADLINE_S)
    journal.close()
    assert statuses == [True] * 5


def test_a_full_disk_ends_the_feed() -> None:
    """An event that cannot be recorded is not acknowledged, and the feed fails with the reason."""
    with feeding(Tape(full_after=0)) as feed:  # type: ignore[arg-type]
        with pytest.raises(httpx.TransportError):
            post(feed, detail_event("c1", "customer.start"))
        until(lambda: feed.failure is not None)
        assert isinstance(feed.failure, OSError)


@pytest.mark.parametrize(
    ("key", "status"), [(KEY, 200), ("other-key-of-the-connection", 200), (KEY + "x", 401), ("", 401), ("é", 401)]
)
def test_keys(key: str, status: int) -> None:
    """Each of several keys is accepted, and no other."""
    with feeding(Tape(), keys=(KEY, "other-key-of-the-connection")) as feed:  # type: ignore[arg-type]
        headers = {"Content-Type": JSON, "X-Api-Key": key.encode("latin-1")}
        body = json.dumps(detail_event("c1", "customer.start")).encode()
        url = f"http://127.0.0.1:{feed.address[1]}/events"
        assert httpx.post(url, content=body, headers=headers).status_code == status  # type: ignore[arg-type]


def test_refused_requests() -> None:
    """What is not a POST of JSON to the path is refused by its head; nothing of it is recorded."""
    tape = Tape()
    with feeding(tape, keys=()) as feed:
        base = f"http://127.0.0.1:{feed.address[1]}"
        assert httpx.get(f"{base}/events").status_code == 405
        assert httpx.post(f"{base}/", json={}).status_code == 404
        assert httpx.post(f"{base}/events", content=b"{}").status_code == 415
        assert httpx.post(f"{base}/events", data={"a": "b"}).status_code == 415
    assert tape.of("frame") == tape.of("invalid") == []


def test_what_is_not_an_event() -> None:
    """It is answered with 400, which EventBridge does not retry, and recorded without its text."""
    tape = Tape()
    with feeding(tape) as feed:
        for body in (b"", b"nonsense " + PRIVATE.encode(), b"[]", b'{"a":1}', b"[1]", b'{"Body":"x"}'):
            assert post(feed, body).status_code == 400
        mixed = post(feed, [detail_event("c1", "customer.start"), {"a": 1}])
        assert (mixed.status_code, mixed.text) == (200, "recorded 1, known 0, invalid 1\n")
    assert len(tape.of("invalid")) == 7
    assert PRIVATE not in str(tape.of("invalid"))


def test_an_event_that_is_nested_too_deeply() -> None:
    """It is recorded as invalid, alone and among others, and the feed goes on."""
    tape = Tape()
    with feeding(tape) as feed:
        event = json.dumps(detail_event("c1", "customer.start"))
        deep = event[:-1] + ',"x":' + "[" * 300 + f'"{PRIVATE}"' + "]" * 300 + "}"
        assert post(feed, f"[{deep}]".encode()).status_code == 400
        mixed = post(feed, f"[{event},{deep}]".encode())
        assert (mixed.status_code, mixed.text) == (200, "recorded 1, known 0, invalid 1\n")
        assert post(feed, deep.encode()).status_code == 200  # its event is known
        assert post(feed, detail_event("c2", "customer.start")).text == "recorded 1, known 0, invalid 0\n"
    assert [reason for _, reason in tape.of("invalid")] == ["not an event: it is nested too deeply"] * 2
    assert PRIVATE not in str(tape.of("invalid"))


def test_wrapped_events() -> None:
    """The body of an SQS message, or of an SNS notification, is unwrapped."""
    tape = Tape()
    event = detail_event("c1", "customer.start")
    with feeding(tape) as feed:
        assert post(feed, {"Body": json.dumps({"Message": json.dumps(event)})}).text.startswith("recorded 1")
        assert post(feed, event).text.startswith("recorded 0, known 1")
    assert [frame["id"] for frame in tape.of("frame")] == [event["id"]]


def test_large_requests() -> None:
    """A body or a head above the limit is refused without being read."""
    with feeding(Tape(), http=HttpLimits(1000)) as feed:  # type: ignore[arg-type]
        head = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nX-Api-Key: {KEY}\r\n"
        assert raw(feed, f"{head}Content-Length: 1001\r\n\r\n".encode()).startswith(b"HTTP/1.1 413 ")
        chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n"
        assert raw(feed, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk).startswith(b"HTTP/1.1 413 ")
        assert raw(feed, head.encode() + b"X-Long: " + b"x" * 20_000).startswith(b"HTTP/1.1 431 ")
        assert raw(feed, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert post(feed, b"{}").status_code == 400


def test_slow_clients() -> None:
    """A connection that sends nothing, or a request that does not end, is closed."""
    with feeding(Tape(), http=HttpLimits(1000, idle_s=0.05, request_s=0.05)) as feed:  # type: ignore[arg-type]
        assert raw(feed, b"") == b""
        begun = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nX-Api-Key: {KEY}\r\n"
        assert raw(feed, begun.encode()) == b""
        assert raw(feed, f"{begun}Content-Length: 10\r\n\r\n{{".encode()) == b""


def test_many_connections() -> None:
    """At the limit, the oldest connection without the key is closed, and none with it."""
    with feeding(Tape(), max_connections=3) as feed, httpx.Client() as client:
        address = ("127.0.0.1", feed.address[1])
        url, headers = f"http://127.0.0.1:{feed.address[1]}/events", {"X-Api-Key": KEY}
        assert client.post(url, json=detail_event("c1", "customer.start"), headers=headers).status_code == 200
        crowd = [socket.create_connection(address, timeout=DEADLINE_S) for _ in range(4)]
        assert [other.recv(1) for other in crowd[:2]] == [b"", b""]
        answer = client.post(url, json=detail_event("c2", "customer.start"), headers=headers)
        assert answer.status_code == 200
        for other in crowd:
            other.close()


def test_pipelined_and_awaited_requests() -> None:
    """Requests that arrive together are answered in order; a client may wait for the answer 100."""
    tape = Tape()
    with feeding(tape) as feed:
        head = f"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nX-Api-Key: {KEY}\r\n"
        bodies = [json.dumps(detail_event(f"c{number}", "customer.start")) for number in range(2)]
        one, two = (f"Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies)
        answers = raw(feed, f"{head}{one}{head}Connection: close\r\n{two}".encode())
        assert answers.count(b"HTTP/1.1 200 ") == 2
        asked = raw(feed, f"{head}Expect: 100-continue\r\nConnection: close\r\n{one}".encode())
        assert b"HTTP/1.1 200 " in asked
    assert [frame["detail"]["eventBody"]["conversationId"] for frame in tape.of("frame")] == ["c0", "c1"]


def test_tls() -> None:
    """Events arrive over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "server.pem")
    tape = Tape()
    trusting = ssl.create_default_context(cafile=TLS / "ca.pem")
    with feeding(tape, tls=context) as feed, httpx.Client(verify=trusting) as client:
        url = f"https://127.0.0.1:{feed.address[1]}/events"
        name = {"sni_hostname": "qa.example.test"}
        event = detail_event("c1", "customer.start")
        assert client.post(url, json=event, headers={"X-Api-Key": KEY}, extensions=name).status_code == 200
    assert len(tape.of("frame")) == 1


def test_an_address_that_is_taken() -> None:
    """The feed fails with the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        feed = EventBridgeFeed(
            name="bus",
            listen=taken.getsockname(),
            path="/events",
            header="X-Api-Key",
            keys=(),
            recorder=Tape(),  # type: ignore[arg-type]
            limits=FeedLimits("bus"),
        )
        feed.start()
        assert "choose another [[feed]] listen" in str(feed.failure)
        feed.stop()
