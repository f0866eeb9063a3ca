"""A receiver that asks for fewer requests gets them at its pace, and no message dies of that."""

from __future__ import annotations

import time
from typing import Any

import pytest

from connectors.callbacks.outbox import Outbox
from connectors.callbacks.pace import Pace, is_throttled
from connectors.callbacks.policy import DeliveryPolicy, Outcome
from connectors.callbacks.targets import Target, callback_of, route_of
from tests.connectors.callbacks.targets.test_targets import RAISED
from tests.support import vendors
from tests.support.callbacks import DEADLINE_S, eventually, insert
from tests.support.vendors import TEAMS_429, Answer, serving

ASKED = Outcome(status=429)
WELL = Outcome(status=200)


def test_attempts_begin_at_once_until_the_receiver_asks_for_fewer() -> None:
    """Other failures do not change the pace: the breaker is for them."""
    pace = Pace()
    for outcome in (WELL, Outcome(status=503), Outcome(failure="timeout")):
        pace = pace.begun(1.0).after(outcome, began=1.0, now=2.0)
        assert pace.admits(2.0, in_flight=7)
    assert is_throttled(Outcome(status=TEAMS_429.status, body=TEAMS_429.body))


def test_a_gap_grows_with_each_question_and_shrinks_with_each_success() -> None:
    """One at a time, a second apart, then two; answers to what was under way together count as one."""
    pace = Pace().after(ASKED, began=0.0, now=1.0)
    pace = pace.after(ASKED, began=0.0, now=1.1)
    assert (pace.gap_s, pace.next_at) == (1.0, 2.1)
    assert not pace.admits(2.0, in_flight=0)
    assert pace.admits(2.1, in_flight=0)
    assert not pace.admits(2.1, in_flight=1)
    pace = pace.begun(2.1).after(ASKED, began=2.1, now=2.2)
    assert (pace.gap_s, pace.next_at) == (2.0, 4.2)
    for _ in range(40):
        pace = pace.after(WELL, began=5.0, now=5.0)
    assert pace.admits(5.0, in_flight=7)
    for at in range(20):
        pace = pace.after(ASKED, began=10.0 * at, now=10.0 * at)
    assert pace.gap_s == 60.0
    assert pace.after(WELL, began=300.0, now=300.0).gap_s == 10.0


def test_retry_after_is_a_pause_and_not_the_pace() -> None:
    """A service that is closed for an hour gets its messages in seconds afterwards."""
    pace = Pace().after(Outcome(status=429, retry_after_s=3600.0), began=0.0, now=0.0)
    assert (pace.next_at, pace.gap_s) == (3600.0, 1.0)
    assert pace.begun(3600.0).next_at == 3601.0


@pytest.mark.parametrize("refusal", [Answer(429, "rate_limited", {"Retry-After": "1"}), Answer(429), TEAMS_429])
def test_a_burst_reaches_a_service_that_takes_two_a_second(outbox: Outbox, deliver: Any, refusal: Answer) -> None:
    """Ten messages with three attempts each arrive; sent together again and again, most of them were dead."""
    taken: list[float] = []

    def judge(path: str, headers: dict[str, str], body: bytes) -> Answer:
        if taken and time.monotonic() < taken[-1] + 0.5:
            return refusal
        taken.append(time.monotonic())
        return vendors.teams(path, headers, body)

    with serving(judge) as vendor:
        target = Target("t", "teams", vendor.url + "/workflows/x", allow_private_addresses=True)
        alerts = [{**RAISED, "alertId": f"a{n}", "conversationId": f"c{n}"} for n in range(10)]
        insert(outbox, *(callback_of(target, alert, b"{}", "warning") for alert in alerts))
        policy = DeliveryPolicy(max_attempts=3, retry_waits_s=(0.1,))
        deliver(policy, routes={target.key: route_of(target)})
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 10, "dead": 0}, DEADLINE_S)
    assert len(vendor.refused) < 30


def test_a_burst_reaches_a_service_through_apprise(outbox: Outbox, deliver: Any) -> None:
    """The library does not say why a service refused, so that each refusal counts as a request for fewer."""
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    taken: list[float] = []

    def judge(path: str, headers: dict[str, str], body: bytes) -> Answer:
        if taken and time.monotonic() < taken[-1] + 0.5:
            return Answer(429)
        taken.append(time.monotonic())
        return Answer(200)

    with serving(judge) as service:
        target = Target("t", "apprise", service.url.replace("http://", "json://"))
        alerts = [{**RAISED, "alertId": f"a{n}", "conversationId": f"c{n}"} for n in range(10)]
        insert(outbox, *(callback_of(target, alert, b"{}", "warning") for alert in alerts))
        policy = DeliveryPolicy(timeout_s=30.0, max_attempts=3, retry_waits_s=(0.1,))
        deliver(policy, routes={target.key: route_of(target)})
        eventually(lambda: outbox.counts() == {"pending": 0, "delivered": 10, "dead": 0}, DEADLINE_S)
