"""What a shard's conversations add to the windows of groups: those that share the value of a label.

A window of a conversation counts for a group under the labels that it carries. All sums are of whole numbers, so that
they are the same however the conversations are spread over shards. Latencies are counted in buckets that are 1 % wide,
so that quantiles of a group are within 0.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from connectors.format.records import GroupSettings
from flows.analytics.histograms import NO_HISTOGRAM, Histogram, middle_us
from flows.analytics.label_texts import LabelTexts
from flows.analytics.rules import Rule, Transition
from flows.analytics.stalls import Stalls
from flows.analytics.voice_quality import CODECS, MODELS
from flows.analytics.windows import Column, Summaries

__all__ = [
    "Breaches",
    "GroupPart",
    "GroupTracker",
    "GroupWindow",
    "Span",
    "group_parts",
    "group_window",
    "part_of_line",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SUMS: Final = ("latency", "loss", "mos", "codecs")


class Span(NamedTuple):
    """The settings in force until a time, and there until the frame `row` of the block; `slide_ms` is that of windows.

    `keeps_open`: whether an alert that is raised stays open. `step_s`: by how much the clock steps behind the span.
    """

    until: float
    row: int
    groups: GroupSettings
    max_per_minute: int | None
    keeps_open: bool
    slide_ms: int
    step_s: float | None = None


class GroupPart(NamedTuple):
    """What one shard adds to a group's window; latencies in whole microseconds, losses in 1e-9, MOS in 1e-3."""

    name: str
    value: str
    start: float
    end: float
    conversations: int
    breaching: int
    frames: int
    latency: tuple[int, float, float, float]
    loss: tuple[int, float, float]
    mos: tuple[int, float, float]
    codecs: tuple[bool, ...]
    histogram: dict[int, int]


class GroupWindow(NamedTuple):
    """A group's window: what judges it, and its line as an object."""

    conversations: int
    breaching: int
    line: dict[str, Any]


class GroupTracker:
    """What a shard notes while it applies a block, so that it can tell what its windows add to groups.

    While no groups are configured, it notes incidents only, for they may be open when groups are.
    """

    def __init__(self) -> None:
        self.by: tuple[str, ...] = ()
        self.breaches = Breaches()
        self._closed: list[tuple[Summaries, Histogram, tuple[str, ...]]] = []
        self._changes: list[tuple[float, int, int]] = []

    def breached(self, transition: Transition) -> None:
        """Take a leg's media above a limit as a frame above it."""
        if self.by and transition.state == "raised":
            self.breaches.add(np.array([transition.arrival]), np.array([transition.slot], np.int32))

    def closed(self, windows: Summaries, histogram: Histogram | None) -> None:
        """Note windows that have closed."""
        if self.by and len(windows.slot):
            self._closed.append((windows, histogram or NO_HISTOGRAM, self.by))

    def changed(self, transition: Transition) -> None:
        """Note that an incident was opened or resolved."""
        self._changes.append((transition.arrival, transition.slot, 1 if transition.state == "raised" else -1))

    def parts(
        self, rules: Sequence[Rule], stalls: Stalls, signals: Mapping[int, int], texts: LabelTexts, oldest: float
    ) -> list[GroupPart]:
        """Return what the windows that have closed add to groups, and reset them.

        `rules` and `stalls` know the open incidents, `signals` how many of them a slot has by signals. Frames before
        `oldest` are in no open window.
        """
        found: list[GroupPart] = []
        if self._closed:
            open_now: Ints = np.sum([*(rule.is_open.values for rule in rules), stalls.is_open], axis=0)
            open_now[list(signals)] += np.array(list(signals.values()), np.int64)
            for windows, histogram, by in self._closed:
                breaching = self.breaches.within(windows, len(open_now)) | self._had_open(windows, open_now)
                numbers = np.unique(windows.values[:, Column.LABELS].astype(np.int64)).tolist()
                labels = {number: orjson.loads(texts.text(number)) for number in numbers}
                found += group_parts(windows, histogram, breaching, by, labels)
            self.breaches.forget(oldest)
        self._closed, self._changes = [], []
        return found

    def _had_open(self, windows: Summaries, open_now: Ints) -> NDArray[np.bool_]:
        """Return for each window whether its conversation had an open incident just before its end."""
        ends, place = np.unique(windows.values[:, Column.END], return_inverse=True)
        found = np.zeros(len(windows.slot), np.bool_)
        for at, end in enumerate(ends.tolist()):
            then = open_now.copy()
            for time, slot, opened in self._changes:
                if time >= end:
                    then[slot] -= opened
            rows = place == at
            found[rows] = then[windows.slot[rows]] > 0
        return found


class Breaches:
    """The frames above a limit within the windows that are open: their arrivals and slots."""

    def __init__(self) -> None:
        self._arrival = np.empty(0)
        self._slot = np.empty(0, np.int32)

    def add(self, arrival: Floats, slot: NDArray[np.int32]) -> None:
        """Add frames above a limit."""
        self._arrival = np.append(self._arrival, arrival)
        self._slot = np.append(self._slot, slot)

    def within(self, closed: Summaries, slots: int) -> NDArray[np.bool_]:
        """Return for each window whether it holds such a frame; there are `slots` slots."""
        found = np.zeros(len(closed.slot), np.bool_)
        if not len(self._slot):
            return found
        spans, span = np.unique(closed.values[:, [Column.START, Column.END]], axis=0, return_inverse=True)
        for at, (start, end) in enumerate(spans.tolist()):
            breaching = np.zeros(slots, np.bool_)
            breaching[self._slot[(self._arrival >= start) & (self._arrival < end)]] = True
            rows = span.ravel() == at
            found[rows] = breaching[closed.slot[rows]]
        return found

    def forget(self, before: float = -np.inf, slot: int | None = None) -> None:
        """Drop the frames before a time, or of a slot."""
        if not len(self._slot):
            return
        kept = self._arrival >= before if slot is None else self._slot != slot
        self._arrival, self._slot = self._arrival[kept], self._slot[kept]

    def snapshot(self) -> tuple[Any, ...]:
        """Return a plain value that `restore` takes, sharing nothing with this."""
        return (self._arrival.copy(), self._slot.copy())

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        """Take a snapshot's place."""
        self._arrival, self._slot = (array.copy() for array in snapshot)


def group_parts(
    closed: Summaries,
    histogram: Histogram,
    breaching: NDArray[np.bool_],
    by: Sequence[str],
    labels: Mapping[int, Mapping[str, str]],
) -> list[GroupPart]:
    """Return what windows, shape (n,), add to their groups; `labels` has those of each number among them."""
    parts: list[GroupPart] = []
    spans, span = np.unique(closed.values[:, [Column.START, Column.END]], axis=0, return_inverse=True)
    number = closed.values[:, Column.LABELS].astype(np.int64)
    for name in by:
        values = sorted({value for one in labels.values() if (value := one.get(name)) is not None})
        place = {value: at for at, value in enumerate(values)}
        of_number = np.full(max(labels, default=0) + 1, -1)
        for at, one in labels.items():
            of_number[at] = place.get(one.get(name, ""), -1)
        group = np.where(of_number[number] < 0, -1, span.ravel() * max(1, len(values)) + of_number[number])
        order = np.argsort(group, kind="stable")
        begins = np.flatnonzero(np.append(True, np.diff(group[order]) != 0)) if len(order) else np.empty(0, np.int64)
        of_row = group[histogram.row]
        by_group = np.argsort(of_row, kind="stable")
        sorted_groups = of_row[by_group]
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(order)], strict=True):
            rows = order[begin:end]
            key = int(group[rows[0]])
            if key < 0:
                continue
            start, stop = spans[key // len(values)].tolist()
            low, high = np.searchsorted(sorted_groups, [key, key + 1])
            of_group = by_group[low:high]
            counted = _counted(histogram.bucket[of_group], histogram.times[of_group])
            parts.append(
                _part(name, values[key % len(values)], start, stop, closed.values[rows], breaching[rows], counted)
            )
    return parts


def _counted(bucket: Ints, count: Ints) -> dict[int, int]:
    distinct, place = np.unique(bucket, return_inverse=True)
    sums = np.bincount(place, weights=count, minlength=len(distinct)).astype(np.int64)
    return dict(zip(distinct.tolist(), sums.tolist(), strict=True))


def _part(
    name: str,
    value: str,
    start: float,
    end: float,
    values: Floats,
    breaching: NDArray[np.bool_],
    histogram: dict[int, int],
) -> GroupPart:
    latency = values[values[:, Column.LATENCY_COUNT] > 0]
    loss = values[values[:, Column.LOSS_COUNT] > 0]
    mos = values[~np.isnan(values[:, Column.MOS])]
    return GroupPart(
        name,
        value,
        start,
        end,
        len(values),
        int(np.count_nonzero(breaching)),
        int(values[:, Column.FRAMES].sum()),
        (
            int(latency[:, Column.LATENCY_COUNT].sum()),
            float(np.rint(latency[:, Column.LATENCY_MEAN] * latency[:, Column.LATENCY_COUNT] * 1000.0).sum()),
            float(latency[:, Column.LATENCY_MIN].min(initial=np.inf)),
            float(latency[:, Column.LATENCY_MAX].max(initial=-np.inf)),
        ),
        (
            int(loss[:, Column.LOSS_COUNT].sum()),
            float(np.rint(loss[:, Column.LOSS_MEAN] * loss[:, Column.LOSS_COUNT] * 1e9).sum()),
            float(loss[:, Column.LOSS_MAX].max(initial=0.0)),
        ),
        (len(mos), float(np.rint(mos[:, Column.MOS] * 1000.0).sum()), float(mos[:, Column.MOS].min(initial=np.inf))),
        tuple(bool((mos[:, Column.CODEC] == codec).any()) for codec in range(len(CODECS))),
        histogram,
    )


def group_window(parts: Sequence[GroupPart], part: tuple[int, int] | None = None) -> GroupWindow:
    """Return the window of one group from the parts of all shards, one at least.

    With `part`, the number of an instance and how many there are, the line also has the sums that make it one of a
    whole: see `part_of_line`.
    """
    first = parts[0]
    conversations, breaching = sum(part.conversations for part in parts), sum(part.breaching for part in parts)
    losses = sum(part.loss[0] for part in parts)
    rated = sum(part.mos[0] for part in parts)
    models = [model for codec, model in enumerate(MODELS) if any(part.codecs[codec] for part in parts)]
    line = {
        "group": {first.name: first.value},
        "start": first.start,
        "end": first.end,
        "conversations": conversations,
        "breaching": breaching,
        "frames": sum(part.frames for part in parts),
        "latency_ms": _latency(parts),
        "packet_loss": {
            "count": losses,
            "mean": round(sum(part.loss[1] for part in parts) / losses / 1e9, 9),
            "max": max(part.loss[2] for part in parts),
        }
        if losses
        else None,
        "mos": {
            "min": min(part.mos[2] for part in parts),
            "mean": round(sum(part.mos[1] for part in parts) / rated / 1000.0, 3),
            "model": "; ".join(models),
        }
        if rated
        else None,
    }
    if part is not None:
        sums = joined_part(parts)
        line["part"] = {
            "index": part[0],
            "count": part[1],
            **{name: getattr(sums, name) for name in _SUMS},
            "histogram": {str(bucket): times for bucket, times in sorted(sums.histogram.items())},
        }
    return GroupWindow(conversations, breaching, line)


def joined_part(parts: Sequence[GroupPart]) -> GroupPart:
    """Return the sum of parts of one window of one group, one at least."""
    histogram: dict[int, int] = {}
    for part in parts:
        for bucket, times in part.histogram.items():
            histogram[bucket] = histogram.get(bucket, 0) + times
    return parts[0]._replace(
        conversations=sum(part.conversations for part in parts),
        breaching=sum(part.breaching for part in parts),
        frames=sum(part.frames for part in parts),
        latency=(
            sum(part.latency[0] for part in parts),
            sum(part.latency[1] for part in parts),
            min(part.latency[2] for part in parts),
            max(part.latency[3] for part in parts),
        ),
        loss=(
            sum(part.loss[0] for part in parts),
            sum(part.loss[1] for part in parts),
            max(part.loss[2] for part in parts),
        ),
        mos=(
            sum(part.mos[0] for part in parts),
            sum(part.mos[1] for part in parts),
            min(part.mos[2] for part in parts),
        ),
        codecs=tuple(map(any, zip(*(part.codecs for part in parts), strict=True))),
        histogram=histogram,
    )


def part_of_line(line: Mapping[str, Any]) -> GroupPart:
    """Return what a line with a `part` adds to its group's window: the inverse of `group_window`."""
    [(name, value)] = line["group"].items()
    sums = line["part"]
    return GroupPart(
        name,
        value,
        float(line["start"]),
        float(line["end"]),
        line["conversations"],
        line["breaching"],
        line["frames"],
        _floats(sums["latency"], (0, 0.0, math.inf, -math.inf)),
        _floats(sums["loss"], (0, 0.0, 0.0)),
        _floats(sums["mos"], (0, 0.0, math.inf)),
        tuple(sums["codecs"]),
        {int(bucket): times for bucket, times in sums["histogram"].items()},
    )


def _floats(values: Sequence[Any], empty: tuple[Any, ...]) -> Any:
    """Return a count and floats; JSON has null for the infinite ones of an empty sum."""
    pairs = zip(values, empty, strict=True)
    return tuple(none if value is None else type(none)(value) for value, none in pairs)


def _latency(parts: Sequence[GroupPart]) -> dict[str, Any] | None:
    count = sum(part.latency[0] for part in parts)
    if not count:
        return None
    least, most = min(part.latency[2] for part in parts), max(part.latency[3] for part in parts)
    histogram: dict[int, int] = {}
    for part in parts:
        for bucket, times in part.histogram.items():
            histogram[bucket] = histogram.get(bucket, 0) + times
    ordered = sorted(histogram)
    upto = np.cumsum([histogram[bucket] for bucket in ordered])
    quantiles = {}
    for percent in (50, 95, 99):
        bucket = ordered[int(np.searchsorted(upto, (percent * count + 99) // 100))]
        quantiles[f"p{percent}"] = min(max(round(middle_us(bucket) / 1000.0, 3), least), most)
    mean = round(sum(part.latency[1] for part in parts) / count / 1000.0, 6)
    return {"count": count, "min": least, "mean": mean, "max": most, **quantiles}
