"""Find the calls of a notifications feed: by activity queries, and with detail topics for each that is watched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from connectors.errors import AccessDeniedError, GenesysError
from connectors.genesys.client import GenesysClient, RequestBudget
from connectors.genesys.endpoints import ACTIVITY_PATH, QUEUES_PATH, USERS_PATH, USERS_SEARCH_PATH, path_of
from connectors.genesys.feeds.notifications.channels import NotificationsRest
from connectors.genesys.feeds.notifications.edges import EdgeFinder
from connectors.genesys.feeds.notifications.messages import MessageRecorder
from connectors.genesys.feeds.notifications.slots import Slot, Slots
from connectors.genesys.feeds.notifications.topics import topics_of
from connectors.genesys.names import PERMISSIONS, UUID
from connectors.runtime.logs import get_logger

__all__ = ["CallFinder", "Directory", "FinderTiming", "Sources"]

MAX_PAGES: Final = 40
PAGE: Final = 500
_TOPIC_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_LABELS: Final = {"queue": "queueId", "team": "teamId", "direction": "direction", "agent": "userId"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sources:
    """The queues and users whose calls a feed receives, by id or name. `discover` if their calls are looked for.

    `edges` if analytics is asked for the edge of each call.
    """

    queues: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    discover: bool = False
    edges: bool = False


@dataclass(frozen=True, slots=True)
class FinderTiming:
    """Activity is queried at the start, after each gap and every `activity_s`; topics change every `subscribe_s`.

    Two requests that change them are `apart_s` apart, so that they take no more than 120 of the 300 a minute. `reserve`
    of the requests of a minute are left to everything else.
    """

    activity_s: float = 60.0
    subscribe_s: float = 1.0
    apart_s: float = 0.5
    reserve: int = 60


class Directory:
    """Look up queues and users by id or name, and their calls. One thread at a time may use it."""

    def __init__(self, client: GenesysClient) -> None:
        self._client = client

    def queue_id(self, name: str) -> str | None:
        """Return the id of the queue with this name, None without one. Raises GenesysError."""
        query = {"name": name, "pageSize": "100"}
        return _named(self._ask("GET", QUEUES_PATH, f"look up queue {name}", query, None), "entities", name)

    def user_id(self, name: str) -> str | None:
        """Return the id of the user with this name, None without one. Raises GenesysError."""
        body = {"pageSize": 100, "query": [{"type": "EXACT", "fields": ["name"], "values": [name]}]}
        return _named(self._ask("POST", USERS_SEARCH_PATH, f"look up user {name}", None, body), "results", name)

    def exists(self, kind: str, id_: str) -> bool:
        """Tell whether there is a queue or user with this id. Raises GenesysError."""
        path = (QUEUES_PATH if kind == "queue" else USERS_PATH) + "/{id}"
        return self._ask("GET", path_of(path, id=id_), f"look up {kind} {id_}", None, None) is not None

    def knows(self, kind: str, entry: str) -> bool:
        """Tell whether there is a queue or user with this id or name. Raises GenesysError."""
        look_up = self.queue_id if kind == "queue" else self.user_id
        if not UUID.fullmatch(entry) and look_up(entry) is not None:
            return True
        return _TOPIC_ID.fullmatch(entry) is not None and self.exists(kind, entry)

    def activity(self, queues: Sequence[str], users: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the calls in progress of these queues and users, each with its labels. Raises GenesysError."""
        predicates = [
            {"type": "dimension", "dimension": dimension, "operator": "matches", "value": id_}
            for dimension, ids in (("queueId", queues), ("userId", users))
            for id_ in ids
        ]
        voice = {"type": "dimension", "dimension": "mediaType", "operator": "matches", "value": "voice"}
        body = {
            "metrics": [{"metric": metric, "details": True} for metric in ("oInteracting", "oAlerting", "oWaiting")],
            "filter": {
                "type": "and",
                "predicates": [voice],
                "clauses": [{"type": "or", "predicates": predicates}],
            },
        }
        found: dict[str, dict[str, str]] = {}
        for number in range(1, MAX_PAGES + 1):
            query = {"pageSize": str(PAGE), "pageNumber": str(number)}
            answer = self._client.ask("POST", ACTIVITY_PATH, what="activity query", query=query, body=body)
            results = _objects(answer, "results")
            for entity in (entity for result in results for entity in _objects(result, "entities")):
                id_ = entity.get("conversationId")
                if isinstance(id_, str) and id_:
                    said = [(name, entity.get(key)) for name, key in _LABELS.items()]
                    labels = {name: value for name, value in said if isinstance(value, str) and value}
                    found[id_] = {**found.get(id_, {}), **labels}
            if not any(result.get("truncated") is True for result in results):
                break
        return found

    def _ask(self, method: str, path: str, what: str, query: dict[str, str] | None, body: Any) -> Any:
        """Ask, and return None if Genesys has no such endpoint or nothing there."""
        try:
            return self._client.ask(method, path, what=what, query=query, body=body)
        except GenesysError as error:
            if error.status == 404:
                return None
            raise


class Feed(Protocol):
    """The part of a feed that the finder uses."""

    def open_slot(self, slot: Slot) -> None:
        """Keep a connection for a slot from now on."""

    async def rest(self, work: Callable[[], T]) -> T:
        """Make REST calls in a thread, one at a time; raises what they raise."""

    def report(self, what: str, details: Mapping[str, str]) -> None:
        """Report an event."""


class CallFinder:
    """Resolve the names of the sources, find their calls, and subscribe to the details of those watched."""

    def __init__(
        self,
        name: str,
        feed: Feed,
        directory: Directory,
        rest: NotificationsRest,
        messages: MessageRecorder,
        is_watching: Callable[[str], bool],
        sources: Sources,
        budget: RequestBudget,
        *,
        timing: FinderTiming = FinderTiming(),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.slots = Slots([])
        edges = EdgeFinder(name, feed, rest, messages, is_watching, budget)
        self.edges = edges if sources.edges else None
        self.gap_is_over = asyncio.Event()
        self._name = name
        self._feed = feed
        self._directory = directory
        self._rest = rest
        self._messages = messages
        self._is_watching = is_watching
        self._sources = sources
        self._budget = budget
        self._timing = timing
        self._sleep = sleep
        self._ids: dict[str, list[str]] = {"queue": [], "user": []}
        self._failed: str | None = None

    async def topics(self) -> list[str]:
        """Return the topics of the sources, those with names resolved. Raises GenesysError."""
        self._ids = {"queue": [], "user": []}
        for kind, entries in (("queue", self._sources.queues), ("user", self._sources.users)):
            for entry in entries:
                id_, reason = await self._resolved(kind, entry)
                if id_ is None:
                    self._feed.report("topic_refused", {"topic": f"{kind} {entry}", "reason": reason})
                else:
                    self._ids[kind].append(id_)
        return topics_of([], self._ids["queue"], self._ids["user"])

    async def _resolved(self, kind: str, entry: str) -> tuple[str | None, str]:
        """Return the id of a queue or user; None and the reason without one. Raises GenesysError, but for a 403."""
        if UUID.fullmatch(entry):
            return entry, ""
        look_up = self._directory.queue_id if kind == "queue" else self._directory.user_id
        try:
            id_ = await self._feed.rest(lambda: look_up(entry))
        except AccessDeniedError:
            permission = PERMISSIONS["queue" if kind == "queue" else "agent"]
            return None, f"names of {kind}s cannot be looked up (403): the permission {permission} is missing"
        if id_ is None and _TOPIC_ID.fullmatch(entry):
            return entry, ""  # an id of another form, perhaps; Genesys will refuse its topic otherwise
        return id_, f"no {kind} has this name"

    def started(self, conversation_id: str) -> None:
        """Subscribe to the details of a conversation that is watched from now on, and ask for its edge."""
        if self.edges is not None:
            self.edges.started(conversation_id)
        if not self._sources.discover:
            return
        known = len(self.slots.all)
        slot = self.slots.add_conversation(conversation_id)
        if slot is None:
            self._feed.report("not_watched", {"reason": "channels", "conversation": conversation_id})
        elif len(self.slots.all) > known:
            self._feed.open_slot(slot)

    def ended(self, conversation_id: str) -> None:
        """Unsubscribe from the details of a conversation."""
        if self.edges is not None:
            self.edges.ended(conversation_id)
        self.slots.remove_conversation(conversation_id)

    async def keep_subscribed(self) -> None:
        """Bring the subscriptions of channels in line with the topics of their slots, again and again."""
        while True:
            await self._sleep(self._timing.subscribe_s)
            while (slot := self.slots.next_changed()) is not None:
                if not await self._subscribe(slot):
                    break
                await self._sleep(self._timing.apart_s)

    async def _subscribe(self, slot: Slot) -> bool:
        """Subscribe the channel of a slot to its topics; return whether that was done."""
        channel, topics = slot.channel, list(slot.topics)
        assert channel is not None
        slot.is_changed = slot.is_awaited = False
        try:
            self.refused(await self._feed.rest(lambda: self._rest.subscribe(channel.id, topics)))
        except GenesysError as error:
            slot.is_changed = slot.is_awaited = True
            get_logger(__name__).warning("subscription_failed", feed=self._name, reason=str(error))
            return False
        return True

    def refused(self, topics: Iterable[tuple[str, str]]) -> None:
        """Report topics that Genesys refuses, each with the reason."""
        for topic, reason in topics:
            self._feed.report("topic_refused", {"topic": self.slots.name_of(topic), "reason": reason})

    async def keep_looking(self) -> None:
        """Query the activity of the sources, and watch what is found."""
        while True:
            self.gap_is_over.clear()
            while wait_s := self._budget.wait_s(self._timing.reserve):
                await self._sleep(wait_s)
            try:
                found = await self._feed.rest(lambda: self._directory.activity(self._ids["queue"], self._ids["user"]))
            except GenesysError as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    get_logger(__name__).warning("activity_query_failed", feed=self._name, reason=self._failed)
            else:
                self._failed = None
                for id_, labels in found.items():
                    self._messages.found(id_, labels)
            for id_ in self.slots.conversations:
                if not self._is_watching(id_):
                    self.slots.remove_conversation(id_)
            try:
                await asyncio.wait_for(self.gap_is_over.wait(), self._timing.activity_s)
            except TimeoutError:
                continue


def _named(answer: Any, key: str, name: str) -> str | None:
    """Return the id of the entry that has this name, in upper or lower case."""
    for entry in _objects(answer, key):
        if str(entry.get("name")).casefold() == name.casefold() and isinstance(entry.get("id"), str):
            return str(entry["id"])
    return None


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    items = value.get(key) if isinstance(value, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
