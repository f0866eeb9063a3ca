"""What several shards that apply the same blocks find once: the slots of frames, and the windows.

Shards of rule sets that differ only in limits and rules watch the same conversations in the same slots, and their
windows hold the same frames. So one of them leads: it looks up and summarises, and the others take over what it found.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import Ids
from connectors.format.records import WindowSettings
from flows.analytics.histograms import Histogram
from flows.analytics.precedence import Overrides
from flows.analytics.watch_table import WatchTable
from flows.analytics.windows import TEXTS, Column, OpenWindows, Summaries, Traits, open_windows

__all__ = ["Alone", "Following", "Leading", "sharing_key"]


class _Closed(NamedTuple):
    """The windows that the leader closed at a time, None for all, and their histogram."""

    now: float | None
    windows: Summaries
    histogram: Histogram | None


class Alone:
    """Finds slots and windows for one shard."""

    def open_windows(self, settings: WindowSettings) -> OpenWindows:
        """Return the windows of a `[windows]` table, without frames yet."""
        return open_windows(settings)

    def slots(self, table: WatchTable, ids: Ids) -> NDArray[np.int32]:
        """Return the slot of each row's conversation, shape (n,), which the caller may change."""
        return table.slots(ids)


class Following(Alone):
    """Takes over what a leader found for the same blocks, which it applied before."""

    def __init__(self) -> None:
        self.found_slots: deque[NDArray[np.int32]] = deque()
        self.found_windows: deque[_Closed] = deque()

    def open_windows(self, settings: WindowSettings) -> OpenWindows:
        """Return windows that close as those of the leader do."""
        windows = open_windows(settings, _FollowingWindows)
        windows.found = self.found_windows
        return windows

    def slots(self, table: WatchTable, ids: Ids) -> NDArray[np.int32]:  # noqa: ARG002
        """Return what the leader found for these rows."""
        return self.found_slots.popleft()


class Leading(Alone):
    """Finds slots and windows, and passes them to its followers."""

    def __init__(self) -> None:
        self.followers: list[Following] = []

    def open_windows(self, settings: WindowSettings) -> OpenWindows:
        """Return windows whose followers close with them."""
        windows = open_windows(settings, _LeadingWindows)
        windows.followers = self.followers
        return windows

    def slots(self, table: WatchTable, ids: Ids) -> NDArray[np.int32]:
        """Return the slot of each row's conversation, shape (n,)."""
        slots = table.slots(ids)
        for follower in self.followers:
            follower.found_slots.append(slots.copy())
        return slots


class _LeadingWindows(OpenWindows):
    followers: list[Following]

    def close(self, now: float, traits: Traits | None = None) -> Summaries:
        return self._shared(now, super().close(now, traits))

    def close_all(self, traits: Traits | None = None) -> Summaries:
        return self._shared(None, super().close_all(traits))

    def _shared(self, now: float | None, windows: Summaries) -> Summaries:
        for follower in self.followers:
            follower.found_windows.append(_Closed(now, windows, self.histogram))
        return windows


class _FollowingWindows(OpenWindows):
    """Holds no frames. Labels and legs have numbers of their own in each shard."""

    found: deque[_Closed]

    def add(self, arrival: NDArray[np.float64], frames: Any) -> None:
        """Leave the frames to the leader."""

    def close(self, now: float, traits: Traits | None = None) -> Summaries:
        return self._found(now, traits)

    def close_all(self, traits: Traits | None = None) -> Summaries:
        return self._found(None, traits)

    def _found(self, now: float | None, traits: Traits | None) -> Summaries:
        at, windows, self.histogram = self.found.popleft()
        if at != now:
            raise RuntimeError(f"windows that close at {now} follow windows that close at {at}")
        if not len(windows.slot):
            return windows
        values = windows.values.copy()
        values[:, TEXTS] = 0
        if traits is not None:
            values[:, Column.LABELS] = traits.labels.take(windows.slot)
        return Summaries(windows.slot, values)


def sharing_key(overrides: Overrides) -> bytes:
    """Return what slots and windows depend on; shards with the same key find the same in the same blocks.

    That is which conversations are watched and until when, the windows, and when windows close: with the rule over
    windows they close earlier, and a change of labels closes them.
    """
    tables = [*overrides.watches.items(), *overrides.feeds.items(), ("", overrides.defaults)]
    labels = [(name, table["labels"]) for name, table in tables if table.get("labels")]
    given = overrides.settings
    alerts, groups = given.get("alerts", {}), given.get("groups", {})
    settings = given.get("windows"), given.get("watch"), groups.get("by"), given.get("defaults", {}).get("labels")
    rules = alerts.get("unwatched"), "mos_below" in alerts
    return msgspec.json.encode((settings, rules, labels))
