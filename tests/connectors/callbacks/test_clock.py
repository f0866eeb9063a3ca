"""Waits last as long as they should, whatever happens to the wall clock."""

from __future__ import annotations

import itertools
import time

from connectors.callbacks.model import AttemptResult, Callback
from connectors.callbacks.outbox import Outbox
from connectors.callbacks.policy import DeliveryPolicy
from connectors.runtime.timeline import Timeline
from tests.support.callbacks import DEADLINE_S, callback, eventually, insert
from tests.support.receiver import Reply

POLICY = DeliveryPolicy(allow_private_addresses=True, retry_waits_s=(0.3,), breaker_base_s=0.5, max_attempts=50)


class SteppingClock:
    """The wall clock, with steps."""

    def __init__(self):
        self.offset_s = 0.0

    def __call__(self):
        return time.time() + self.offset_s


def test_a_timeline_ignores_steps():
    """It follows the monotonic clock from the wall clock's time at the start."""
    wall, ticks = SteppingClock(), iter([100.0, 107.5])
    line = Timeline(wall, lambda: next(ticks))
    wall.offset_s = -3600.0
    assert abs(line() - (time.time() + 7.5)) < 1.0


def test_steps_of_the_clock_delay_no_retry_and_no_breaker(outbox, deliver, receiver):
    """With a breaker open and a retry waiting, a step of an hour in either direction changes nothing."""
    for step_s in (-3600.0, 3600.0):
        path, clock = f"/a{step_s:g}", SteppingClock()
        receiver.script(path, itertools.chain([Reply(503)] * 6, itertools.repeat(Reply(200))))
        outbox.insert([callback(n + int(step_s), receiver.url + path, f"{path}{n}") for n in range(8)], clock())
        before = len(receiver.received)
        delivery = deliver(POLICY, now=clock)
        receiver.wait_until(lambda got, n=before: len(got) >= n + 5, DEADLINE_S)
        clock.offset_s = step_s
        outbox.insert([callback(1000 + int(step_s), receiver.url + path, f"{path}new")], clock())
        eventually(lambda: outbox.counts()["pending"] == 0, 10.0)
        delivery.stop(1.0)


def test_a_retry_beyond_its_wait_is_brought_back_at_the_start(tmp_path, deliver, outbox, receiver):
    """A process that starts after the clock was set back by a year waits for 0.2 s, not for a year."""
    year_s = 365 * 86400.0
    insert(outbox, callback(1, receiver.url), callback(2, receiver.url, "d"))
    for number, conversation, wait_s in ((1, "c", 0.2), (2, "d", 5000.0)):
        at = time.time() + year_s + wait_s
        result = AttemptResult(callback(number, receiver.url, conversation), "pending", at, 1, "503", wait_s=wait_s)
        outbox.record_results([result])
    deliver(POLICY)
    receiver.wait_for(1, 5.0)
    assert outbox.show("id-2").due_at - time.time() < 5001.0


def test_a_clock_in_the_year_2100_costs_no_recent_id(outbox):
    """Ids of recent callbacks are kept whatever the clock says, so that a crash sends none twice."""
    insert(outbox, *(callback(n, "http://127.0.0.1:9", str(n)) for n in range(100)))
    outbox.record_results([AttemptResult(callback(n, "", str(n)), "delivered", 1.0, 1) for n in range(100)])
    assert outbox.prune(before=4_102_444_800.0) == 0
    assert outbox.insert([callback(5, "http://127.0.0.1:9", "5")], time.time()) == 0


def test_delivery_goes_on_after_a_restart_with_the_clock_set_back(tmp_path, receiver, audit):
    """Two processes with an hour between their clocks: what the first left behind is sent without that hour."""
    from connectors.callbacks.delivery import Delivery

    receiver.script("/a", [Reply(503)])
    ahead = SteppingClock()
    ahead.offset_s = 3600.0
    for clock, done in ((ahead, 0), (time.time, 1)):
        outbox = Outbox(tmp_path / "o.sqlite3")
        if not done:
            outbox.insert([callback(1, receiver.url + "/a")], clock())
        delivery = Delivery(outbox, audit=audit, policy=POLICY, now=clock)
        delivery.start()
        receiver.wait_until(lambda got, n=done: len(got) > n, 5.0)
        delivery.stop(0.05 if not done else 1.0)
        outbox.close()
    assert [r.status for r in receiver.received] == [503, 200]


def test_a_clock_that_is_set_forward_expires_no_young_callback(outbox, deliver, receiver):
    """A raised callback of a second ago is sent before its resolve, even if the clock says it is an hour old."""
    clock = SteppingClock()
    receiver.script("/a", [Reply(503)])
    outbox.insert([Callback("a-1", "c", receiver.url + "/a", b"{}", incident="i-1")], clock())
    deliver(POLICY, now=clock, expire_after_s=300.0)
    receiver.wait_until(lambda got: len(got) >= 1, DEADLINE_S)
    clock.offset_s = 3600.0
    outbox.insert([Callback("a-2", "c", receiver.url + "/a", b"{}", incident="i-1", closes=True)], clock())
    receiver.wait_for(2, DEADLINE_S)
    assert [request.id for request in receiver.received] == ["a-1", "a-1", "a-2"]
