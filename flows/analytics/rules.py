"""The rules over values: when a conversation's values raise an alert, and when they resolve it.

A rule keeps a little state for each conversation that has an incident or is on the way to one, and none for the
healthy. So a block of healthy frames costs two comparisons a frame; a loop in Python runs only over the frames of
conversations whose state this block may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.records import AlertSettings
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.windows import Column, Summaries

__all__ = ["NO_FRAME", "RULES", "Rule", "RuleId", "Transition", "Values", "clear_level", "evaluate_windows"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class RuleId(IntEnum):
    """The rules over values, in the order of their alerts about one frame."""

    LATENCY = 0
    LOSS = 1
    QUALITY = 2
    STALLS = 3


RULES: Final = ("LATENCY_THRESHOLD_EXCEEDED", "PACKET_LOSS_DETECTED", "LOW_MOS", "STREAM_STALLED")
"""The `alertType` of each rule, by its `RuleId`."""
# The row of a change that passing time caused, not a frame. It comes before all frames of that time.
NO_FRAME: Final = -1
_DECIMALS_OF_TIME: Final = 6


class Values(NamedTuple):
    """The frames that carry a rule's metric, in journal order, or the windows that do, by their ends. Shapes (n,).

    `row` int64: the frame's place in its block; `slot` int32; `arrival` float64, epoch seconds, a window's end;
    `value` and `limit` float64, in milliseconds, as a ratio, or what is missing to a MOS of 5.
    """

    row: NDArray[np.int64]
    slot: NDArray[np.int32]
    arrival: Floats
    value: Floats
    limit: Floats


class Transition(NamedTuple):
    """An alert raised or resolved by the frame `row`; its incident is known by its begin, and the ordinal at that time.

    `row` is NO_FRAME if passing time caused it. `value` is None when the frame that ended the conversation did not
    carry the metric.
    """

    row: int
    slot: int
    state: str
    reason: str | None
    value: float | None
    arrival: float
    limit: float
    began_at: float
    ordinal: int


class Rule:
    """One rule's incidents over all conversations of a shard, by slot."""

    def __init__(self, columns: SlotColumns, name: str) -> None:
        self.is_open = columns.add(f"{name}_is_open", np.bool_, initial=False, is_kept=False)
        self._above_at = columns.add(f"{name}_above_at", np.float64, 0.0, is_kept=False)
        self._incident: dict[int, tuple[float, int]] = {}
        self._history: dict[int, tuple[bool, ...]] = {}
        self._latest: dict[int, tuple[float, int]] = {}

    def forget(self, slot: int) -> None:
        """Drop what is left of a slot whose conversation has ended."""
        self._latest.pop(slot, None)

    def feed_returned(self, now: float, concerned: Mask) -> None:
        """Restart the quiet time of the open incidents of these slots, a mask."""
        self._above_at.values[self.is_open.values & concerned] = now

    def step_clock(self, step_s: float) -> None:
        """Keep how long it has been quiet while the time changes by `step_s`."""
        self._above_at.values += step_s

    def end(
        self, slot: int, row: int, arrival: float, value: float | None, limit: float, reason: str = "ended"
    ) -> Transition | None:
        """Resolve the slot's incident because its watch ends, at frame `row` or at NO_FRAME; another watch restarts."""
        self._history.pop(slot, None)
        if not self.is_open.values[slot]:
            return None
        return self._resolve(slot, reason, row, arrival, value, limit)

    def evaluate(self, values: Values, settings: AlertSettings, *, frozen: Mask | None) -> list[Transition]:
        """Apply frames in journal order. `frozen`: the slots whose feed is lost, so that nothing resolves; or none."""
        breach = values.value > values.limit
        if settings.policy == "frame":
            return [self._breaching_frame(values, int(index)) for index in np.flatnonzero(breach)]
        values = self._of_touched(values, breach)
        if not len(values.slot):
            return []
        level = clear_levels(values.limit, settings.clear_ratio)
        one_by_one = self._concerned(values, level, settings, frozen=frozen).take(values.slot)
        self._stay_above(values, ~one_by_one & (values.value > level))
        return self._step(values, level, np.flatnonzero(one_by_one), settings, frozen=frozen)

    def _of_touched(self, values: Values, breach: Mask) -> Values:
        """Return the frames of the slots that have a breach here, an incident or a history: no other can change."""
        if not (self._incident or self._history or breach.any()):
            return Values._make(column[:0] for column in values)
        touched = self.is_open.values.copy()
        touched[values.slot[breach]] = True
        touched[list(self._history)] = True
        rows = np.flatnonzero(touched.take(values.slot))
        return Values._make(column.take(rows) for column in values)

    def _concerned(self, values: Values, level: Floats, settings: AlertSettings, *, frozen: Mask | None) -> Mask:
        """Return the slots, as a mask, that these frames may raise or resolve."""
        is_open = self.is_open.values.take(values.slot)
        mask = np.zeros(len(self.is_open.values), np.bool_)
        mask[values.slot[(values.value > values.limit) & ~is_open]] = True
        mask[list(self._history)] = True
        below = np.flatnonzero(is_open & (values.value <= level))
        slot = values.slot.take(below)
        quiet = elapsed_s(self._above_at.values.take(slot), values.arrival.take(below)) >= settings.clear_after_s
        if frozen is not None:
            quiet &= ~frozen.take(slot)
        mask[slot[quiet]] = True
        return mask

    def _stay_above(self, values: Values, above: Mask) -> None:
        """Note the last value above the clear level for open incidents that no frame here can resolve."""
        above = above & self.is_open.values.take(values.slot)
        self._above_at.values[values.slot[above]] = values.arrival[above]  # of a slot's several rows the last one stays

    def _step(
        self, values: Values, level: Floats, indexes: NDArray[np.intp], settings: AlertSettings, *, frozen: Mask | None
    ) -> list[Transition]:
        """Apply the frames at `indexes` one after the other."""
        changes: list[Transition] = []
        columns = (column[indexes].tolist() for column in (*values, level))
        for row, slot, arrival, value, limit, clear in zip(*columns, strict=True):
            if self.is_open.values[slot]:
                if value > clear:
                    self._above_at.values[slot] = arrival
                elif (frozen is None or not frozen[slot]) and (
                    elapsed_s_of_one(self._above_at.values.item(slot), arrival) >= settings.clear_after_s
                ):
                    changes.append(self._resolve(slot, "recovered", row, arrival, value, limit))
            elif self._breaches_enough(slot, value > limit, settings):
                changes.append(self._raise(slot, row, arrival, value, limit))
        return changes

    def _breaches_enough(self, slot: int, breach: bool, settings: AlertSettings) -> bool:  # noqa: FBT001
        """Return whether `raise_n` of the last `raise_m` frames breach; drop a history without a breach."""
        history = (*self._history.get(slot, ()), breach)[-settings.raise_m :]
        if any(history):
            self._history[slot] = history
        else:
            self._history.pop(slot, None)
        return sum(history) >= settings.raise_n

    def _raise(self, slot: int, row: int, arrival: float, value: float, limit: float) -> Transition:
        self._history.pop(slot, None)
        began = self._next_incident(slot, arrival)
        self._incident[slot] = began
        self.is_open.values[slot] = True
        self._above_at.values[slot] = arrival
        return Transition(row, slot, "raised", None, value, arrival, limit, *began)

    def _resolve(
        self, slot: int, reason: str, row: int, arrival: float, value: float | None, limit: float
    ) -> Transition:
        self.is_open.values[slot] = False
        return Transition(row, slot, "resolved", reason, value, arrival, limit, *self._incident.pop(slot))

    def _breaching_frame(self, values: Values, index: int) -> Transition:
        row, slot, arrival, value, limit = (column[index].item() for column in values)
        return Transition(row, slot, "raised", None, value, arrival, limit, *self._next_incident(slot, arrival))

    def _next_incident(self, slot: int, arrival: float) -> tuple[float, int]:
        """Return a new incident's time, and its number among those of its slot that began at that time or later.

        One can begin at a time before another's only where the clock was set back.
        """
        time, number = self._latest.get(slot, (arrival, -1))
        number = number + 1 if time >= arrival else 0
        self._latest[slot] = (max(time, arrival), number)
        return arrival, number

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this rule."""
        above_at = {
            slot: float(self._above_at.values[slot]) for slot in self._incident
        }  # of no other slot does it matter
        return (above_at, dict(self._incident), dict(self._history), dict(self._latest))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take over a snapshot, after that of the columns."""
        above_at, incident, history, latest = snapshot
        self.is_open.values[list(above_at)] = True
        self._above_at.values[list(above_at)] = list(above_at.values())
        self._incident, self._history, self._latest = dict(incident), dict(history), dict(latest)


def clear_level(limit: float, ratio: float) -> float:
    """Return a limit times a ratio to 12 significant digits, so that 0.0099 is the level of 0.011 and 0.9.

    >>> clear_level(0.011, 0.9)
    0.0099
    """
    return float(f"{limit * ratio:.12g}")


def clear_levels(limit: Floats, ratio: float) -> Floats:
    """Return the `clear_level` of each limit.

    >>> clear_levels(np.array([0.011, 150.0]), 0.9).tolist()
    [0.0099, 135.0]
    """
    if len(limit) and (limit == limit[0]).all():  # as a rule, and without the time that sorting takes
        return np.full(len(limit), clear_level(limit[0], ratio))
    distinct, place = np.unique(limit, return_inverse=True)
    levels: Floats = np.array([clear_level(one, ratio) for one in distinct.tolist()])[place]
    return levels


def elapsed_s(begin: Any, end: Any) -> Any:
    """Return the seconds between times to the microsecond; floats or arrays.

    >>> float(elapsed_s(1767225600.1, 1767225610.1))
    10.0
    """
    return np.round(end - begin, _DECIMALS_OF_TIME)


def elapsed_s_of_one(begin: float, end: float) -> float:
    """Return what `elapsed_s` does for floats, in a fiftieth of its time.

    >>> elapsed_s_of_one(1767225600.1, 1767225610.1)
    10.0
    """
    elapsed = end - begin
    microseconds = elapsed * 1e6
    # Of floats as large as these each is a whole number.
    return round(microseconds) / 1e6 if abs(microseconds) < 2.0**53 else elapsed


PERFECT: Final = 5.0


def evaluate_windows(
    rule: Rule,
    ended: Summaries,
    in_watch: NDArray[np.bool_],
    settings: AlertSettings,
    mos_below: float,
    frozen: NDArray[np.bool_] | None,
) -> Iterator[tuple[Transition, list[float]]]:
    """Apply windows in order of their ends, of those `in_watch` that have a MOS; each change with its window.

    Values and limits of the changes are MOS, the limit `mos_below`. `frozen` is that of `Rule.evaluate`.
    """
    rows = np.flatnonzero(in_watch & ~np.isnan(ended.values[:, Column.MOS]))
    # Rounded, so that what is missing to a perfect score compares as the scores themselves do.
    missing = np.round(PERFECT - ended.values[rows, Column.MOS], 3)
    limit = np.full(len(rows), round(PERFECT - mos_below, 9))
    values = Values(rows, ended.slot[rows], ended.values[rows, Column.END], missing, limit)
    for found in rule.evaluate(values, settings, frozen=frozen):
        window = ended.values[found.row].tolist()
        yield found._replace(row=NO_FRAME, value=window[Column.MOS], limit=mos_below), window
