"""Detect streams that stall: a conversation is live, its feed is up, and no frame of it has arrived for too long.

For each slot one time is kept: since when a frame has been waited for. A stall is raised at the moment at which the
wait has been too long, as soon as a record shows that this moment has passed; the next frame resolves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.records import FlowSettings
from flows.analytics.ranks import stable_order
from flows.analytics.rules import NO_FRAME, Transition
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.watch_table import Watch, WatchTable

__all__ = ["Arrivals", "Stalls", "limits_of", "waited"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DECIMALS: Final = 6


class Arrivals(NamedTuple):
    """Frames in journal order, shapes (n,): `row` int64, the place in the block; `slot` int32; `arrival` float64,
    epoch seconds; `ended` bool, the conversation's last frame; `waited` bool, whether the next frame is waited for.
    """

    row: NDArray[np.int64]
    slot: NDArray[np.int32]
    arrival: Floats
    ended: Mask
    waited: Mask


class _Stall(NamedTuple):
    """A stall that was raised and is not resolved; times in epoch seconds, the limit in seconds."""

    since: float
    began_at: float
    limit: float


class Stalls:
    """The stalls of all conversations of a shard, by slot. Where the limit is infinite, the rule is off."""

    def __init__(self, columns: SlotColumns) -> None:
        self._after = columns.add("stall_after_s", np.float64, np.inf)
        self._is_on = False
        # Infinite where nothing is waited for: no frame has come yet, a stall is raised, the conversation is over.
        self._since = columns.add("stall_since", np.float64, np.inf)
        self._open: dict[int, _Stall] = {}

    @property
    def is_open(self) -> Mask:
        """Return the slots that have an open stall, as a mask."""
        mask = np.zeros(len(self._since.values), np.bool_)
        mask[list(self._open)] = True
        return mask

    @property
    def is_idle(self) -> bool:
        """Return whether frames change nothing."""
        return not self._open and not self._is_on

    def watch(self, slot: int, after_s: float | None) -> None:
        """Take the limit of a watch that begins in a slot, in seconds; None if the rule is off for it."""
        self._after.values[slot] = np.inf if after_s is None else after_s
        self._is_on |= after_s is not None

    def limit(self, after_s: Floats, heard: Mask, now: float) -> None:
        """Apply other limits, in seconds, shape (slots,); where they differ, the wait restarts.

        `heard`: the slots of conversations that are on and have had a frame. Open stalls stay open.
        """
        changed = after_s != self._after.values
        if not changed.any():
            return
        waiting = np.where(self._after.values < np.inf, self._since.values < np.inf, heard)
        waiting[list(self._open)] = False
        self._since.values[changed] = np.where(waiting & (after_s < np.inf), now, np.inf)[changed]
        self._after.values = after_s.copy()
        self._is_on = bool((after_s < np.inf).any())

    def feed_returned(self, now: float, concerned: Mask) -> None:
        """Restart the wait of these slots, a mask."""
        self._since.values[concerned & (self._since.values < np.inf)] = now

    def step_clock(self, step_s: float) -> None:
        """Keep how long frames have been waited for while the time changes by `step_s`."""
        self._since.values += step_s
        self._open = {slot: stall._replace(since=stall.since + step_s) for slot, stall in self._open.items()}

    def stop(self, slot: int, at: float) -> None:
        """Wait for no frame of a slot any more, but for a stall that begins until then."""
        if _due(self._since.values[slot], self._after.values[slot]) > at:
            self._since.values[slot] = np.inf

    def end(self, slot: int, at: float) -> list[Transition]:
        """Resolve the open stall of a slot whose watch ends without a frame."""
        self._since.values[slot] = np.inf
        stall = self._open.pop(slot, None)
        if stall is None:
            return []
        gap_s = round(at - stall.since, _DECIMALS)
        began_at = stall.began_at
        return [Transition(NO_FRAME, slot, "resolved", "silent", gap_s, at, stall.limit, began_at=began_at, ordinal=0)]

    def hear(self, frames: Arrivals, *, keep_open: bool, frozen: Mask | None) -> list[Transition]:
        """Apply frames. Without `keep_open` a stall is an alert and nothing that resolves.

        `frozen`: the slots whose feed is lost, so that none is raised; or none.
        """
        if not len(frames.row):
            return []
        changes = self._resolved(frames)
        after = self._after.values.take(frames.slot)
        since = self._waited_since(frames)
        due = _due(since, after)
        late = due <= frames.arrival
        if frozen is not None:
            late &= ~frozen[frames.slot]
        for index in np.flatnonzero(late).tolist():
            slot = int(frames.slot[index])
            stall = _Stall(float(since[index]), float(due[index]), float(after[index]))
            changes.append(_raise(slot, stall))
            if keep_open:
                changes.append(_resolve(slot, stall, frames, index))
        # Of a slot's several rows the last one stays.
        self._since.values[frames.slot] = np.where(frames.waited & (after < np.inf), frames.arrival, np.inf)
        self._since.values[frames.slot[frames.ended]] = np.inf
        return changes

    def pass_time(self, now: float, *, keep_open: bool, frozen: Mask | None) -> list[Transition]:
        """Raise the stalls of all moments up to `now`, before what else is of that time."""
        if not self._is_on:
            return []
        due = _due(self._since.values, self._after.values)
        late = due <= now
        if frozen is not None:
            late &= ~frozen
        changes = []
        for slot in np.flatnonzero(late).tolist():
            stall = _Stall(float(self._since.values[slot]), float(due[slot]), float(self._after.values[slot]))
            self._since.values[slot] = np.inf
            if keep_open:
                self._open[slot] = stall
            changes.append(_raise(slot, stall))
        return changes

    def _resolved(self, frames: Arrivals) -> list[Transition]:
        """Resolve the open stalls of slots that have a frame here."""
        if not self._open:
            return []
        first = np.full(len(self._since.values), NO_FRAME)
        first[frames.slot[::-1]] = np.arange(len(frames.row))[::-1]
        heard = [slot for slot in self._open if first[slot] != NO_FRAME]
        return [_resolve(slot, self._open.pop(slot), frames, int(first[slot])) for slot in heard]

    def _waited_since(self, frames: Arrivals) -> Floats:
        """Return since when each frame was waited for: the frame of its slot before it, or what the slot says."""
        order = stable_order(frames.slot)
        slot = frames.slot[order]
        is_first = np.append([True], slot[1:] != slot[:-1])
        ordered = np.append(np.inf, np.where(frames.waited, frames.arrival, np.inf)[order[:-1]])
        ordered[is_first] = self._since.values[slot[is_first]]
        since = np.empty(len(order))
        since[order] = ordered
        return since

    def snapshot(self) -> dict[int, tuple[float, ...]]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        return {slot: tuple(stall) for slot, stall in self._open.items()}

    def restore(self, stalls: dict[int, tuple[float, ...]]) -> None:
        """Take over a snapshot, after that of the columns."""
        self._is_on = bool((self._after.values < np.inf).any())
        self._open = {slot: _Stall(*stall) for slot, stall in stalls.items()}


def limits_of(settings: FlowSettings, watches: Sequence[Watch | None], slots: int) -> Floats:
    """Return the limit of each slot in seconds, shape (slots,), infinite where the rule is off or the slot is free."""
    limits = np.full(slots, np.inf)
    if settings.feeds or settings.alerts.stalled_after_s is not None:
        found = [None if watch is None else settings.stalled_after_s(watch.feed) for watch in watches]
        limits[: len(watches)] = [np.inf if after_s is None else after_s for after_s in found]
    return limits


def waited(
    row: NDArray[np.int64],
    slot: NDArray[np.int32],
    events: NDArray[np.int64],
    settings: FlowSettings,
    watch_table: WatchTable,
) -> Mask:
    """Return behind which frames of a block, rows of it and their slots, another one is waited for, shape (n,).

    None is waited for behind an event of a notification, of which a healthy call may have few, unless the
    conversation's feed has rules of its own.
    """
    mask = np.ones(len(row), np.bool_)
    if len(events):
        of_events = np.flatnonzero(np.isin(row, events))
        mask[of_events] = [watch_table.watch_at(at).feed in settings.feeds for at in slot[of_events].tolist()]
    return mask


def _due(since: Floats, after_s: Floats) -> Floats:
    """Return when a wait is too long, to the microsecond, free of floating-point dust."""
    return np.round(since + after_s, _DECIMALS)


def _raise(slot: int, stall: _Stall) -> Transition:
    return Transition(
        NO_FRAME, slot, "raised", None, stall.limit, stall.began_at, stall.limit, began_at=stall.began_at, ordinal=0
    )


def _resolve(slot: int, stall: _Stall, frames: Arrivals, index: int) -> Transition:
    reason = "ended" if frames.ended[index] else "recovered"
    row, arrival = int(frames.row[index]), float(frames.arrival[index])
    gap_s = round(arrival - stall.since, _DECIMALS)
    return Transition(row, slot, "resolved", reason, gap_s, arrival, stall.limit, began_at=stall.began_at, ordinal=0)
