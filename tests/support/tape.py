"""A recorder that keeps what it was given, in order, and lets a test wait for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from connectors.format.decode import Received, ended_conversation, parse_messages
from connectors.format.labels import joined_watch
from connectors.format.lines import beginning_of
from connectors.format.notifications import Heard, read_notification
from connectors.format.privacy import fingerprint

DEADLINE_S = 15.0


class Tape:
    """Like a journal, without a file; `records` are pairs of a record's kind and its value."""

    def __init__(self, *, full_after: int | None = None) -> None:
        self.records: list[tuple[str, Any]] = []
        self._flushed = 0
        self._full_after = full_after
        self._watches: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()

    def frame(self, text: str | bytes, *, at: float | None = None) -> None:
        if self._full_after is not None and len(self.of("frame")) >= self._full_after:
            raise OSError(28, "No space left on device")
        message = text if isinstance(text, bytes) else text.encode()
        try:
            over = ended_conversation(message)
        except ValueError as error:
            self.invalid(message.decode(), str(error))
            return
        if over is not None:
            self._watches.pop(over, None)
        self._add("frame", json.loads(message))

    def frames(self, messages: Sequence[bytes]) -> Received:
        for message in messages:
            self.frame(message)
        return parse_messages(messages)

    def event(self, message: bytes, heard: Heard | None, *, at: float | None = None) -> None:
        assert heard == read_notification(json.loads(message)), "the caller did not parse the message that it records"
        self.frame(message)

    def invalid(self, message: str | bytes, reason: str, *, private: bool = False) -> None:
        self._add("invalid", (fingerprint(encoded(message)) if private else beginning_of(message), reason))

    def feed(self, name: str, state: str, reason: str) -> None:
        self._add("feed", (name, state, reason))

    def watch(self, settings: dict[str, Any]) -> None:
        conversation_id = settings["conversation_id"]
        self._watches[conversation_id] = joined_watch(self._watches.get(conversation_id, {}), settings)
        self._add("watch", settings)

    def is_watching(self, conversation_id: str) -> bool:
        return conversation_id in self._watches

    def watched_by(self, feed: str) -> list[str]:
        return [id_ for id_, settings in self._watches.items() if settings.get("feed") == feed]

    def watch_feed(self, conversation_id: str) -> str | None:
        return self._watches.get(conversation_id, {}).get("feed")

    def watch_settings(self, conversation_id: str) -> dict[str, Any] | None:
        return self._watches.get(conversation_id)

    def flush(self) -> None:
        with self._changed:
            self._flushed = len(self.records)
            self._changed.notify_all()

    def sync(self) -> None:
        self.flush()

    def of(self, kind: str) -> list[Any]:
        return [value for each, value in list(self.records) if each == kind]

    def states(self) -> list[str]:
        return [state for _, state, _ in self.of("feed")]

    def wait_for(self, true: Callable[[Tape], object]) -> None:
        """Wait until `true` of what has been flushed."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._flushed == len(self.records) and true(self), DEADLINE_S), (
                self.records[-5:]
            )

    def _add(self, kind: str, value: Any) -> None:
        with self._changed:
            self.records.append((kind, value))


def encoded(message: str | bytes) -> bytes:
    """Return a message as bytes."""
    return message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")


def until(true: Callable[[], object]) -> None:
    """Wait, by polling, until something is true."""
    end = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < end, "not in time"
        threading.Event().wait(0.01)
