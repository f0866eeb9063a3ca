"""One shard of conversations: who is watched, their open windows, their incidents. Fed with blocks, in order.

Everything that can differ between two runs over the same journal (how it is cut into blocks, where it stopped and
went on) is kept out of the state: what happens to a frame depends on the records before it and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from connectors.format.ids import alike
from connectors.format.records import CLOCK, MEDIA, SIGNAL, Control, FlowSettings, WatchSettings
from connectors.format.signals import AUDIO_RULES, LEG_RULES
from flows.analytics.alerts import Change, LatestWindows
from flows.analytics.block_results import Done, Kept, ShardResult, span_of
from flows.analytics.groups import GroupTracker
from flows.analytics.late_events import LateEvents
from flows.analytics.precedence import Overrides, Precedence, flow_settings
from flows.analytics.rules import NO_FRAME, RULES, Rule, RuleId, Transition, Values, evaluate_windows
from flows.analytics.shards import ShardBlock, last_frames, rows_of, split_at_controls, split_by_time
from flows.analytics.sharing import Alone
from flows.analytics.signals import OPEN_RULES, Signals
from flows.analytics.silence import FirstFrames, Silence
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT
from flows.analytics.snapshots import VERSION, check_shard, converted
from flows.analytics.stalls import Arrivals, Stalls, limits_of, waited
from flows.analytics.watch_table import REMEMBER_S, Watch, WatchTable
from flows.analytics.window_lines import closed_lines
from flows.analytics.window_records import WindowRecords
from flows.analytics.windows import TEXTS, Column, Frames, Summaries, by_end

__all__ = ["Shard"]


class Shard:
    """Applies blocks in journal order, by plain calls and without a clock."""

    def __init__(self, overrides: Overrides | None = None, sharing: Alone | None = None, *, lines: bool = True) -> None:
        self._sharing = sharing or Alone()
        self._has_lines = lines
        self._precedence = Precedence(overrides or Overrides())
        self._is_checked = True
        self._now = -np.inf
        self._feeds_down: set[str] = set()
        self._columns = columns = SlotColumns()
        self._watch_table = WatchTable(columns)
        self._rules = tuple(Rule(columns, rule.name.lower()) for rule in RuleId if rule != RuleId.STALLS)
        self._stalls = Stalls(columns)
        self._latest_windows = LatestWindows(columns)
        self._signals = Signals()
        self._window_records = WindowRecords()
        self._late_events = LateEvents(self._window_records)
        self._first_frames = FirstFrames(columns)
        # Whether the feed of the conversation is lost.
        self._frozen = columns.add("frozen", np.bool_, initial=False, is_kept=False)
        self._closed_early = by_end([])
        self._groups = GroupTracker()
        self._mos_below = np.nan
        settings = self._precedence.settings({})
        self._silence = Silence(columns, settings.silent_after_s)
        self._windows = self._sharing.open_windows(settings.windows)
        self._put_in_force(settings, self._now)

    @property
    def watching(self) -> int:
        """Return the number of conversations that are watched now."""
        return self._watch_table.watching

    def apply(self, block: ShardBlock) -> ShardResult:
        """Apply the next block: its frames and controls in their order, then the windows that it ends."""
        if not self._is_checked:
            check_shard(self._watch_table.watches, block)
            self._is_checked = True
        done = Done()
        closed_early, unwatched, conversations = self._closed_early, 0, 0
        block = block._replace(arrival=np.maximum(block.arrival, self._now))
        for segment, controls in split_at_controls(block):
            # So short that no conversation that ends, or is silent for too long, in one can be watched again in it.
            for frames in split_by_time(segment, min(REMEMBER_S, self._silence.after_s / 2)):
                for part, slot in self._parts_between_returns(frames, done):
                    dropped, first_seen = self._frames(part, slot, done)
                    unwatched += dropped
                    conversations += first_seen
            for control in controls:
                self._control(control, done)
        self._now = max(self._now, block.time)
        self._pass_time(self._now, done)
        if block.last:
            # They are emitted and not judged: the journal may go on, and then their ends come with more frames in them.
            self._closed(self._windows.close_all(self._watch_table.traits), done)
        windows = closed_lines(by_end(done.closed if self._has_lines else []), self._watch_table)
        ending = by_end([closed_early, *done.closed])
        alerts = self._latest_windows.alerts(done.changes, ending, self._watch_table.label_texts)
        if len(ending.slot):
            self._latest_windows.keep(ending, self._now)
        oldest, texts = self._windows.oldest(self._now), self._watch_table.label_texts
        self._window_records.forget_before(oldest)
        groups = self._groups.parts(self._rules, self._stalls, self._signals.open_by_slot(), texts, oldest)
        self._watch_table.release(self._now, self._forget)
        if texts.is_due:
            early = self._closed_early.values[:, TEXTS]
            self._watch_table.sweep_labels(self._latest_windows.texts, early.ravel())
        done.spans.append(span_of(self._settings, self._now, len(block.row)))
        counts = unwatched, conversations
        return ShardResult(windows, alerts, *counts, groups, done.spans, block.last, done.silent, done.late_us)

    def _closed(self, windows: Summaries, done: Done) -> None:
        self._window_records.attach(windows, self._watch_table.label_texts)
        done.closed.append(windows)
        self._groups.closed(windows, self._windows.histogram)

    def _pass_time(self, now: float, done: Done) -> None:
        """Do what time does up to `now`, before any record of that time: windows end, streams stall, watches end."""
        silent = self._silence.due(now)
        for slot, at in silent:
            self._stalls.stop(slot, at)
        self._close_windows(now, done)
        stalled = self._stalls.pass_time(now, keep_open=self._settings.keeps_open, frozen=self._frozen_slots)
        self._add(RuleId.STALLS, stalled, done)
        for slot, at in silent:
            done.silent.append((at, self._watch_table.watch_at(slot).conversation_id))
            self._add(RuleId.STALLS, self._stalls.end(slot, at), done)
            self._end(slot, NO_FRAME, at, {}, "silent", done)

    def _close_windows(self, now: float, done: Done) -> None:
        """Close the windows that end by then, and apply the rule over windows to them and to those closed early."""
        for slot, at in self._silence.due(now):
            self._watch_table.over_at.values[slot] = at
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
            watch = watch_table.watch_at(transition.slot)
            self._change(Change(int(RuleId.QUALITY), RuleId.QUALITY, transition, watch, window), done)

    def _control(self, control: Control, done: Done) -> None:
        now = max(self._now, control.time)
        if control.kind in ("watch", SIGNAL, MEDIA) and self._silence.due(now):
            self._pass_time(now, done)
        if control.kind == "watch":
            self._control_watch(control.value, now, done)
        elif control.kind == SIGNAL:
            self._signalled(self._signals.changes(control, self._watch_table, self._settings.alerts, now), done)
        elif control.kind == MEDIA:
            self._window_records.add_media(self._watch_table.slot_of(control.value.conversation_id), now, control.value)
        elif control.kind == CLOCK:
            step_s = control.time - self._now if self._now > -np.inf else 0.0
            done.spans.append(span_of(self._settings, self._now, control.frames_before, step_s))
            self._step_clock(control.time, done)
        elif control.kind == "feed":
            self._pass_time(now, done)
            self._feed(control.value["name"], control.value["state"], now)
        else:
            self._pass_time(now, done)
            if self._precedence.follow(flow_settings(control.value)):
                self._watch_table.resolve(self._precedence.resolved)
            done.spans.append(span_of(self._settings, now, control.frames_before))
            self._apply_settings(self._precedence.settings(control.value), now, done)

    def _step_clock(self, now: float, done: Done) -> None:
        """Go on at another time; what waits keeps what it has waited. A step back ends the open windows, unjudged."""
        step_s = now - self._now if self._now > -np.inf else 0.0
        if step_s < 0:  # the same times come again
            self._closed(self._windows.close_all(self._watch_table.traits), done)
            self._window_records.clear()
            self._windows = self._sharing.open_windows(self._settings.windows)
            self._windows.keeps_histogram = bool(self._groups.by)
            self._closed_early = by_end([])
            self._latest_windows.forget_after(now)
        for rule in self._rules:
            rule.step_clock(step_s)
        self._stalls.step_clock(step_s)
        self._watch_table.step_clock(step_s, now)
        self._silence.step_clock(step_s)
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
        if earlier is None:
            self._begin_watch(watch, now, settings.last_frame_at)
        else:
            self._watch_table.watch(watch, now)

    def _begin_watch(self, watch: Watch, now: float, last_frame_at: float | None = None) -> int:
        slot = self._watch_table.watch(watch, now)
        self._first_frames.begin(slot)
        self._frozen.values[slot] = watch.is_affected_by(self._feeds_down)
        self._stalls.watch(slot, self._settings.stalled_after_s(watch.feed))
        self._silence.begin(slot, now, last_frame_at)
        return slot

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
        """Return the slots of the conversations whose feed is lost, as a mask; None if no feed is."""
        return self._frozen.values if self._feeds_down else None

    def _apply_settings(self, settings: FlowSettings, now: float, done: Done) -> None:
        """Another `[windows]` ends the open windows early: no window is of two lengths, or of two codecs."""
        if settings.windows != self._settings.windows:
            closing = self._windows.close_all(self._watch_table.traits)
            self._closed(closing, done)
            self._window_records.clear()
            self._closed_early = by_end([self._closed_early, closing])
            self._windows = self._sharing.open_windows(settings.windows)
        self._put_in_force(settings, now)

    def _put_in_force(self, settings: FlowSettings, now: float) -> None:
        self._settings = settings
        if settings.alerts.mos_below is not None:
            self._mos_below = settings.alerts.mos_below
        self._groups.by = settings.groups.by
        self._windows.keeps_histogram = bool(settings.groups.by)
        is_live = self._first_frames.has_frame.values & (self._watch_table.over_at.values == np.inf)
        limits = limits_of(settings, self._watch_table.watches, self._columns.capacity)
        self._stalls.limit(limits, is_live, now)
        self._silence.change(settings.silent_after_s, now)

    def _parts_between_returns(self, frames: ShardBlock, done: Done) -> Iterator[tuple[ShardBlock, NDArray[np.int32]]]:
        """Yield parts of frames with their slots. Time passes to the frame behind a part, whose watch that ends."""
        at: int | None = 0
        while at is not None:
            slot = self._sharing.slots(self._watch_table, frames.ids)
            at = self._silence.first_return(slot, frames.arrival)
            if at != 0:
                yield rows_of(frames, 0, len(slot) if at is None else at), slot[:at]
            if at is not None:
                self._pass_time(float(frames.arrival[at]), done)
                frames = rows_of(frames, at, len(slot))

    def _frames(self, frames: ShardBlock, slot: NDArray[np.int32], done: Done) -> tuple[int, int]:
        """Apply frames without a control between them; return how many are unwatched, and conversations first seen."""
        watched = self._watched(frames, slot)
        ends = last_frames(slot, watched, frames.ended)
        if ends:
            final = np.full(self._columns.capacity, len(slot))
            final[list(ends)] = list(ends.values())
            watched = watched & (np.arange(len(slot)) <= final[slot])
        frames = self._late_events.without_latency(frames, slot, watched, done.late_us)
        kept = Kept(frames.row, slot, frames.arrival, frames.latency_us, frames.packet_loss, frames.ended)
        if not watched.all():
            kept = Kept._make(column[watched] for column in kept)
        self._silence.hear(kept.slot, kept.arrival)
        self._windows.add(kept.arrival, Frames(kept.slot, kept.latency_us, kept.packet_loss))
        for rule, value in ((RuleId.LATENCY, kept.latency_us / 1000.0), (RuleId.LOSS, kept.packet_loss)):
            self._evaluate(rule, kept, value, done)
        if not self._stalls.is_idle:
            is_waited = waited(kept.row, kept.slot, frames.events.row, self._settings, self._watch_table)
            arrivals = Arrivals(kept.row, kept.slot, kept.arrival, kept.ended, is_waited)
            changes = self._stalls.hear(arrivals, keep_open=self._settings.keeps_open, frozen=self._frozen_slots)
            self._add(RuleId.STALLS, changes, done)
        for ended, at in ends.items():
            self._watch_table.over_at.values[ended] = frames.arrival[at]
        if self._settings.alerts.mos_below is not None:
            self._close_windows(float(frames.arrival[-1]), done)
        for ended, at in ends.items():
            last: dict[int, float] = {RuleId.LATENCY: frames.latency_us[at] / 1000, RuleId.LOSS: frames.packet_loss[at]}
            self._end(ended, int(frames.row[at]), float(frames.arrival[at]), last, "ended", done)
        return len(slot) - len(kept.slot), self._first_frames.count(kept.slot)

    def _watched(self, frames: ShardBlock, slot: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return whether each frame is watched; watch conversations without a `watch`, if so set, in `slot`."""
        watched: NDArray[np.bool_] = slot != NO_SLOT
        if self._settings.alerts.unwatched == "default" and not watched.all():
            for rows in alike(frames.ids, np.flatnonzero(~watched)):
                conversation_id = frames.ids.text(int(rows[0]))
                heard = rows[frames.arrival[rows] >= self._watch_table.over_until(conversation_id)]
                if len(heard):
                    watch = self._precedence.watch_by_default(conversation_id, self._settings.defaults)
                    slot[rows] = self._begin_watch(watch, float(frames.arrival[heard[0]]))
                    watched[heard] = True
        return watched

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
            order = int(rule) + len(RULES) if transition.reason in ("ended", "silent") else int(rule)
            self._change(Change(order, rule, transition, self._watch_table.watch_at(transition.slot)), done)

    def _change(self, change: Change, done: Done, *, stays_open: bool = False) -> None:
        done.changes.append(change)
        if stays_open or change.transition.state == "resolved" or self._settings.keeps_open:
            self._groups.changed(change.transition)

    def _signalled(self, changes: list[Change], done: Done) -> None:
        """Take changes by signals; to a group, one that a leg's media raises is like one that a frame does."""
        for change, rule in [(one, one.signal.rule if one.signal else "") for one in changes]:
            if rule not in OPEN_RULES:
                done.changes.append(change)
                continue
            self._change(change, done, stays_open=rule in AUDIO_RULES)
            if rule in LEG_RULES:
                self._groups.breached(change.transition)

    def _end(self, slot: int, row: int, at: float, last: Mapping[int, float], reason: str, done: Done) -> None:
        """End a watch whose `last` frame has been applied, or which has been silent: its incidents resolve."""
        table = self._watch_table
        limits = [*(float(column.values[slot]) for column in table.limits), self._mos_below]
        for rule, limit in enumerate(limits):
            value = float(last.get(rule, np.nan))
            found = self._rules[rule].end(slot, row, at, None if np.isnan(value) else value, limit, reason)
            self._add(rule, [] if found is None else [found], done)
        self._signalled(self._signals.end(slot, row, at, table.watch_at(slot), reason), done)
        table.over_at.values[slot] = at
        table.end(slot, self._windows.ends_at(self._silence.end(slot)))
        if reason == "ended" and self._settings.alerts.unwatched == "default":
            table.remember(table.watch_at(slot).conversation_id, at)

    def _forget(self, slot: int) -> None:
        self._signals.forget(slot)
        self._window_records.forget(slot)
        self._late_events.forget(slot)
        self._groups.breaches.forget(slot=slot)
        early = self._closed_early
        self._closed_early = Summaries(early.slot[early.slot != slot], early.values[early.slot != slot])
        for rule in self._rules:
            rule.forget(slot)

    @property
    def _parts(self) -> tuple[Any, ...]:
        of_frames = self._stalls, self._signals, self._groups.breaches, self._window_records, self._late_events
        return self._watch_table, self._precedence, *of_frames

    def snapshot(self) -> tuple[Any, ...]:
        """Return all of the state as plain values and arrays, with a version; it shares nothing that changes."""
        watch_table, recorded, stalls, *of_frames = (part.snapshot() for part in self._parts)
        columns, rules = self._columns.snapshot(self._watch_table.used), [rule.snapshot() for rule in self._rules]
        settings = msgspec.to_builtins(self._settings)
        head = (VERSION, self._now, sorted(self._feeds_down), settings, columns, watch_table, self._mos_below)
        return (*head, recorded, rules, stalls, self._windows.snapshot(), tuple(self._closed_early), *of_frames)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot. Raises SnapshotError for one of a version that cannot be continued."""
        _, self._now, feeds_down, settings, columns, watch_table, self._mos_below, *kept = converted(snapshot)
        recorded, rules, stalls, windows, early, *of_frames = kept
        self._is_checked = False
        self._feeds_down = set(feeds_down)
        self._settings = flow_settings(settings)
        self._columns.restore(columns)
        for part, state in zip(self._parts, (watch_table, recorded, stalls, *of_frames), strict=True):
            part.restore(state)
        for rule, state in zip(self._rules, rules, strict=True):
            rule.restore(state)
        self._silence.restored(self._settings.silent_after_s)
        self._frozen.values = self._watch_table.affected_by(self._feeds_down)
        self._windows = self._sharing.open_windows(self._settings.windows)
        self._windows.restore(windows)
        self._groups.by = self._settings.groups.by
        self._windows.keeps_histogram = bool(self._groups.by)
        self._closed_early = Summaries(*early)
