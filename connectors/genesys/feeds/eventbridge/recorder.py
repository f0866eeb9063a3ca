"""Record EventBridge events once, and wait until they are on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from connectors.format.captures import unwrapped
from connectors.format.events import identified
from connectors.format.notifications import is_notification
from connectors.genesys.feeds.base import FeedLimits, OnEvent, RecentIds, Selection, WatchRules
from connectors.genesys.feeds.notifications.messages import OURS, MessageRecorder
from connectors.genesys.names import Names
from connectors.journal.writer import Recorder
from connectors.runtime.threads import in_daemon_thread

__all__ = ["REMEMBERED_EVENTS", "DiskBarrier", "EventRecorder", "Taken", "event_recorder"]

REMEMBERED_EVENTS: Final = 200_000
_MAX_EVENTS: Final = 1000


class Taken(NamedTuple):
    """What became of a message: the number of events recorded, those known before, and why the rest is refused."""

    recorded: int = 0
    known: int = 0
    invalid: tuple[str, ...] = ()


class EventRecorder:
    """Record each event once, by its id. Not safe across threads.

    `known` are the ids in the journal, oldest first. The last 200,000 ids are remembered.
    """

    def __init__(self, messages: MessageRecorder, known: Iterable[str] = ()) -> None:
        self._messages = messages
        self._known = RecentIds(REMEMBERED_EVENTS)
        for id_ in known:
            self._known.add(id_)
        self.duplicates = 0

    async def follow_names(self) -> None:
        """Give conversations the names of their labels as these are found, until cancelled."""
        await self._messages.follow_names()

    def take(self, message: bytes) -> Taken:
        """Record the event in a message, or the events in a JSON array; what is not an event is recorded as invalid.

        Raise what the recorder raises.
        """
        try:
            content = orjson.loads(message)
        except orjson.JSONDecodeError:
            return self._refuse(message, "not JSON")
        items = content if isinstance(content, list) else [content]
        if not 0 < len(items) <= _MAX_EVENTS:
            return self._refuse(message, f"an array of {len(items)} events (allowed: 1 to {_MAX_EVENTS})")
        taken = [self._take(item, message, is_alone=item is content) for item in items]
        return Taken(
            sum(one.recorded for one in taken),
            sum(one.known for one in taken),
            tuple(reason for one in taken for reason in one.invalid),
        )

    def _take(self, item: Any, message: bytes, *, is_alone: bool) -> Taken:
        try:
            text = message if is_alone else orjson.dumps(item)
        except TypeError:  # orjson reads more levels than it writes
            return self._refuse(message, "not an event: it is nested too deeply")
        if not isinstance(item, dict):
            return self._refuse(text, "not an event: it is not a JSON object")
        try:
            event = _event_in(item)
        except (ValueError, TypeError) as error:
            return self._refuse(text, str(error))
        if event["id"] in self._known:
            self.duplicates += 1
            return Taken(known=1)
        self._messages.record(text.decode("utf-8", "replace"), event)
        self._known.add(event["id"])
        return Taken(recorded=1)

    def _refuse(self, message: bytes, reason: str) -> Taken:
        self._messages.invalid(message, reason)
        return Taken(invalid=(reason,))


def event_recorder(
    name: str,
    recorder: Recorder,
    limits: FeedLimits,
    *,
    rules: WatchRules,
    known: Iterable[str],
    keep_raw: bool,
    on_event: OnEvent,
    names: Names,
    recorded: Iterable[bytes],
) -> EventRecorder:
    """Return what records the events of a feed, and watches their conversations."""
    selection = Selection.of_feed(name, recorder, rules, on_event)
    messages = MessageRecorder(name, recorder, limits, selection=selection, keep_raw=keep_raw, names=names)
    messages.recall(recorded)
    return EventRecorder(messages, known)


def _event_in(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event in an object or in its wrapping, with its id. Raise ValueError, which does not quote it."""
    event = unwrapped(dict(item))
    if not is_notification(event):
        raise ValueError("not an event: it has neither detail-type and detail nor a topicName")
    return identified({key: value for key, value in event.items() if key not in (*OURS, "receivedAt")})


class DiskBarrier:
    """Wait until everything recorded so far is on the disk; one sync serves all who wait for it. For one event loop."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._next: asyncio.Future[None] | None = None
        self._working: asyncio.Task[None] | None = None

    async def passed(self) -> None:
        """Return when what was recorded before this call is on the disk. Raise what the sync raises."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._next.add_done_callback(lambda future: future.exception())  # although nothing may wait any more
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work())
        await asyncio.shield(self._next)

    async def _work(self) -> None:
        while (due := self._next) is not None:
            self._next = None
            try:
                await in_daemon_thread(self._sync, name="journal-sync")
            except Exception as error:
                due.set_exception(error)
            else:
                due.set_result(None)
