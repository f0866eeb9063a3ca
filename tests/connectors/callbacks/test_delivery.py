"""Callbacks arrive at least once, in order, only where they may go, and no receiver delays another."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
import time
from collections import defaultdict

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.outbox import Callback, Outbox
from connectors.callbacks.policy import (
    DeliveryPolicy,
)
from connectors.state.audit import AuditLog, read
from tests.support.callbacks import DEADLINE_S, FAST, SECRET, TLS, callback, eventually, insert, tls_server
from tests.support.receiver import Reply, ScriptedReceiver


def actions(tmp_path):
    return [(r["action"], r["id"], r["outcome"]) for r in read(tmp_path / "audit.jsonl")]


def test_a_callback_arrives_signed_and_is_audited(outbox, deliver, tmp_path):
    """The body arrives unchanged under its id with a signature that verifies, and log and outbox say delivered."""
    with ScriptedReceiver(secrets=[SECRET]) as receiver:
        insert(outbox, callback(1, receiver.url + "/alerts?t=1", body='{"é":1}'.encode()))
        deliver(secrets=[SECRET]).stop(DEADLINE_S)
        (got,) = receiver.received
    assert (got.path, got.id, got.body, got.verified) == ("/alerts?t=1", "id-1", '{"é":1}'.encode(), True)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == receiver.url.removeprefix("http://")
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
    assert outbox.counts() == {"pending": 0, "delivered": 1, "dead": 0}
    assert actions(tmp_path) == [("CALLBACK_DELIVERED", "id-1", "200 OK")]
    assert "/alerts" not in (tmp_path / "audit.jsonl").read_text()


def test_connections_are_kept_alive(outbox, deliver, receiver):
    """Two hundred callbacks need no more connections than the concurrency limit."""
    insert(outbox, *(callback(n, receiver.url, f"c{n}") for n in range(200)))
    deliver()
    peers = {r.peer for r in receiver.wait_for(200, DEADLINE_S)}
    assert len(peers) <= FAST.concurrency


def test_a_failing_receiver_is_tried_again_in_order(outbox, deliver, receiver, tmp_path):
    """Raised comes before resolved although raised needs three attempts; each failure is audited."""
    receiver.script("/a", [Reply(drop=True), Reply(503)])
    insert(outbox, callback(1, receiver.url + "/a"), callback(2, receiver.url + "/a"))
    deliver()
    got = receiver.wait_for(2, DEADLINE_S)
    assert [r.id for r in got] == ["id-1", "id-2"]
    eventually(lambda: outbox.counts()["delivered"] == 2)
    assert [a for a, *_ in actions(tmp_path)] == ["CALLBACK_FAILED"] * 2 + ["CALLBACK_DELIVERED"] * 2


def test_attempts_run_out_and_retry_sends_again(outbox, deliver, receiver, tmp_path):
    """After the last attempt it is dead and listed, the next goes, and a re-queued one is noticed by polling."""
    receiver.script("/a", [Reply(500)] * 3)
    insert(outbox, callback(1, receiver.url + "/a"), callback(2, receiver.url + "/a"))
    deliver()
    receiver.wait_for(1, DEADLINE_S)
    eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 1, "dead": 1})
    (dead,) = outbox.entries(["dead"])
    assert (dead.id, dead.attempts) == ("id-1", 3)
    assert dead.last_error == "500 Internal Server Error; attempt 3 was the last"
    elsewhere = Outbox(tmp_path / "outbox.sqlite3")
    elsewhere.retry(None)
    elsewhere.close()
    assert [r.id for r in receiver.wait_for(2, DEADLINE_S)] == ["id-2", "id-1"]


def test_retry_after_is_honoured_and_capped(outbox, deliver, receiver):
    """A wait that the receiver asks for is kept; an absurd one is cut to the cap."""
    receiver.script("/a", [Reply(429, headers={"Retry-After": "1"})])
    receiver.script("/b", [Reply(503, headers={"Retry-After": "99999"})])
    insert(outbox, callback(1, receiver.url + "/a"), callback(2, receiver.url + "/b", "d"))
    deliver(DeliveryPolicy(allow_private_addresses=True, retry_waits_s=(0.01,), retry_after_cap_s=1.5))
    receiver.wait_for(2, DEADLINE_S)
    times = {path: [r.at for r in receiver.received if r.path == path] for path in ("/a", "/b")}
    assert times["/a"][1] - times["/a"][0] >= 1.0
    assert 1.5 <= times["/b"][1] - times["/b"][0] < DEADLINE_S


def test_410_gives_the_receiver_up(outbox, deliver, receiver, tmp_path):
    """Nothing more is sent there, everything for it is dead-lettered with the reason; a re-queued one is tried."""
    receiver.script("/a", [Reply(410)])
    insert(outbox, *(callback(n, receiver.url + "/a") for n in range(3)), callback(9, receiver.url + "/b", "d"))
    deliver()
    eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 1, "dead": 3})
    assert [r.path for r in receiver.received].count("/a") == 1
    assert all("given up" in e.last_error for e in outbox.entries(["dead"]))
    outbox.retry(["id-2"])
    receiver.wait_for(2, DEADLINE_S)
    insert(outbox, callback(4, receiver.url + "/a"))
    receiver.wait_for(3, DEADLINE_S)


def test_a_redirect_is_not_followed(outbox, deliver, receiver):
    """The target hears nothing; the callback dies of its attempts."""
    receiver.script("/a", itertools.repeat(Reply(307, headers={"Location": receiver.url + "/inside"})))
    insert(outbox, callback(1, receiver.url + "/a"))
    deliver()
    eventually(lambda: outbox.counts()["dead"] == 1)
    assert {r.path for r in receiver.received} == {"/a"}
    assert "redirects are not followed" in outbox.show("id-1").last_error


def test_a_slow_receiver_delays_nobody_else(outbox, deliver, receiver):
    """With every slot of one receiver taken and a backlog behind it, another's callbacks pass at once."""
    receiver.script("/slow", itertools.repeat(Reply(delay_s=60.0)))
    insert(outbox, *(callback(n, receiver.url + "/slow", f"s{n}") for n in range(300)))
    deliver(DeliveryPolicy(timeout_s=30.0, allow_private_addresses=True))
    insert(outbox, *(callback(1000 + n, receiver.url + "/fast", f"f{n}") for n in range(50)))
    began = time.monotonic()
    receiver.wait_for(50, DEADLINE_S)
    assert time.monotonic() - began < 15.0


def test_a_dead_receiver_is_left_in_peace_and_catches_up_when_back(outbox, deliver, receiver):
    """While it is down only probes are made; when it is back, all arrive, raised before resolved."""
    down = threading.Event()
    replies = iter(lambda: Reply(200 if down.is_set() else 503), None)
    receiver.script("/a", replies)
    policy = DeliveryPolicy(
        allow_private_addresses=True, retry_waits_s=(0.5, 2.0, 8.0), breaker_base_s=0.2, max_attempts=20
    )
    insert(outbox, *(callback(10 * c + n, receiver.url + "/a", f"c{c}") for c in range(30) for n in (0, 1)))
    deliver(policy)
    receiver.wait_until(lambda got: len(got) >= 9, DEADLINE_S)
    assert len(receiver.received) < 30
    down.set()
    order = defaultdict(list)
    for got in receiver.wait_for(60, DEADLINE_S):
        number = int(got.id.removeprefix("id-"))
        order[number // 10].append(number % 10)
    assert all(numbers == [0, 1] for numbers in order.values())


def test_slow_answers_are_cut(outbox, deliver, receiver, tmp_path):
    """An answer that does not begin in time is a failure, and so is one that does not end."""
    receiver.script("/head", itertools.repeat(Reply(delay_s=60.0)))
    receiver.script("/body", [Reply(200, endless=True)])
    insert(outbox, callback(1, receiver.url + "/head"), callback(2, receiver.url + "/body", "d"))
    deliver(DeliveryPolicy(timeout_s=0.3, max_attempts=1, allow_private_addresses=True))
    eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 0, "dead": 2})
    assert outbox.show("id-1").last_error.startswith("timeout: no answer within 0.3 s")
    assert outbox.show("id-2").last_error.startswith("timeout: the answer did not end within 0.3 s")


def test_a_huge_body_or_head_is_not_read(outbox, deliver, receiver):
    """A body of many megabytes is dropped with its connection, and so is a huge head; both are failures."""
    receiver.script("/body", [Reply(200, body=b"x" * 8_000_000)])
    receiver.script("/head", [Reply(200, headers={"x": "x" * 60_000})])
    insert(outbox, callback(1, receiver.url + "/body"), callback(2, receiver.url + "/head", "d"))
    deliver(DeliveryPolicy(max_attempts=1, allow_private_addresses=True))
    eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 0, "dead": 2})
    assert outbox.show("id-1").last_error.startswith("protocol: an answer of more than 96 KiB")
    assert outbox.show("id-2").last_error.startswith("protocol")


def test_inside_addresses_are_refused(outbox, deliver, receiver):
    """Literal, odd spellings and names that resolve to loopback: dead at once with the reason, and nothing is sent."""
    port = receiver.url.rpartition(":")[2]
    hosts = ["127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "localhost", "rebound.example.test"]
    insert(outbox, *(callback(n, f"http://{h}:{port}/a", h) for n, h in enumerate(hosts)))

    def resolver(host, port):
        if host == "rebound.example.test":
            return ["127.0.0.1", "169.254.169.254"]
        return [str(a[4][0]) for a in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    deliver(DeliveryPolicy(), resolver=resolver)
    eventually(lambda: outbox.counts()["dead"] == len(hosts))
    assert receiver.received == []
    for entry in outbox.entries(["dead"]):
        assert "not on the public internet" in entry.last_error
        assert "allow_private_addresses" in entry.last_error


def test_the_connection_goes_to_the_address_that_was_checked(outbox, deliver, receiver):
    """The name is looked up once, the connection goes to that answer, and the receiver sees the name."""
    port = receiver.url.rpartition(":")[2]
    asked = []

    def resolver(host, port):
        asked.append((host, port))
        return ["127.0.0.1"]

    insert(outbox, *(callback(n, f"http://qa.example.test:{port}/a") for n in range(5)))
    deliver(resolver=resolver)
    got = receiver.wait_for(5, DEADLINE_S)
    assert asked == [("qa.example.test", int(port))]
    assert {r.headers["host"] for r in got} == {f"qa.example.test:{port}"}


def test_a_dead_first_address_does_not_hide_the_second(outbox, deliver, receiver):
    """When a host has several addresses, the next is tried in the same attempt."""
    port = receiver.url.rpartition(":")[2]
    insert(outbox, callback(1, f"http://qa.example.test:{port}/a"))
    deliver(resolver=lambda host, port: ["127.0.0.77", "127.0.0.1"])
    receiver.wait_for(1, DEADLINE_S)
    eventually(lambda: outbox.counts()["delivered"] == 1)
    assert outbox.show("id-1").attempts == 1


def test_tls_verifies_the_name_not_the_address(outbox, deliver):
    """A certificate for the name in the URL is accepted, one for another name and an unknown authority are not."""
    trusted = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    with tls_server() as (port, heads):
        insert(
            outbox,
            callback(1, f"https://qa.example.test:{port}/a", "right"),
            callback(2, f"https://other.example.test:{port}/a", "wrong"),
            callback(3, f"https://127.0.0.1:{port}/a", "address"),
        )
        policy = DeliveryPolicy(max_attempts=1, allow_private_addresses=True)
        first = deliver(policy, verify=trusted, resolver=lambda host, port: ["127.0.0.1"])
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 1, "dead": 2})
        first.stop(0.0)
        insert(outbox, callback(4, f"https://qa.example.test:{port}/a", "unknown authority"))
        deliver(policy, resolver=lambda host, port: ["127.0.0.1"])
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 1, "dead": 3})
    assert outbox.show("id-1").state == "delivered"
    assert all(e.last_error.startswith("tls: ") for e in outbox.entries(["dead"]))
    (head,) = heads
    assert head.lower().startswith(b"post /a http/1.1\r\nhost: qa.example.test:%d\r\n" % port)


def test_names_and_ports_that_lead_nowhere_are_failures(outbox, deliver):
    """A name that does not resolve, a closed port and an invalid URL each report their error."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    def resolver(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    urls = {
        "dns": "http://nowhere.example.test/a",
        "connect": f"http://127.0.0.1:{port}/a",
        "url": "ftp://127.0.0.1/a",
        "url: credentials": "http://user:pw@127.0.0.1/a",
    }
    insert(outbox, *(callback(n, url, kind) for n, (kind, url) in enumerate(urls.items())))
    deliver(DeliveryPolicy(max_attempts=1, allow_private_addresses=True), resolver=resolver)
    eventually(lambda: outbox.counts()["dead"] == len(urls))
    for entry in outbox.entries(["dead"]):
        assert entry.last_error.startswith(entry.conversation_id)


def test_a_hanging_resolver_delays_nobody_else(outbox, deliver, receiver):
    """Twenty names whose lookup hangs do not stop a callback to an address."""
    release = threading.Event()

    def resolver(host, port):
        release.wait(60.0)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    insert(outbox, *(callback(n, f"http://n{n}.example.test/a", f"n{n}") for n in range(20)))
    insert(outbox, callback(99, receiver.url + "/a", "z"))
    deliver(resolver=resolver)
    receiver.wait_for(1, DEADLINE_S)
    release.set()


def test_stop_drains_what_is_due_and_keeps_the_rest(outbox, deliver, receiver):
    """Due callbacks are sent, chained ones too; a hanging one is cut off and counts as not made."""
    receiver.script("/hang", itertools.repeat(Reply(delay_s=60.0)))
    insert(outbox, *(callback(n, receiver.url + "/a") for n in range(20)))
    deliver().stop(DEADLINE_S)
    assert outbox.counts() == {"pending": 0, "delivered": 20, "dead": 0}
    insert(outbox, callback(99, receiver.url + "/hang", "h"))
    delivery = deliver(DeliveryPolicy(timeout_s=60.0, allow_private_addresses=True))
    began = time.monotonic()
    delivery.stop(0.2)
    assert time.monotonic() - began < 10.0
    assert (outbox.show("id-99").state, outbox.show("id-99").attempts) == ("pending", 0)


def test_wake_sends_at_once(outbox, deliver, receiver):
    """New work need not wait for the poll."""
    delivery = deliver()
    for n in range(5):
        insert(outbox, callback(n, receiver.url))
        delivery.wake()
        receiver.wait_for(n + 1, DEADLINE_S)
    assert receiver.received[-1].at - receiver.received[0].at < 4.0


def test_an_unwritable_audit_log_pauses_delivery(outbox, receiver, tmp_path):
    """The results are kept until they can be written, and then everything goes on."""
    path = tmp_path / "state" / "audit.jsonl"
    path.mkdir(parents=True)
    delivery = Delivery(outbox, audit=AuditLog(path), policy=FAST)
    insert(outbox, callback(1, receiver.url), callback(2, receiver.url))
    delivery.start()
    receiver.wait_for(1, DEADLINE_S)
    path.rmdir()
    receiver.wait_for(2, DEADLINE_S)
    delivery.stop(DEADLINE_S)
    delivery.check()
    assert [r.id for r in receiver.received] == ["id-1", "id-2"]
    assert len(list(read(path))) == 2


def test_a_raised_callback_that_is_too_old_is_sent_as_one_with_its_resolve(outbox, deliver, receiver, tmp_path):
    """After an outage only the resolve of an old pair is sent; an old raised one whose incident is open is sent."""
    old = time.time() - 600.0
    pair = [
        Callback("a-1", "c", receiver.url, b"{}", incident="i-1"),
        Callback("a-2", "c", receiver.url, b"{}", incident="i-1", closes=True),
        Callback("b-1", "d", receiver.url, b"{}", incident="i-2"),
    ]
    outbox.insert(pair, old)
    fresh = [
        Callback("c-1", "e", receiver.url, b"{}", incident="i-3"),
        Callback("c-2", "e", receiver.url, b"{}", incident="i-3", closes=True),
    ]
    insert(outbox, *fresh)
    deliver(expire_after_s=300.0).stop(DEADLINE_S)
    assert sorted(r.id for r in receiver.received) == ["a-2", "b-1", "c-1", "c-2"]
    assert outbox.counts() == {"pending": 0, "delivered": 5, "dead": 0}
    assert ("CALLBACK_EXPIRED", "a-1", "sent_as_one") in actions(tmp_path)
