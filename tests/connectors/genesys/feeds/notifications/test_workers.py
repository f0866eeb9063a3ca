"""A stop does not wait for Genesys: what it answers later would not be recorded."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from connectors.genesys.client import RequestBudget
from connectors.genesys.feeds.notifications.enrichment import Enricher, EnrichTiming, MediaQueue
from connectors.genesys.feeds.notifications.workers import Worker
from tests.connectors.genesys.feeds.notifications.test_feed import LIMITS
from tests.support.tape import DEADLINE_S, Tape


class Silence:
    """A Genesys that takes a request and answers when the test ends."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def conversation_details(self, conversation_id: str) -> Any:
        self.asked.set()
        assert self.over.wait(DEADLINE_S)
        return {"conversationEnd": "2026-11-23T10:00:00Z", "participants": []}


class Asking(Worker):
    """Asks once."""

    def __init__(self, genesys: Silence) -> None:
        super().__init__(name="asking", feed="calls", budget=RequestBudget(), reserve=0)
        self._genesys = genesys

    def _work(self) -> float:
        self._genesys.conversation_details("c1")
        return DEADLINE_S

    def _close(self) -> None:
        """Nothing is held."""


def stopped_within_s(one: Worker | Enricher) -> float:
    began = time.monotonic()
    one.stop(DEADLINE_S)
    return time.monotonic() - began


def test_a_worker_that_waits_for_an_answer_stops() -> None:
    """The thread ends when the answer comes."""
    genesys = Silence()
    worker = Asking(genesys)
    worker.start()
    assert genesys.asked.wait(DEADLINE_S)
    assert stopped_within_s(worker) < 2.0
    genesys.over.set()
    worker.stop(DEADLINE_S)
    assert worker.failure is None


def test_an_enricher_that_waits_for_an_answer_stops(tmp_path: Path) -> None:
    """The answer is not recorded, and the conversation stays in the queue."""
    genesys, tape = Silence(), Tape()
    tape.watch(LIMITS.watch("c1", None))
    queue = MediaQueue(tmp_path / "queue.sqlite3", now=time.time)
    enricher = Enricher(queue, genesys, tape, RequestBudget(), name="calls", timing=EnrichTiming(delay_s=0.0))
    enricher.start()
    enricher.want("c1", ended=True)
    assert genesys.asked.wait(DEADLINE_S)
    assert stopped_within_s(enricher) < 2.0
    genesys.over.set()
    for thread in [one for one in threading.enumerate() if one.name == "enrich-calls"]:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert enricher.failure is None
    assert tape.of("frame") == []
    assert len(queue) == 1
    queue.close()
