"""Discovery over lists of calls that are older than the events."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from connectors.genesys.client import RequestBudget
from connectors.genesys.entities import ActiveConversation
from connectors.genesys.feeds.base import Selection
from connectors.genesys.feeds.discovery import CallDiscovery
from tests.support.tape import DEADLINE_S


class Calls:
    """Lists two calls, and remembers for which an interceptor was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.last_asked = threading.Event()

    def active(self) -> list[ActiveConversation]:
        return [ActiveConversation("over", {}), ActiveConversation("on", {})]

    def create(self, conversation_id: str, labels: Mapping[str, str]) -> str | None:
        self.asked.append(conversation_id)
        if conversation_id == "on":
            self.last_asked.set()
        return None

    def label(self, conversation_id: str, labels: Mapping[str, str]) -> None:
        """Do nothing; no call is watched."""

    def is_watching(self, conversation_id: str) -> bool:
        return False

    def forget_others(self, active: Collection[str]) -> None:
        """Do nothing."""


def test_a_call_that_has_ended_is_not_watched_because_a_list_still_has_it() -> None:
    """The event of its end counts, not a list that was asked for before."""
    calls = Calls()
    discovery = CallDiscovery(
        "events", calls, Selection(), RequestBudget(), max_concurrent=50, refused=lambda _, __: None
    )
    discovery.observe([b'{"event":"conversation.ended","entity":{"id":"over"}}'])
    discovery.start()
    assert calls.last_asked.wait(DEADLINE_S)
    discovery.stop(DEADLINE_S)
    assert calls.asked == ["on"]
