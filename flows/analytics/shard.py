"""One shard of conversations: who is watched, their open windows, their incidents. Fed with blocks, in order.

Everything that can differ between two runs over the same journal (how it is cut into blocks, where it stopped and
went on) is kept out of the state: what happens to a frame depends on the records before it and on nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import alike
from connectors.format.records import CLOCK, MEDIA, SIGNAL, Control, FlowSettings, WatchSettings
from connectors.format.signals import LEG_RULES
from flows.analytics.alerts import Change, LatestWindows
from flows.analytics.block_results import Done, Kept, ShardResult, span_of
from flows.analytics.groups import GroupTracker
from flows.analytics.legs import Legs
from flows.analytics.precedence import Overrides, Precedence, flow_settings
from flows.analytics.rules import RULES, Rule, RuleId, Transition, Values, evaluate_windows
from flows.analytics.shards import ShardBlock, last_frames, split_at_controls, split_by_day
from flows.analytics.signals import Signals
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT
from flows.analytics.snapshots import VERSION, check_shard, converted
from flows.analytics.stalls import Arrivals, Stalls, limit_of, limits_of, waited
from flows.analytics.watch_table import Watch, WatchTable
from flows.analytics.window_lines import WindowLines, closed_lines
from flows.analytics.windows import Column, Frames, Summaries, by_end, open_windows

__all__ = ["Shard"]


class Shard:
    """Applies blocks in journal order, by plain calls and without a clock."""

    def __init__(self, overrides: Overrides | None = None) -> None:
        self._overrides = overrides or Overrides()
        self._precedence = Precedence(self._overrides)
        self._is_checked = True
        self._now = -np.inf
        self._feeds_down: set[str] = set()
        self._columns = columns = SlotColumns()
        self._watch_table = WatchTable(columns)
        self._rules = tuple(Rule(columns, rule.name.lower()) for rule in RuleId if rule != RuleId.STALLS)
        self._stalls = Stalls(columns)
        self._latest_windows = LatestWindows(columns)
        self._signals = Signals()
        self._legs = Legs()
        # Whether a frame has come in this watch, and in any watch of this slot, the first of which counts it.
        self._has_frame = columns.add("has_frame", np.bool_, initial=False)
        self._is_counted = columns.add("is_counted", np.bool_, initial=False)
        # Whether the feed of the conversation is lost.
        self._frozen = columns.add("frozen", np.bool_, initial=False, is_kept=False)
        self._closed_early = by_end([])
        self._groups = GroupTracker()
        self._mos_below = np.nan
        settings = flow_settings(self._overrides.settings or {})
        self._windows = open_windows(settings.windows)
        self._put_in_force(settings, self._now)

    @property
    def watching(self) -> int:
        """How many conversations are watched now."""
        return self._watch_table.watching

    def apply(self, block: ShardBlock) -> ShardResult:
        """Apply the next block: its frames and controls in their order, then the windows that it ends."""
        if not self._is_checked:
            check_shard(self._watch_table.watches, block)
            self._is_checked = True
        done = Done()
        closed_early = self._closed_early
        unwatched = conversations = 0
        block = block._replace(arrival=np.maximum(block.arrival, self._now))
        for segment, controls in split_at_controls(block):
            for frames in split_by_day(segment):
                dropped, first_seen = self._frames(frames, done)
                unwatched += dropped
                conversations += first_seen
            for control in controls:
                self._control(control, done)
        self._now = max(self._now, block.time)
        self._pass_time(self._now, done)
        if block.last:
            # They are emitted and not judged: the journal may go on, and then their ends come with more frames in them.
            self._closed(self._windows.close_all(self._watch_table.traits), done)
        windows = self._window_lines(by_end(done.closed))
        ending = by_end([closed_early, *done.closed])
        alerts = self._latest_windows.alerts(done.changes, ending, self._watch_table.label_texts)
        if len(ending.slot):
            self._latest_windows.keep(ending, self._now)
        oldest, texts = self._windows.oldest(self._now), self._watch_table.label_texts
        self._legs.forget_before(oldest)
        groups = self._groups.parts(self._rules, self._stalls, self._signals.open_legs(), texts, oldest)
        self._watch_table.release(self._now, self._forget)
        if texts.is_due:
            early = self._closed_early.values[:, [Column.LABELS, Column.LEGS]]
            self._watch_table.sweep_labels(self._latest_windows.texts, early.ravel())
        done.spans.append(span_of(self._settings, self._now, len(block.row)))
        return ShardResult(windows, alerts, unwatched, conversations, groups, done.spans, block.last)

    def _closed(self, windows: Summaries, done: Done) -> None:
        self._legs.attach(windows, self._watch_table.label_texts)
        done.closed.append(windows)
        self._groups.closed(windows, self._windows.histogram)

    def _pass_time(self, now: float, done: Done) -> None:
        """Do what time does up to `now`, before any record of that time: windows end, and streams stall."""
        self._close_windows(now, done)
        stalled = self._stalls.pass_time(now, keep_open=self._settings.keeps_open, frozen=self._frozen_slots)
        self._add(RuleId.STALLS, stalled, done)

    def _close_windows(self, now: float, done: Done) -> None:
        """Close the windows that end by then, and apply the rule over windows to them and to those closed early."""
        closing = self._windows.close(now, self._watch_table.traits)
        self._closed(closing, done)
        early = self._closed_early
        if len(early.slot):
            ended = early.values[:, Column.END] <= now
            closing = by_end([Summaries(early.slot[ended], early.values[ended]), closing])
            self._closed_early = Summaries(early.slot[~ended], early.values[~ended])
        self._evaluate_windows(closing, done)

    def _evaluate_windows(self, ended: Summaries, done: Done) -> None:
        """Apply the rule over windows to those that have ended, but for those that ended outside of a watch."""
        alerts, watch_table = self._settings.alerts, self._watch_table
        if alerts.mos_below is None or not len(ended.slot):
            return
        end, rule = ended.values[:, Column.END], self._rules[RuleId.QUALITY]
        in_watch = (end > watch_table.on_since.values[ended.slot]) & (end <= watch_table.over_at.values[ended.slot])
        found = evaluate_windows(rule, ended, in_watch, alerts, alerts.mos_below, frozen=self._frozen_slots)
        for transition, window in found:
            self._change(
                Change(int(RuleId.QUALITY), RuleId.QUALITY, transition, watch_table.watch_at(transition.slot), window),
                done,
            )

    def _control(self, control: Control, done: Done) -> None:
        now = max(self._now, control.time)
        if control.kind == "watch":
            self._control_watch(control.value, now, done)
        elif control.kind == SIGNAL:
            self._signalled(self._signals.changes(control, self._watch_table, self._settings.alerts, now), done)
        elif control.kind == MEDIA:
            self._legs.add(self._watch_table.slot_of(control.value.conversation_id), now, control.value)
        elif control.kind == CLOCK:
            step_s = control.time - self._now if self._now > -np.inf else 0.0
            done.spans.append(span_of(self._settings, self._now, control.frames_before, step_s))
            self._step_clock(control.time, done)
        elif control.kind == "feed":
            self._pass_time(now, done)
            self._feed(control.value["name"], control.value["state"], now)
        else:
            self._pass_time(now, done)
            settings = flow_settings(control.value)
            if self._precedence.follow(settings):
                self._watch_table.resolve(self._precedence.resolved)
            if self._overrides.settings is None:
                done.spans.append(span_of(self._settings, now, control.frames_before))
                self._apply_settings(settings, now, done)

    def _step_clock(self, now: float, done: Done) -> None:
        """Go on at another time; what waits keeps what it has waited. A step back ends the open windows, unjudged."""
        step_s = now - self._now if self._now > -np.inf else 0.0
        if step_s < 0:  # the same times come again
            self._closed(self._windows.close_all(self._watch_table.traits), done)
            self._legs.clear()
            self._windows = open_windows(self._settings.windows)
            self._windows.keeps_histogram = bool(self._groups.by)
            self._closed_early = by_end([])
            self._latest_windows.forget_after(now)
        for rule in self._rules:
            rule.step_clock(step_s)
        self._stalls.step_clock(step_s)
        self._watch_table.step_clock(step_s, now)
        self._now = now

    def _control_watch(self, settings: WatchSettings, now: float, done: Done) -> None:
        earlier = self._watch_table.current(settings.conversation_id)
        watch = self._precedence.watch(settings, earlier)
        if earlier is None:
            has_other_traits = self._watch_table.is_returning(settings.conversation_id, now)
        else:
            has_other_traits = earlier.labels != watch.labels
        if has_other_traits:
            self._pass_time(now, done)  # with the codec and the labels until now
        self._watch(watch, now)

    def _watch(self, watch: Watch, now: float) -> int:
        watching = self._watch_table.watching
        slot = self._watch_table.watch(watch, now)
        if self._watch_table.watching > watching:
            self._has_frame.values[slot] = False
            self._frozen.values[slot] = watch.is_affected_by(self._feeds_down)
            self._stalls.watch(slot, limit_of(self._settings, watch))
        return slot

    def _watch_by_default(self, conversation_id: str, now: float) -> int:
        return self._watch(self._precedence.watch_by_default(conversation_id, self._settings.defaults), now)

    def _feed(self, name: str, state: str, now: float) -> None:
        if state == "down":
            self._feeds_down.add(name)
        elif name in self._feeds_down:
            self._feeds_down.discard(name)
            concerned = self._watch_table.affected_by({name})
            for rule in self._rules:
                rule.feed_returned(now, concerned)
            self._stalls.feed_returned(now, concerned)
        self._frozen.values = self._watch_table.affected_by(self._feeds_down)

    @property
    def _frozen_slots(self) -> NDArray[np.bool_] | None:
        """The slots of the conversations whose feed is lost, as a mask; None if no feed is."""
        return self._frozen.values if self._feeds_down else None

    def _apply_settings(self, settings: FlowSettings, now: float, done: Done) -> None:
        """Another `[windows]` ends the open windows early: no window is of two lengths, or of two codecs."""
        if settings.windows != self._settings.windows:
            closing = self._windows.close_all(self._watch_table.traits)
            self._closed(closing, done)
            self._legs.clear()
            self._closed_early = by_end([self._closed_early, closing])
            self._windows = open_windows(settings.windows)
        self._put_in_force(settings, now)

    def _put_in_force(self, settings: FlowSettings, now: float) -> None:
        self._settings = settings
        if settings.alerts.mos_below is not None:
            self._mos_below = settings.alerts.mos_below
        self._groups.by = settings.groups.by
        self._windows.keeps_histogram = bool(settings.groups.by)
        is_live = self._has_frame.values & (self._watch_table.over_at.values == np.inf)
        limits = limits_of(settings, self._watch_table.watches, self._columns.capacity)
        self._stalls.limit(limits, is_live, now)

    def _frames(self, frames: ShardBlock, done: Done) -> tuple[int, int]:
        """Apply frames without a control between them; return how many are unwatched, and conversations first seen."""
        slot, watched = self._slots(frames)
        ends = last_frames(slot, watched, frames.ended)
        if ends:
            last = np.full(self._columns.capacity, len(slot))
            last[list(ends)] = list(ends.values())
            watched = watched & (np.arange(len(slot)) <= last[slot])
        kept = Kept(frames.row, slot, frames.arrival, frames.latency_us, frames.packet_loss, frames.ended)
        if not watched.all():
            kept = Kept._make(column[watched] for column in kept)
        self._windows.add(kept.arrival, Frames(kept.slot, kept.latency_us, kept.packet_loss))
        for rule, value in ((RuleId.LATENCY, kept.latency_us / 1000.0), (RuleId.LOSS, kept.packet_loss)):
            self._evaluate(rule, kept, value, done)
        if not self._stalls.is_idle:
            is_waited = waited(kept.row, kept.slot, frames.events, self._settings, self._watch_table)
            arrivals = Arrivals(kept.row, kept.slot, kept.arrival, kept.ended, is_waited)
            changes = self._stalls.hear(arrivals, keep_open=self._settings.keeps_open, frozen=self._frozen_slots)
            self._add(RuleId.STALLS, changes, done)
        for ended, at in ends.items():
            self._watch_table.over_at.values[ended] = frames.arrival[at]
        if self._settings.alerts.mos_below is not None:
            self._close_windows(float(frames.arrival[-1]), done)
        for ended, at in ends.items():
            self._end(ended, at, frames, done)
        return len(slot) - len(kept.slot), self._first_seen(kept.slot)

    def _slots(self, frames: ShardBlock) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The slot of each frame, and whether it is watched; watches conversations without a `watch`, if so set."""
        slot = self._watch_table.slots(frames.ids)
        watched = slot != NO_SLOT
        if self._settings.alerts.unwatched == "default" and not watched.all():
            for rows in alike(frames.ids, np.flatnonzero(~watched)):
                conversation_id = frames.ids.text(int(rows[0]))
                heard = rows[frames.arrival[rows] >= self._watch_table.over_until(conversation_id)]
                if len(heard):
                    slot[rows] = self._watch_by_default(conversation_id, float(frames.arrival[heard[0]]))
                    watched[heard] = True
        return slot, watched

    def _evaluate(self, rule: int, frames: Kept, value: NDArray[np.float64], done: Done) -> None:
        values = Values(
            frames.row, frames.slot, frames.arrival, value, self._watch_table.limits[rule].values.take(frames.slot)
        )
        known = ~np.isnan(value)
        if not known.all():
            values = Values._make(column[known] for column in values)
        if self._groups.by:
            above = values.value > values.limit
            self._groups.breaches.add(values.arrival[above], values.slot[above])
        self._add(rule, self._rules[rule].evaluate(values, self._settings.alerts, frozen=self._frozen_slots), done)

    def _add(self, rule: int, transitions: list[Transition], done: Done) -> None:
        for transition in transitions:
            order = int(rule) + len(RULES) if transition.reason == "ended" else int(rule)
            self._change(Change(order, rule, transition, self._watch_table.watch_at(transition.slot)), done)

    def _change(self, change: Change, done: Done) -> None:
        done.changes.append(change)
        transition = change.transition
        if transition.state == "resolved" or self._settings.keeps_open:
            self._groups.changed(transition.arrival, transition.slot, 1 if transition.state == "raised" else -1)

    def _signalled(self, changes: list[Change], done: Done) -> None:
        """Take changes by signals; to a group, one that a leg's media raises is like one that a frame does."""
        for change in changes:
            if change.signal is None or change.signal.rule not in LEG_RULES:
                done.changes.append(change)
            else:
                self._change(change, done)
                self._groups.breached(change.transition)

    def _end(self, slot: int, at: int, frames: ShardBlock, done: Done) -> None:
        """The conversation's last frame has been applied: its incidents resolve and its watch is over."""
        row, arrival = int(frames.row[at]), float(frames.arrival[at])
        last = {
            RuleId.LATENCY: (
                float(frames.latency_us[at] / 1000.0),
                float(self._watch_table.limits[RuleId.LATENCY].values[slot]),
            ),
            RuleId.LOSS: (float(frames.packet_loss[at]), float(self._watch_table.limits[RuleId.LOSS].values[slot])),
            RuleId.QUALITY: (np.nan, self._mos_below),
        }
        for rule, (value, limit) in last.items():
            transition = self._rules[rule].end(slot, row, arrival, None if np.isnan(value) else value, limit)
            if transition is not None:
                self._add(rule, [transition], done)
        self._signalled(self._signals.end(slot, row, arrival, self._watch_table.watch_at(slot)), done)
        self._watch_table.end(slot, self._windows.ends_at(arrival))
        if self._settings.alerts.unwatched == "default":
            self._watch_table.remember(self._watch_table.watch_at(slot).conversation_id, arrival)

    def _first_seen(self, slot: NDArray[np.int32]) -> int:
        if self._has_frame.values.take(slot).all():
            return 0
        present = np.zeros(self._columns.capacity, np.bool_)
        present[slot] = True
        new = int(np.count_nonzero(present & ~self._is_counted.values))
        self._has_frame.values |= present
        self._is_counted.values |= present
        return new

    def _window_lines(self, closed: Summaries) -> WindowLines:
        return closed_lines(closed, self._watch_table)

    def _forget(self, slot: int) -> None:
        self._signals.forget(slot)
        self._legs.forget(slot)
        self._groups.breaches.forget(slot=slot)
        early = self._closed_early
        self._closed_early = Summaries(early.slot[early.slot != slot], early.values[early.slot != slot])
        for rule in self._rules:
            rule.forget(slot)

    def snapshot(self) -> tuple[Any, ...]:
        """All of the state as plain values and arrays, with a version; it shares nothing that changes."""
        return (
            VERSION,
            self._now,
            sorted(self._feeds_down),
            msgspec.to_builtins(self._settings),
            self._columns.snapshot(self._watch_table.used),
            self._watch_table.snapshot(),
            self._mos_below,
            self._precedence.snapshot(),
            [rule.snapshot() for rule in self._rules],
            self._stalls.snapshot(),
            self._windows.snapshot(),
            tuple(self._closed_early),
            self._signals.snapshot(),
            self._groups.breaches.snapshot(),
            self._legs.snapshot(),
        )

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot. Raises SnapshotError for one of a version that cannot be continued."""
        _, self._now, feeds_down, settings, columns, watch_table, self._mos_below, *kept = converted(snapshot)
        recorded, rules, stalls, windows, early, signals, breaches, legs = kept
        self._is_checked = False
        self._feeds_down = set(feeds_down)
        self._settings = flow_settings(settings)
        self._columns.restore(columns)
        self._watch_table.restore(watch_table)
        for rule, kept in zip(self._rules, rules, strict=True):
            rule.restore(kept)
        self._stalls.restore(stalls)
        self._frozen.values = self._watch_table.affected_by(self._feeds_down)
        self._windows = open_windows(self._settings.windows)
        self._windows.restore(windows)
        self._groups.by = self._settings.groups.by
        self._groups.breaches.restore(breaches)
        self._windows.keeps_histogram = bool(self._groups.by)
        self._closed_early = Summaries(*early)
        self._precedence.restore(recorded)
        self._signals.restore(signals)
        self._legs.restore(legs)
