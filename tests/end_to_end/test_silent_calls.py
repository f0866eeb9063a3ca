"""A call whose end never comes, over a live feed: its watch ends, and goes on with the next message."""

from __future__ import annotations

import time
from pathlib import Path

from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running as serving
from tests.connectors.genesys.feeds.notifications.test_legs import CALL, detail, leg, snapshot
from tests.end_to_end.test_three_queues import check_replay, config, journal, lines
from tests.support.cli import running
from tests.support.tape import until

FORGET_AFTER_S = 3


def test_a_call_that_is_silent_for_too_long(tmp_path: Path) -> None:
    """Its incident is resolved as `silent`, the audit log says so, and a replay of the journal agrees."""
    watch = {"mode": "discover", "forget_after_s": FORGET_AFTER_S}
    feed = {"kind": "notifications", "name": "desk", "queues": ["q"]}
    with serving(NotificationsSimulator(calls=False)) as simulator:
        path = config(tmp_path, simulator.base_url, ("queue",), feed=[feed], watch=watch)

        def publish(message: dict[str, object]) -> None:
            assert simulator.publish(str(message["topicName"]), message["eventBody"])

        def has_details() -> bool:
            return any(CALL in topic for channel in simulator.connected for topic in channel.topics)

        def audited(action: str) -> list[str]:
            return [one["outcome"] for one in lines(tmp_path / "state" / "audit.jsonl") if one["action"] == action]

        with running(tmp_path, "run", path) as process:
            process.wait_for_log("feed_changed")
            until(lambda: simulator.connected and simulator.connected[0].topics)
            publish(snapshot(leg("c", "customer", time.time()), leg("a1", "agent", time.time())))
            until(has_details)
            publish(detail("flow.start", "x", time.time() - 2))  # which is late: an incident
            until(lambda: audited("WATCH_ENDED") == ["silent"])
            publish(detail("flow.end", "x", time.time()))
            until(lambda: sum("watch" in record for record in journal(tmp_path)) == 2)
            assert process.stop() == 0, process.log
    states = [(one["state"], one["reason"]) for one in lines(tmp_path / "state" / "alerts.jsonl")]
    assert states == [("raised", None), ("resolved", "silent")]
    check_replay(tmp_path)
