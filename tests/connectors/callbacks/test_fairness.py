"""A callback to a receiver that answers leaves at once, whatever other receivers do."""

from __future__ import annotations

import time

import pytest

from connectors.callbacks.delivery import Delivery
from connectors.callbacks.outbox import Outbox
from connectors.callbacks.policy import DeliveryPolicy
from tests.support.bad_receivers import bad_receivers
from tests.support.callbacks import DEADLINE_S, FAST, callback, eventually, insert


def policy(**changes):
    values = {"timeout_s": 5.0, "allow_private_addresses": True, "max_attempts": 50}
    return DeliveryPolicy(**(values | changes))


def test_hanging_receivers_do_not_delay_good_ones(outbox, deliver):
    """Of 200 receivers that hang and 200 that answer, with 8 callbacks each, all good callbacks arrive at once."""
    with bad_receivers() as there:
        deliver(policy(timeout_s=30.0))
        insert(outbox, *(callback(n, f"{there.url}/hang{n % 200}", f"h{n}") for n in range(1600)))
        insert(outbox, *(callback(10_000 + n, f"{there.url}/good{n % 200}", f"g{n}") for n in range(1600)))
        began = time.monotonic()
        eventually(lambda: there.count("/good") == 1600)
        assert time.monotonic() - began < 20.0  # long before the first of those that hang has timed out
        assert there.count("/hang") == 200


def test_good_receivers_find_a_connection_when_all_are_taken(outbox, deliver):
    """With 16 connections and 60 receivers that hang, 60 new good ones have their callback within a few seconds."""
    with bad_receivers() as there:
        deliver(policy(total=16, timeout_s=30.0, patience_s=0.2))
        insert(outbox, *(callback(n, f"{there.url}/hang{n}", f"h{n}") for n in range(60)))
        eventually(lambda: there.count("/hang") >= 8)
        insert(outbox, *(callback(1000 + n, f"{there.url}/good{n}", f"g{n}") for n in range(60)))
        eventually(lambda: there.count("/good") == 60, 15.0)
        began = time.monotonic()
        insert(outbox, *(callback(2000 + n, f"{there.url}/good{n % 60}", f"p{n}") for n in range(300)))
        eventually(lambda: there.count("/good") == 360)
        assert time.monotonic() - began < 10.0  # half of the connections are kept for those known to answer
        cut = [e.last_error or "" for e in outbox.entries(["pending"])]
    assert any("others needed the connection" in error for error in cut)


class SlowOutbox(Outbox):
    """An outbox on a disk that is busy."""

    def due(self, *arguments, **options):
        time.sleep(0.5)
        return super().due(*arguments, **options)

    def record_results(self, results):
        time.sleep(0.5)
        super().record_results(results)


def test_a_slow_disk_does_not_slow_the_search_for_a_connection(tmp_path):
    """Hanging receivers make room for good ones after `patience_s`, whatever time the outbox takes for its turns."""
    outbox = SlowOutbox(tmp_path / "outbox.sqlite3")
    delivery = Delivery(outbox, audit=None, policy=policy(total=16, timeout_s=60.0, patience_s=0.2))
    delivery.start()
    try:
        with bad_receivers() as there:
            insert(outbox, *(callback(n, f"{there.url}/hang{n}", f"h{n}") for n in range(60)))
            eventually(lambda: there.count("/hang") >= 8)
            insert(outbox, *(callback(1000 + n, f"{there.url}/good{n}", f"g{n}") for n in range(60)))
            eventually(lambda: there.count("/good") == 60, 10.0)  # 18 turns of the disk would take longer
    finally:
        delivery.stop(0.0)
        outbox.close()


def test_a_slow_receiver_has_more_time_after_each_attempt_that_made_room(outbox, deliver):
    """Where hanging receivers have 0.1 s each, one that answers after 0.5 s has its callback within a few attempts."""
    with bad_receivers() as there:
        deliver(policy(total=8, timeout_s=30.0, patience_s=0.1))
        hanging = (callback(n, f"{there.url}/hang{n}", f"h{n}") for n in range(12))
        insert(outbox, callback(1000, f"{there.url}/awhile", "s"), *hanging)
        eventually(lambda: outbox.counts()["delivered"] == 1, 14.0)  # the wait after a second failure is 15 s
        assert there.count("/awhile") > 1


@pytest.mark.parametrize("path", ["/flood100", "/flood103", "/chunks"])
def test_an_endless_answer_is_cut_and_delays_no_other(outbox, deliver, path):
    """A flood of interim answers or of tiny chunks is a failure, and good receivers do not notice."""
    with bad_receivers() as there:
        deliver(policy(max_attempts=1))
        insert(outbox, *(callback(n, there.url + path, f"h{n}") for n in range(4)))
        insert(outbox, *(callback(1000 + n, f"{there.url}/good{n}", f"g{n}") for n in range(100)))
        began = time.monotonic()
        eventually(lambda: there.count("/good") == 100)
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 100, "dead": 4})
        assert time.monotonic() - began < 12.0
        assert all(
            e.last_error.startswith("protocol: more than") or "body in more" in e.last_error
            for e in outbox.entries(["dead"])
        )


@pytest.mark.parametrize("path", ["/twice", "/late"])
def test_an_answer_that_no_request_asked_for_closes_the_connection(outbox, deliver, path):
    """A second answer is never taken for the answer to the next callback."""
    with bad_receivers() as there:
        deliver(FAST)
        for number in range(4):
            insert(outbox, callback(number, there.url + path))

            def delivered(wanted: int = number + 1) -> bool:
                return bool(outbox.counts()["delivered"] == wanted)

            eventually(delivered)
            if path == "/late":
                time.sleep(0.8)
        assert there.count(path) == 4
        assert there.connections[path] == 4


def test_a_receiver_that_is_back_gets_its_callbacks_at_once(outbox, deliver, receiver):
    """One success makes everything that waits for the receiver's next attempt due."""
    from tests.support.receiver import Reply

    receiver.script("/a", [Reply(503), Reply(503), Reply(200)])
    insert(outbox, *(callback(n, receiver.url + "/a", f"c{n}") for n in range(3)))
    deliver(policy(retry_waits_s=(3600.0,)))
    receiver.wait_for(3, DEADLINE_S)
