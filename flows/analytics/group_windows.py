"""Make the windows of groups, and their lines, from what the shards add to them; and read such lines back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np

from flows.analytics.group_parts import GroupPart
from flows.analytics.histograms import Histogram, counted, middle_us
from flows.analytics.voice_quality import MODELS

__all__ = ["GroupWindow", "group_windows", "part_of_line"]

_SUMS: Final = ("latency", "loss", "mos", "codecs")
_PERCENTS: Final = (50, 95, 99)


class GroupWindow(NamedTuple):
    """A group's window: what judges it, and its line as an object."""

    conversations: int
    breaching: int
    line: dict[str, Any]


def group_windows(windows: Sequence[Sequence[GroupPart]], part: tuple[int, int] | None = None) -> list[GroupWindow]:
    """Return the window of each group from its parts of all shards, one at least for each.

    With `part`, the number of an instance and how many there are, the lines also have the sums that make them one of a
    whole: see `part_of_line`.
    """
    histogram = _histogram(windows)
    found = []
    for parts, quantiles in zip(windows, _quantiles_us(histogram, len(windows)), strict=True):
        sums = _joined(parts)
        line = _line(sums, quantiles)
        if part is not None:
            line["part"] = {"index": part[0], "count": part[1], **{name: getattr(sums, name) for name in _SUMS}}
        found.append(GroupWindow(sums.conversations, sums.breaching, line))
    if part is not None:
        for window, buckets in zip(found, histogram.by_row(len(windows)), strict=True):
            window.line["part"]["histogram"] = {str(bucket): times for bucket, times in buckets.items()}
    return found


def _histogram(windows: Sequence[Sequence[GroupPart]]) -> Histogram:
    """Return the sums of the parts' histograms by window, whose number is the row."""
    of_parts = [part.histogram for parts in windows for part in parts]
    window = np.repeat(np.arange(len(windows)), [sum(len(part.histogram) for part in parts) for parts in windows])
    bucket = np.fromiter(chain.from_iterable(of_parts), np.int64, len(window))
    times = np.fromiter(chain.from_iterable(one.values() for one in of_parts), np.int64, len(window))
    return counted(window, bucket, times)


def _quantiles_us(histogram: Histogram, windows: int) -> list[list[float]]:
    """Return the nearest-rank quantiles of each window's latencies; zeros or any others where it has no latency."""
    upto = np.append(0, np.cumsum(histogram.times))
    bounds = upto[np.searchsorted(histogram.row, np.arange(windows + 1))]
    before, count = bounds[:-1], np.diff(bounds)
    rank = before[:, None] + (np.multiply.outer(count, _PERCENTS) + 99) // 100
    bucket = np.append(0, histogram.bucket)[np.searchsorted(upto, rank)]
    return [list(map(middle_us, buckets)) for buckets in bucket.tolist()]


def _joined(parts: Sequence[GroupPart]) -> GroupPart:
    """Return the sum of parts of one window of one group, one at least, with the histogram of the first."""
    if len(parts) == 1:
        return parts[0]
    *_, conversations, breaching, frames, latency, loss, mos, codecs, _ = zip(*parts, strict=True)
    latencies, latency_us, least, most = zip(*latency, strict=True)
    losses, billionths, worst = zip(*loss, strict=True)
    rated, thousandths, lowest = zip(*mos, strict=True)
    return parts[0]._replace(
        conversations=sum(conversations),
        breaching=sum(breaching),
        frames=sum(frames),
        latency=(sum(latencies), sum(latency_us), min(least), max(most)),
        loss=(sum(losses), sum(billionths), max(worst)),
        mos=(sum(rated), sum(thousandths), min(lowest)),
        codecs=tuple(map(any, zip(*codecs, strict=True))),
    )


def _line(sums: GroupPart, quantiles_us: Sequence[float]) -> dict[str, Any]:
    latencies, latency_us, least, most = sums.latency
    losses, billionths, worst = sums.loss
    rated, thousandths, lowest = sums.mos
    latency: dict[str, Any] = {}
    if latencies:
        latency = {"count": latencies, "min": least, "mean": round(latency_us / latencies / 1000.0, 6), "max": most}
        for percent, quantile_us in zip(_PERCENTS, quantiles_us, strict=True):
            latency[f"p{percent}"] = min(max(round(quantile_us / 1000.0, 3), least), most)
    models = "; ".join(model for model, is_rated in zip(MODELS, sums.codecs, strict=True) if is_rated)
    return {
        "group": {sums.name: sums.value},
        "start": sums.start,
        "end": sums.end,
        "conversations": sums.conversations,
        "breaching": sums.breaching,
        "frames": sums.frames,
        "latency_ms": latency or None,
        "packet_loss": {"count": losses, "mean": round(billionths / losses / 1e9, 9), "max": worst} if losses else None,
        "mos": {"min": lowest, "mean": round(thousandths / rated / 1000.0, 3), "model": models} if rated else None,
    }


def part_of_line(line: Mapping[str, Any]) -> GroupPart:
    """Return what a line with a `part` adds to its group's window: the inverse of `group_windows`."""
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
