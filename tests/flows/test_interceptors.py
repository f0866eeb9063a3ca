"""The calls that the load check lists, as discovery gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import RequestBudget
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.entities import ActiveConversation
from connectors.genesys.names import NameBook
from connectors.genesys.simulator.notifications import NotificationsSimulator
from connectors.genesys.simulator.server import running
from connectors.state.audit import AuditLog
from connectors.state.interceptors import InterceptorRegistry
from flows.interceptors import DiscoveredInterceptors, InterceptorCreator
from flows.settings.models import Settings


class Listing:
    """A platform that lists calls."""

    def __init__(self, calls: list[ActiveConversation]) -> None:
        self.calls = calls

    def active_conversations(self) -> list[ActiveConversation]:
        return self.calls


def test_the_names_of_all_listed_calls_are_looked_up_together(tmp_path: Path) -> None:
    """120 agents are three or four requests, not 120: one by one they would take the requests of half a minute."""
    with running(NotificationsSimulator(conversations=120)) as simulator:
        agents = simulator.traffic.book.organisation.agents
        listed = [ActiveConversation(f"c{number}", {"agent": agent.id}) for number, agent in enumerate(agents)]
        endpoints = Endpoints.from_base_url(simulator.base_url)
        tokens = TokenProvider(endpoints, Credentials("id", "secret"))
        names = NameBook(tmp_path / "names.json", endpoints, tokens, RequestBudget())
        names.start()
        platform = cast(Any, Listing(listed))
        registry = InterceptorRegistry(tmp_path / "interceptors.json")
        audit = AuditLog(tmp_path / "audit.jsonl")
        creator = InterceptorCreator(Settings(), platform, registry, cast(Any, None), audit)
        try:
            found = DiscoveredInterceptors(creator, platform, names).active()
        finally:
            names.stop()
            tokens.close()
            audit.close()
        assert [one.labels["agent"] for one in found] == [agent.name for agent in agents]
        assert simulator.requests["users"] <= 4
