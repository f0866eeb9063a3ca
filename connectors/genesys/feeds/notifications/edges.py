"""Ask analytics for the edge of each watched call, which notifications do not name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from connectors.errors import GenesysError
from connectors.genesys.client import RequestBudget
from connectors.genesys.feeds.notifications.channels import NotificationsRest
from connectors.genesys.feeds.notifications.messages import MessageRecorder
from connectors.genesys.feeds.notifications.sweep import labels_of_details
from connectors.runtime.logs import get_logger

__all__ = ["EdgeFinder", "EdgeTiming"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EdgeTiming:
    """A call is asked for `every_s` apart and `attempts` times, as analytics may not know it yet.

    `reserve` of the requests of a minute are left to everything else.
    """

    every_s: float = 10.0
    idle_s: float = 0.5
    attempts: int = 6
    reserve: int = 120


class Feed(Protocol):
    """The part of a feed that the finder uses."""

    async def rest(self, work: Callable[[], T]) -> T:
        """Make REST calls in a thread, one at a time; raises what they raise."""


class EdgeFinder:
    """Add the label `edge` to watched calls, with one request for each call where that is enough.

    The first 403 is logged, and ends the search.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        rest: NotificationsRest,
        messages: MessageRecorder,
        is_watching: Callable[[str], bool],
        budget: RequestBudget,
        *,
        timing: EdgeTiming = EdgeTiming(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = name
        self._feed = feed
        self._rest = rest
        self._messages = messages
        self._is_watching = is_watching
        self._budget = budget
        self._timing = timing
        self._sleep = sleep
        self._due: dict[str, tuple[float, int]] = {}

    def started(self, conversation_id: str) -> None:
        """Ask for the edge of a conversation that is watched from now on."""
        self._due.setdefault(conversation_id, (asyncio.get_running_loop().time(), 0))

    def ended(self, conversation_id: str) -> None:
        """Ask no more for the edge of a conversation."""
        self._due.pop(conversation_id, None)

    async def keep_asking(self) -> None:
        """Ask for the edges of the calls that are due, one after the other."""
        loop = asyncio.get_running_loop()
        while True:
            due = next((id_ for id_, (at, _) in self._due.items() if at <= loop.time()), None)
            wait_s = self._timing.idle_s if due is None else self._budget.wait_s(self._timing.reserve)
            if due is None or wait_s:
                await self._sleep(wait_s)
                continue
            _, attempts = self._due.pop(due)
            if not self._is_watching(due):
                continue
            status, details = await self._details(due)
            if status == httpx.codes.FORBIDDEN:
                get_logger(__name__).warning("edges_not_permitted", feed=self._name, permission=_PERMISSION)
                return
            found = labels_of_details(details) if isinstance(details, dict) else {}
            if "edge" in found:
                self._messages.label(due, {name: found[name] for name in ("edge", "provider") if name in found})
            elif attempts + 1 < self._timing.attempts:
                self._due[due] = (loop.time() + self._timing.every_s, attempts + 1)

    async def _details(self, conversation_id: str) -> tuple[int | None, Any]:
        """Return what analytics knows of a conversation, and the status of a refusal."""
        try:
            return None, await self._feed.rest(lambda: self._rest.conversation_details(conversation_id))
        except httpx.HTTPStatusError as refused:
            return refused.response.status_code, None
        except (httpx.RequestError, GenesysError) as error:
            get_logger(__name__).warning("edge_not_found", feed=self._name, reason=type(error).__name__)
            return None, None


_PERMISSION = "analytics:conversationDetail:view"
