"""One complete sweep in a process that can be killed: `python -m tests.support.sweeping URL DIRECTORY`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from connectors.genesys.auth import Credentials, TokenProvider
from connectors.genesys.client import Clock, GenesysClient, RequestBudget
from connectors.genesys.endpoints import Endpoints
from connectors.genesys.feeds.base import FeedLimits
from connectors.genesys.feeds.notifications.sweep import Sweeper, SweepStore
from connectors.journal.writer import Journal


def main(url: str, directory: Path) -> None:
    """Sweep until all pages have been read."""
    endpoints = Endpoints.from_base_url(url)
    store = SweepStore(directory / "sweep.sqlite3")
    before, began = store.until(), time.time()
    sweeper = Sweeper(
        store,
        GenesysClient(endpoints, TokenProvider(endpoints, Credentials("id", "secret"))),
        Journal(directory / "journal", settings={}).recorder("calls"),
        RequestBudget(100_000),
        name="calls",
        limits=FeedLimits("calls"),
        leaves_watched=False,
        clock=Clock(now=lambda: began),
    )
    sweeper.start()
    while store.until() == before and sweeper.failure is None:
        time.sleep(0.01)
    sweeper.stop(30)
    if sweeper.failure is not None:
        raise sweeper.failure


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
