"""Names of queues, users and divisions: looked up once, kept, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, RequestBudget
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.names import NameBook, Names, NameTiming
from connectors.genesys.simulator.connection import Answer
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.organisation import FIRST_AGENT_ID, FIRST_QUEUE_ID
from connectors.genesys.simulator.server import running as running_sim
from tests.support.tape import until

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def simulator() -> Iterator[NotificationsSimulator]:
    """Yield a simulator with an organisation."""
    with running_sim(NotificationsSimulator(conversations=1)) as simulator:
        yield simulator


@contextmanager
def book(simulator: NotificationsSimulator, path: Path, **options: Any) -> Iterator[NameBook]:
    """Run a name book over a simulator."""
    endpoints = Endpoints.from_base_url(simulator.base_url)
    tokens = TokenProvider(endpoints, Credentials("id", "secret"))
    names = NameBook(path, endpoints, tokens, options.pop("budget", RequestBudget()), **options)
    names.start()
    try:
        yield names
    finally:
        names.stop()
        tokens.close()
    assert names.failure is None


def found(names: Names, label: str, value: str) -> str:
    """Return the name for a value once it is no longer pending."""
    names.name_of(label, value)
    until(lambda: not names.is_pending(label, value))
    return names.name_of(label, value)


def test_names_are_looked_up_once_and_kept(simulator: NotificationsSimulator, tmp_path: Path) -> None:
    """Ids of queues, users, divisions and edges get their names, in one request each; a second run asks for none."""
    division, edge = simulator.traffic.book.organisation.divisions[1], simulator.traffic.book.organisation.edges[1]
    ids = {"queue": FIRST_QUEUE_ID, "agent": FIRST_AGENT_ID, "division": division.id, "edge": edge.id}
    names = {"queue": "Support", "agent": "Ada Abel", "division": division.name, "edge": edge.name}
    kinds = ("queues", "users", "divisions", "edges")
    with book(simulator, tmp_path / "names.json") as one:
        assert {label: one.name_of(label, id_) for label, id_ in ids.items()} == ids
        one.wait_for(ids.items(), 20.0)
        assert {label: one.name_of(label, id_) for label, id_ in ids.items()} == names
    assert [simulator.requests[kind] for kind in kinds] == [1, 1, 1, 1]
    with book(simulator, tmp_path / "names.json") as two:
        assert {label: two.name_of(label, id_) for label, id_ in ids.items()} == names
    assert [simulator.requests[kind] for kind in kinds] == [1, 1, 1, 1]


def test_many_ids_are_one_request(simulator: NotificationsSimulator, tmp_path: Path) -> None:
    """Ids that are wanted at the same time are asked for together; those without a name are not asked for again."""
    agents = simulator.traffic.book.organisation.agents
    path = tmp_path / "names.json"
    endpoints = Endpoints.from_base_url(simulator.base_url)
    names = NameBook(path, endpoints, TokenProvider(endpoints, Credentials("id", "secret")), RequestBudget())
    for id_ in [*(agent.id for agent in agents), UNKNOWN_ID]:
        names.name_of("agent", id_)
    names.start()
    assert [found(names, "agent", agent.id) for agent in agents] == [agent.name for agent in agents]
    assert found(names, "agent", UNKNOWN_ID) == UNKNOWN_ID
    names.stop()
    assert simulator.requests["users"] == 1


def test_values_that_are_no_ids_are_left_alone(simulator: NotificationsSimulator, tmp_path: Path) -> None:
    """A name, another label and an id of another form are never looked up."""
    with book(simulator, tmp_path / "names.json") as names:
        for label, value in (("queue", "Support"), ("provider", FIRST_QUEUE_ID), ("agent", "")):
            assert names.name_of(label, value) == value
            assert not names.is_pending(label, value)


def test_a_missing_permission_is_one_warning_and_the_rest_goes_on(
    simulator: NotificationsSimulator, tmp_path: Path
) -> None:
    """After a 403 for users, users keep their ids and are not asked for again; queues get their names."""
    refusal = Answer(403, {"message": "missing permission", "code": "missing.permissions", "status": 403})
    simulator.script("users", refusal)
    with capture_logs() as logs, book(simulator, tmp_path / "names.json") as names:
        assert found(names, "agent", FIRST_AGENT_ID) == FIRST_AGENT_ID
        assert found(names, "queue", FIRST_QUEUE_ID) == "Support"
        other = simulator.traffic.book.organisation.agents[1].id
        assert names.name_of("agent", other) == other
        assert not names.is_pending("agent", other)
    assert simulator.requests["users"] == 1
    [warning] = [one for one in logs if one["event"] == "names_not_permitted"]
    assert (warning["label"], "403" in warning["reason"]) == ("agent", True)


def test_a_failure_holds_requests_back_for_a_while(simulator: NotificationsSimulator, tmp_path: Path) -> None:
    """After an answer that is an error, ids stay for the hold time, and are looked up after it."""
    simulator.script("queues", Answer(400, {"message": "no", "code": "bad.request", "status": 400}))
    now = [1000.0]
    clock = Clock(monotonic=lambda: now[0])
    with book(simulator, tmp_path / "names.json", clock=clock, timing=NameTiming(hold_s=60.0)) as names:
        assert found(names, "queue", FIRST_QUEUE_ID) == FIRST_QUEUE_ID
        now[0] += 59.0
        assert found(names, "queue", FIRST_QUEUE_ID) == FIRST_QUEUE_ID
        assert simulator.requests["queues"] == 1
        now[0] += 1.0
        assert found(names, "queue", FIRST_QUEUE_ID) == "Support"


def test_the_request_budget_is_kept(simulator: NotificationsSimulator, tmp_path: Path) -> None:
    """Without a request left in the minute, nothing is asked for, and a stop does not wait."""
    budget = RequestBudget(10, now=lambda: 0.0)
    for _ in range(10):
        budget.spend()
    with book(simulator, tmp_path / "names.json", budget=budget) as names:
        names.name_of("queue", FIRST_QUEUE_ID)
        names.wait_for([("queue", FIRST_QUEUE_ID)], 0.2)
        assert names.is_pending("queue", FIRST_QUEUE_ID)
    assert simulator.requests["queues"] == 0


@pytest.mark.parametrize("content", ["", "[]", '{"names": 5}', "{" * 5000])
def test_a_damaged_file_is_a_warning(simulator: NotificationsSimulator, tmp_path: Path, content: str) -> None:
    """Names of a file that cannot be read are looked up again, and the file is replaced."""
    path = tmp_path / "names.json"
    path.write_text(content)
    with capture_logs() as logs, book(simulator, path) as names:
        assert found(names, "queue", FIRST_QUEUE_ID) == "Support"
    assert [one["event"] for one in logs].count("names_unreadable") == 1
    assert json.loads(path.read_text())["names"]["queue"] == {FIRST_QUEUE_ID: "Support"}
    assert path.stat().st_mode & 0o777 == 0o600
