"""Media statistics of calls that go on: differences of readings, each source apart, within the budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import GenesysClient, RequestBudget, RetryPolicy
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.notifications.statistics import Differences, StatisticsPoller, StatisticsTiming
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from tests.support.tape import Tape, until

POLICY = RetryPolicy(timeout_s=5, attempts=1, base_s=0.001, cap_s=0.01)


def reading(second: int, received: int, source: str = "Client", *, session: str = "s", **rtp: Any) -> dict[str, Any]:
    values = {
        "packetsReceived": received,
        "packetsSent": 50 * second,
        "estimatedAverageMos": 4.2,
        "averageJitter": 0.004,
    }
    statistics = {
        "sourceType": source,
        "station": {"id": "st"},
        "user": {"id": "u", "name": "A Name"},
        "rtp": values | rtp,
        "dateCreated": f"2026-01-01T00:00:{second:02}Z",
    }
    return {"communicationId": session, "mediaStatistics": [statistics]}


def differences(*answers: list[dict[str, Any]]) -> list[tuple[str, int, int, float]]:
    found, seen = Differences(), []
    for entities in answers:
        for record in found.records("c", {"entities": entities}):
            statistics = record["mediaStatistics"]
            counts = statistics["packetsReceived"], statistics["packetsSent"], statistics["seconds"]
            seen.append((record["source"], *counts))
            assert "A Name" not in str(record)
    return seen


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param(
            [[reading(10, 500)], [reading(20, 990)]], [("client", 490, 500, 10.0)], id="the documented example"
        ),
        pytest.param([[reading(10, 500)]], [], id="the first is a baseline"),
        pytest.param([[reading(10, 500)], [reading(10, 500)]], [], id="the same reading again"),
        pytest.param(
            [[reading(10, 500)], [reading(5, 250)], [reading(15, 750)]],
            [("client", 250, 250, 5.0)],
            id="an older one is passed over",
        ),
        pytest.param(
            [[reading(10, 500)], [reading(20, 20)], [reading(25, 270)]],
            [("client", 250, 250, 5.0)],
            id="lower counters are a baseline",
        ),
        pytest.param(
            [[reading(10, 500), reading(10, 480, "Server")], [reading(15, 750), reading(15, 720, "Server")]],
            [("client", 250, 250, 5.0), ("server", 240, 250, 5.0)],
            id="sources apart",
        ),
        pytest.param(
            [[reading(10, 500)], [reading(15, 750, session="other")], [reading(20, 990)]],
            [("client", 490, 500, 10.0)],
            id="communications apart",
        ),
        pytest.param([[reading(10, 500, "Edge")], [reading(20, 600, "Edge")]], [], id="an unknown source"),
        pytest.param([[reading(10, 500)], [{"mediaStatistics": [5, {"rtp": None}]}, 7]], [], id="strange values"),  # type: ignore[list-item]
    ],
)
def test_differences(answers: list[list[dict[str, Any]]], expected: list[tuple[str, int, int, float]]) -> None:
    """Between two readings of one communication and source, and never between others."""
    assert differences(*answers) == expected


def test_other_conversations_are_forgotten() -> None:
    """One that is not watched any more begins with a baseline."""
    found = Differences()
    assert list(found.records("c", {"entities": [reading(10, 500)]})) == []
    found.keep_only(["d"])
    assert list(found.records("c", {"entities": [reading(20, 990)]})) == []


@contextmanager
def polling(simulator: NotificationsSimulator, tape: Any, budget: RequestBudget) -> Iterator[StatisticsPoller]:
    """A poller that runs."""
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "secret"), policy=POLICY)
    client = GenesysClient(endpoints, tokens, policy=POLICY)
    poller = StatisticsPoller(client, tape, budget, name="calls", timing=StatisticsTiming(interval_s=0.01))
    poller.start()
    try:
        yield poller
    finally:
        poller.stop(15)
        tokens.close()
    assert poller.failure is None


def test_watched_calls_of_the_simulator_are_polled() -> None:
    """Those of this feed, until they end; a call that Genesys does not know, and a refusal, are passed over."""
    began, ahead_s = 1_767_225_600.0, [30.0]
    tape = Tape()
    with running(NotificationsSimulator(conversations=4, now=lambda: began + ahead_s[0])) as simulator:
        calls = sorted(simulator.traffic.book.calls, key=lambda call: call.id)
        for call in calls:
            call.began_at = began
        watched = [call.id for call in calls[:2]]
        for id_ in (*watched, "unknown"):
            tape.watch({"conversation_id": id_, "feed": "calls"})
        tape.watch({"conversation_id": calls[2].id, "feed": "another"})
        simulator.script("mediastatistics", Answer(503, {}))
        with polling(simulator, tape, RequestBudget(100_000)):
            simulator.wait_for(lambda s: s.requests["mediastatistics"] >= 9)
            ahead_s[0] = 45.0
            tape.wait_for(lambda tape: {frame["conversationId"] for frame in tape.of("frame")} == set(watched))
    records = tape.of("frame")
    assert {record["source"] for record in records} <= {"client", "server"}
    assert all(0 < record["mediaStatistics"]["seconds"] <= 15 for record in records)
    assert all(0 < record["mediaStatistics"]["packetsReceived"] <= 750 for record in records)


def test_statistics_that_are_not_permitted_are_logged_once_and_not_asked_for_again() -> None:
    """The thread ends without a failure; another call that is watched is not asked about either."""
    tape = Tape()
    for id_ in ("a", "b"):
        tape.watch({"conversation_id": id_, "feed": "calls"})
    with capture_logs() as logs, running(NotificationsSimulator(calls=False)) as simulator:
        simulator.script("mediastatistics", Answer(403, {"message": "no", "status": 403}))
        with polling(simulator, tape, RequestBudget(100_000)):
            until(lambda: not any(one.name == "statistics-calls" for one in threading.enumerate()))
        assert simulator.requests["mediastatistics"] == 1
    [warning] = [one for one in logs if one["log_level"] == "warning"]
    assert (warning["event"], warning["worker"]) == ("worker_not_permitted", "statistics-calls")


def test_no_request_is_made_without_budget() -> None:
    """A stop ends the wait."""
    budget, tape = RequestBudget(), Tape()
    budget.hold(3600)
    tape.watch({"conversation_id": "c", "feed": "calls"})
    with running(NotificationsSimulator(calls=False)) as simulator:
        with polling(simulator, tape, budget):
            assert budget.wait_s(60) > 3000
        assert simulator.requests["mediastatistics"] == 0
