"""One shard of conversations: who is watched, their open windows, their incidents. Fed with blocks, in order.

Everything that can differ between two runs over the same journal (how it is cut into blocks, where it stopped and
went on) is kept out of the state: what happens to a frame depends on the records before it and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from flows.analytics.alerts import Alert, incident_id, make_alert
from flows.analytics.records import Control, FlowSettings, WatchSettings
from flows.analytics.roster import NOBODY, REMEMBER_S, Roster, Watch
from flows.analytics.rules import LATENCY, LOSS, RULES, Rule, Transition, Values
from flows.analytics.shards import ShardBlock
from flows.analytics.windows import (
    END,
    NO_WINDOW,
    START,
    Frames,
    OpenWindows,
    Summaries,
    by_end,
    window_lines,
    window_object,
)

__all__ = ["Overrides", "Shard", "ShardResult", "WindowLines"]

SCHEMA: Final = 2


class Overrides(NamedTuple):
    """What a replay's own configuration puts before the recording's: `settings`, and `watches` by conversation.

    Both are values of the records of the same names. A watch here changes the limits and the callback URL of a
    conversation that is watched, and watches nobody by itself.
    """

    settings: dict[str, Any] | None = None
    watches: dict[str, dict[str, Any]] = {}  # noqa: RUF012 - never changed


class WindowLines(NamedTuple):
    """Closed windows as JSON, in order of their ends, then conversations: three lists of one length."""

    end: list[float]
    conversation_id: list[str]
    line: list[bytes]


class ShardResult(NamedTuple):
    """What a block did in a shard: windows closed, alerts, frames that nobody watches, conversations first seen."""

    windows: WindowLines
    alerts: list[Alert]
    unwatched: int
    conversations: int


class _Change(NamedTuple):
    """A rule's transition, with its place among the alerts of one frame, and the watch in force."""

    order: int
    rule: int
    transition: Transition
    watch: Watch


class _Kept(NamedTuple):
    """Frames of watched conversations: columns of `ShardBlock`, and `slot` int32 (n,)."""

    row: NDArray[np.int64]
    slot: NDArray[np.int32]
    arrival: NDArray[np.float64]
    latency_us: NDArray[np.float64]
    packet_loss: NDArray[np.float64]


class Shard:
    """Applies blocks in journal order, by plain calls and without a clock."""

    def __init__(self, overrides: Overrides | None = None) -> None:
        self._overrides = overrides or Overrides()
        self._now = -np.inf
        self._feeds_down: set[str] = set()
        self._roster = Roster()
        self._rules = tuple(Rule(self._roster.capacity) for _ in RULES)
        self._latest = np.tile(NO_WINDOW, (self._roster.capacity, 1))
        self._seen = np.zeros(self._roster.capacity, np.bool_)
        self._settings = _flow_settings(self._overrides.settings or {})
        self._windows = _open_windows(self._settings)
        self._closed_early = by_end([])

    @property
    def watching(self) -> int:
        """How many conversations are watched now."""
        return self._roster.watching

    def apply(self, block: ShardBlock) -> ShardResult:
        """Apply the next block: its frames and controls in their order, then the windows that it ends."""
        changes: list[_Change] = []
        closed: list[Summaries] = []
        unwatched = conversations = 0
        block = block._replace(arrival=np.maximum(block.arrival, self._now))
        for stretch, controls in _stretches(block):
            for frames in _days(stretch):
                dropped, first_seen = self._frames(frames, changes)
                unwatched += dropped
                conversations += first_seen
            for control in controls:
                self._control(control, closed)
        self._now = max(self._now, block.time)
        closed.append(self._windows.close_all() if block.last else self._windows.close(self._now))
        windows = self._window_lines(by_end(closed))
        ending = by_end([self._closed_early, *closed])
        alerts = self._alerts(changes, ending)
        self._keep_latest(ending)
        self._roster.release(self._now, self._forget)
        return ShardResult(windows, alerts, unwatched, conversations)

    def _control(self, control: Control, closed: list[Summaries]) -> None:
        now = max(self._now, control.time)
        if control.kind == "watch":
            self._watch(control.value, now)
        elif control.kind == "feed":
            self._feed(control.value["name"], control.value["state"], now)
        elif self._overrides.settings is None:
            self._apply_settings(_flow_settings(control.value), closed)

    def _watch(self, settings: WatchSettings, now: float) -> int:
        override = self._overrides.watches.get(settings.conversation_id, {})
        limits = (
            float(override.get("max_latency_ms", settings.max_latency_ms)),
            float(override.get("packet_loss_threshold", settings.packet_loss_threshold)),
        )
        url = override.get("qa_callback_url", settings.qa_callback_url)
        slot = self._roster.watch(Watch(settings.conversation_id, settings.leg_id, limits, url), now)
        if self._roster.capacity > len(self._latest):
            self._grow(self._roster.capacity)
        return slot

    def _watch_by_default(self, conversation_id: str, now: float) -> int:
        override = self._overrides.watches.get(conversation_id, {})
        defaults = self._settings.defaults
        settings = WatchSettings(
            conversation_id,
            override.get("leg_id"),
            defaults.max_latency_ms,
            defaults.packet_loss_threshold,
            defaults.qa_callback_url,
        )
        return self._watch(settings, now)

    def _feed(self, name: str, state: str, now: float) -> None:
        if state == "down":
            self._feeds_down.add(name)
        elif name in self._feeds_down:
            self._feeds_down.discard(name)
            for rule in self._rules:
                rule.feed_returned(now)

    def _apply_settings(self, settings: FlowSettings, closed: list[Summaries]) -> None:
        """Other window lengths end the open windows early: no window is of two lengths."""
        if settings.windows != self._settings.windows:
            closed.append(self._windows.close_all())
            self._windows = _open_windows(settings)
        self._settings = settings

    def _frames(self, frames: ShardBlock, changes: list[_Change]) -> tuple[int, int]:
        """Apply frames without a control between them; how many nobody watches, and conversations first seen."""
        slot, watched = self._slots(frames)
        ends = self._ends(slot, watched, frames.ended)
        if ends:
            last = np.full(self._roster.capacity, len(slot))
            last[list(ends)] = list(ends.values())
            watched = watched & (np.arange(len(slot)) <= last[slot])
        kept = _Kept(frames.row, slot, frames.arrival, frames.latency_us, frames.packet_loss)
        if not watched.all():
            kept = _Kept._make(column[watched] for column in kept)
        self._windows.add(kept.arrival, Frames(kept.slot, kept.latency_us, kept.packet_loss))
        for rule, value in ((LATENCY, kept.latency_us / 1000.0), (LOSS, kept.packet_loss)):
            self._evaluate(rule, kept, value, changes)
        for ended, at in ends.items():
            self._end(ended, at, frames, changes)
        return len(slot) - len(kept.slot), self._first_seen(kept.slot)

    def _slots(self, frames: ShardBlock) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The slot of each frame, and whether it is watched; watches whom nobody named, if so set."""
        by_code = self._roster.slots(frames.ids)
        slot = by_code[frames.code]
        watched = slot != NOBODY
        if self._settings.alerts.unwatched == "default" and not watched.all():
            for code in np.unique(frames.code[~watched]).tolist():
                over_until = self._roster.over_until(frames.ids[code])
                rows = np.flatnonzero((frames.code == code) & (frames.arrival >= over_until))
                if len(rows):
                    by_code[code] = self._watch_by_default(frames.ids[code], float(frames.arrival[rows[0]]))
                    watched[rows] = True
            slot = by_code[frames.code]
        return slot, watched

    @staticmethod
    def _ends(slot: NDArray[np.int32], watched: NDArray[np.bool_], ended: NDArray[np.bool_]) -> dict[int, int]:
        """The slots whose conversation ends in a stretch, each with the index of its last frame."""
        ends: dict[int, int] = {}
        if ended.any():
            for index in np.flatnonzero(ended & watched).tolist():
                ends.setdefault(int(slot[index]), index)
        return ends

    def _evaluate(self, rule: int, frames: _Kept, value: NDArray[np.float64], changes: list[_Change]) -> None:
        values = Values(frames.row, frames.slot, frames.arrival, value, self._roster.limits[rule, frames.slot])
        known = ~np.isnan(value)
        if not known.all():
            values = Values._make(column[known] for column in values)
        frozen = bool(self._feeds_down)
        transitions = self._rules[rule].evaluate(values, self._settings.alerts, frozen=frozen)
        watch_in = self._roster.watch_in
        changes.extend(_Change(rule, rule, transition, watch_in(transition.slot)) for transition in transitions)

    def _end(self, slot: int, at: int, frames: ShardBlock, changes: list[_Change]) -> None:
        """The conversation's last frame has been applied: its incidents resolve and its watch is over."""
        row, arrival = int(frames.row[at]), float(frames.arrival[at])
        watch = self._roster.watch_in(slot)
        for index, rule in enumerate(self._rules):
            value = float(frames.latency_us[at] / 1000.0 if index == LATENCY else frames.packet_loss[at])
            limit = float(self._roster.limits[index, slot])
            transition = rule.end(slot, row, arrival, None if np.isnan(value) else value, limit)
            if transition is not None:
                changes.append(_Change(len(RULES) + index, index, transition, watch))
        self._roster.end(slot, self._windows.ends_at(arrival))
        if self._settings.alerts.unwatched == "default":
            self._roster.remember(watch.conversation_id, arrival)

    def _first_seen(self, slot: NDArray[np.int32]) -> int:
        if self._seen[slot].all():
            return 0
        present = np.zeros(len(self._seen), np.bool_)
        present[slot] = True
        new = int(np.count_nonzero(present & ~self._seen))
        self._seen |= present
        return new

    def _alerts(self, changes: list[_Change], ending: Summaries) -> list[Alert]:
        """The alerts in the order of their frames, each with the last window that ended by its time."""
        if not changes:
            return []
        ending_of: dict[int, list[list[float]]] = {}
        concerned = np.isin(ending.slot, [change.transition.slot for change in changes])
        for slot, values in zip(ending.slot[concerned].tolist(), ending.values[concerned].tolist(), strict=True):
            ending_of.setdefault(slot, []).append(values)
        return sorted(self._alert(change, ending_of.get(change.transition.slot, [])) for change in changes)

    def _alert(self, change: _Change, ending: list[list[float]]) -> Alert:
        transition, watch = change.transition, change.watch
        ended = [values for values in ending if values[END] <= transition.arrival]
        window = ended[-1] if ended else self._latest[transition.slot].tolist()
        rule = RULES[change.rule]
        incident = incident_id(watch.conversation_id, rule, transition.began_at, transition.ordinal)
        return make_alert(
            row=transition.row,
            order=change.order,
            conversation_id=watch.conversation_id,
            rule=rule,
            state=transition.state,
            reason=transition.reason,
            value=transition.value,
            arrival=transition.arrival,
            threshold=transition.limit,
            incident=incident,
            leg_id=watch.leg_id,
            url=watch.url,
            window=window_object(watch.conversation_id, window) if window[END] == window[END] else None,
        )

    def _window_lines(self, closed: Summaries) -> WindowLines:
        if not len(closed.slot):
            return WindowLines([], [], [])
        slots, index = np.unique(closed.slot, return_inverse=True)
        ids = [self._roster.watch_in(slot).conversation_id for slot in slots.tolist()]
        rank = np.empty(len(ids), np.int64)
        rank[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        order = np.lexsort((closed.values[:, START], rank[index], closed.values[:, END]))
        values = closed.values[order]
        names = [ids[one] for one in index[order].tolist()]
        return WindowLines(values[:, END].tolist(), names, window_lines(names, values))

    def _keep_latest(self, ending: Summaries) -> None:
        """Keep each slot's last window for the alerts to come, once its end has passed, also if it closed early."""
        if not len(ending.slot):
            return
        ended = ending.values[:, END] <= self._now
        self._latest[ending.slot[ended]] = ending.values[ended]  # of a slot's several windows the last one stays
        self._closed_early = Summaries(ending.slot[~ended], ending.values[~ended])

    def _grow(self, slots: int) -> None:
        more = slots - len(self._latest)
        self._latest = np.concatenate([self._latest, np.tile(NO_WINDOW, (more, 1))])
        self._seen = np.append(self._seen, np.zeros(more, np.bool_))
        for rule in self._rules:
            rule.grow(slots)

    def _forget(self, slot: int) -> None:
        self._latest[slot] = NO_WINDOW
        early = self._closed_early
        self._closed_early = Summaries(early.slot[early.slot != slot], early.values[early.slot != slot])
        self._seen[slot] = False
        for rule in self._rules:
            rule.forget(slot)

    def snapshot(self) -> tuple[Any, ...]:
        """All of the state as plain values and arrays, with a version; it shares nothing that changes."""
        return (
            SCHEMA,
            self._now,
            sorted(self._feeds_down),
            msgspec.to_builtins(self._settings),
            self._roster.snapshot(),
            [rule.snapshot(self._roster.used) for rule in self._rules],
            self._latest[: self._roster.used].copy(),
            self._seen[: self._roster.used].copy(),
            self._windows.snapshot(),
            tuple(self._closed_early),
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's place; raises ValueError for one of another version."""
        if snapshot[0] != SCHEMA:
            raise ValueError(f"the snapshot is of version {snapshot[0]}; this program reads version {SCHEMA}")
        _, self._now, feeds_down, settings, roster, rules, latest, seen, windows, early = snapshot
        self._feeds_down = set(feeds_down)
        self._settings = _flow_settings(settings)
        self._roster.restore(roster)
        for rule, kept in zip(self._rules, rules, strict=True):
            rule.restore(kept)
        self._latest, self._seen = latest.copy(), seen.copy()
        self._windows = _open_windows(self._settings)
        self._windows.restore(windows)
        self._closed_early = Summaries(*early)


def _stretches(block: ShardBlock) -> Iterator[tuple[ShardBlock, list[Control]]]:
    """Cut a block's rows where controls stand: each stretch of frames with the controls that follow it."""
    if not block.controls:
        yield block, []
        return
    places = np.searchsorted(block.row, [control.frames_before for control in block.controls]).tolist()
    placed = groupby(zip(places, block.controls, strict=True), key=itemgetter(0))
    begin = 0
    for place, controls in placed:
        yield _rows(block, begin, place), [control for _, control in controls]
        begin = place
    yield _rows(block, begin, len(block.row)), []


def _days(frames: ShardBlock) -> Iterator[ShardBlock]:
    """Cut a stretch into parts so short that no conversation that ends in one can be watched again in it."""
    begin, rows = 0, len(frames.row)
    while begin < rows:
        is_within = frames.arrival[-1] < frames.arrival[begin] + REMEMBER_S
        end = rows if is_within else int(np.searchsorted(frames.arrival, frames.arrival[begin] + REMEMBER_S))
        yield _rows(frames, begin, end)
        begin = end


def _rows(block: ShardBlock, begin: int, end: int) -> ShardBlock:
    if end - begin == len(block.row):
        return block
    rows = slice(begin, end)
    return block._replace(
        row=block.row[rows],
        arrival=block.arrival[rows],
        latency_us=block.latency_us[rows],
        packet_loss=block.packet_loss[rows],
        ended=block.ended[rows],
        code=block.code[rows],
    )


def _flow_settings(value: dict[str, Any]) -> FlowSettings:
    return msgspec.convert(value, FlowSettings)


def _open_windows(settings: FlowSettings) -> OpenWindows:
    windows = settings.windows
    return OpenWindows(round(windows.length_s * 1000), round(windows.slide_s * 1000))
