"""A thread beside a notifications feed that asks Genesys at intervals and records the answers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final

from connectors.errors import AccessDeniedError
from connectors.genesys.client import RequestBudget
from connectors.runtime.logs import get_logger

__all__ = ["RECORDING_S", "Worker"]

RECORDING_S: Final = 0.5
"""How long a stop waits for a thread that is recording an answer, which takes milliseconds."""


class Worker(ABC):
    """Does its `_work` again and again until it is stopped; an exception ends the thread: see `failure`.

    What Genesys does not permit is logged once, and ends the thread without a failure: the feed goes on without it.
    Requests wait for the budget, of which they leave `reserve` a minute to everything else.
    """

    def __init__(self, *, name: str, feed: str, budget: RequestBudget, reserve: int) -> None:
        self._name = feed
        self._budget = budget
        self._reserve = reserve
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start the thread; it starts once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End the thread, and wait for what it is recording, at most for `timeout_s`.

        A request is not waited for: its answer would not be recorded.
        """
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(min(timeout_s, RECORDING_S))
        if not self._thread.is_alive():
            self._close()

    @abstractmethod
    def _work(self) -> float:
        """Do one round; return the seconds until the next. Raises what ends the thread, AccessDeniedError among it."""

    @abstractmethod
    def _close(self) -> None:
        """Close what the worker holds."""

    def _may_ask(self) -> bool:
        """Wait until the budget has a request left; return False if the worker is stopped."""
        while not self._stopped.is_set():
            wait_s = self._budget.wait_s(self._reserve)
            if not wait_s:
                return True
            self._stopped.wait(wait_s)
        return False

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._stopped.wait(self._work())
        except AccessDeniedError as error:
            name = self._thread.name
            get_logger(__name__).warning("worker_not_permitted", feed=self._name, worker=name, reason=str(error))
        except Exception as error:
            self.failure = error
            get_logger(__name__).exception("worker_failed", feed=self._name, worker=self._thread.name)
