"""The watches in force at the end of a journal, which each new segment begins with.

A watch ends with its conversation, or when it has had no frame for too long. The dataflow ends it at the same record,
for both go by the journal's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from connectors.format.labels import joined_watch
from connectors.format.tables import silent_at

__all__ = ["Watches"]


class Watches:
    """Settings of `watch` records by conversation, with the time of the last frame; times in epoch seconds."""

    def __init__(self) -> None:
        self.settings: dict[str, dict[str, Any]] = {}
        # The time of the last frame, or of the watch before there is one; the earliest first.
        self._last_at: dict[str, float] = {}
        self._after_s = np.inf

    def limit(self, after_s: float, now: float) -> None:
        """Apply another number of seconds without a frame that end a watch; every wait restarts."""
        if after_s != self._after_s:
            if self._after_s < np.inf:
                self._last_at = dict.fromkeys(self._last_at, now)
            self._after_s = after_s

    def watch(self, settings: Mapping[str, Any], now: float) -> None:
        """Begin or change the watch of a conversation, by the value of a `watch` record."""
        conversation_id = settings["conversation_id"]
        last_at = settings.get("last_frame_at")
        own = {key: value for key, value in settings.items() if key != "last_frame_at"}
        earlier = self.settings.get(conversation_id)
        self.settings[conversation_id] = joined_watch(earlier or {}, own)
        if earlier is None:
            last_at = now if last_at is None else min(last_at, now)
            self._last_at[conversation_id] = now if silent_at(last_at, self._after_s) <= now else last_at

    def hear(self, conversation_ids: Iterable[str], now: float) -> None:
        """Take frames of conversations, watched or not."""
        for conversation_id in conversation_ids:
            if self._last_at.pop(conversation_id, None) is not None:
                self._last_at[conversation_id] = now

    def end(self, conversation_id: str) -> None:
        """End the watch of a conversation, if there is one."""
        self.settings.pop(conversation_id, None)
        self._last_at.pop(conversation_id, None)

    def pass_time(self, now: float) -> None:
        """End the watches that have had no frame for too long."""
        while self._last_at:
            conversation_id, last_at = next(iter(self._last_at.items()))
            if now < last_at + self._after_s - 1.0 or silent_at(last_at, self._after_s) > now:
                return
            self.end(conversation_id)

    def step_clock(self, step_s: float) -> None:
        """Keep how long there has been no frame while the time changes by `step_s`."""
        self._last_at = {conversation_id: last_at + step_s for conversation_id, last_at in self._last_at.items()}

    def records(self) -> Iterator[dict[str, Any]]:
        """Return the value of a `watch` record for each, in which the wait for a frame goes on."""
        for conversation_id, last_at in self._last_at.items():
            yield {**self.settings[conversation_id], "last_frame_at": last_at}
