"""Sum up columns of windows: totals, labels, bands of MOS, columns of time, worst conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from flows.report.windows import Windows

__all__ = [
    "BANDS",
    "MIN_RANKED",
    "Band",
    "Bar",
    "Ranked",
    "Totals",
    "bands_of",
    "bars_of",
    "ranked",
    "step_of",
    "totals",
    "worst",
]

MINUTE_S: Final = 60
# A share of fewer conversations says too little to be compared with others.
MIN_RANKED: Final = 30
BANDS: Final = (("below 2.6", 0.0), ("2.6 to 3.1", 2.6), ("3.1 to 3.6", 3.1), ("3.6 to 4.0", 3.6), ("4.0 or more", 4.0))
STEPS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 21_600, 86_400, 7 * 86_400, 30 * 86_400)
MAX_BARS: Final = 72


@dataclass(frozen=True)
class Totals:
    """Sums of some windows; None where nothing was measured. `minutes` are those of each conversation."""

    conversations: int
    breaching_conversations: int
    windows: int
    breaching: int
    minutes: int
    breaching_minutes: int
    p95_ms: float | None
    highest_p95_ms: float | None
    loss: float | None
    mos: float | None
    lowest_mos: float | None
    lag_ms: float | None
    highest_lag_ms: float | None

    @property
    def share(self) -> float | None:
        """Return the share of windows in breach."""
        return self.breaching / self.windows if self.windows else None

    @property
    def conversations_share(self) -> float | None:
        """Return the share of conversations with a window in breach."""
        return self.breaching_conversations / self.conversations if self.conversations else None


@dataclass(frozen=True)
class Ranked:
    """A value of a label with its sums; `rank` is None where too few conversations have it."""

    value: str
    rank: int | None
    totals: Totals


@dataclass(frozen=True)
class Band:
    """How many windows had a MOS in a band."""

    name: str
    windows: int
    share: float


@dataclass(frozen=True)
class Bar:
    """Sums of a column of time."""

    start: float
    end: float
    windows: int
    breaching: int
    conversations: int


def totals(windows: Windows) -> Totals:
    """Sum up windows."""
    bad = windows.at(windows.in_breach)
    p95, mos = _measured(windows.p95_ms), _measured(windows.mos)
    losses, measured = float(np.nansum(windows.loss_mean * windows.loss_count)), float(windows.loss_count.sum())
    lags, late = float(np.nansum(windows.lag_mean * windows.lag_count)), float(windows.lag_count.sum())
    return Totals(
        len(np.unique(windows.conversation)),
        len(np.unique(bad.conversation)),
        len(windows),
        len(bad),
        len(np.unique(_minutes(windows))),
        len(np.unique(_minutes(bad))),
        float(np.median(p95)) if len(p95) else None,
        float(p95.max()) if len(p95) else None,
        losses / measured if measured else None,
        float(mos.mean()) if len(mos) else None,
        float(mos.min()) if len(mos) else None,
        lags / late if late else None,
        float(np.nanmax(windows.lag_max)) if late else None,
    )


def ranked(windows: Windows, values: Sequence[str | None]) -> list[Ranked]:
    """Return the values of a label, worst first, then those of too few conversations to be ranked.

    `values` has the label's value of each place in `windows.label_sets`, None where it is not set.
    """
    names = sorted({value for value in values if value is not None})
    places = {name: place for place, name in enumerate(names)}
    of_set = np.array([-1 if value is None else places[value] for value in values] or [-1], dtype=np.int64)
    of_row = of_set[windows.labelled]
    order = np.argsort(of_row, kind="stable")
    edges = np.searchsorted(of_row[order], np.arange(len(names) + 1))
    rows = [
        (name, totals(windows.at(order[begin:end])))
        for name, (begin, end) in zip(names, pairwise(edges), strict=True)
        if end > begin
    ]
    rows.sort(key=lambda row: (row[1].conversations < MIN_RANKED, -(row[1].share or 0.0), -row[1].windows, row[0]))
    enough = sum(sums.conversations >= MIN_RANKED for _, sums in rows)
    return [Ranked(value, place + 1 if place < enough else None, sums) for place, (value, sums) in enumerate(rows)]


def bands_of(windows: Windows) -> list[tuple[str, list[Band]]]:
    """Return for each model of MOS how its windows are spread over the bands."""
    found = []
    for place, model in enumerate(windows.models):
        values = windows.mos[windows.model == place]
        if len(values):
            counts = np.bincount(np.digitize(values, [low for _, low in BANDS][1:]), minlength=len(BANDS))
            pairs = zip(BANDS, counts.tolist(), strict=True)
            found.append((model, [Band(name, count, count / len(values)) for (name, _), count in pairs]))
    return found


def step_of(length_s: float) -> int:
    """Return the length of a column of time in seconds.

    >>> [step_of(length) for length in (3600, 86_400, 7 * 86_400)]
    [60, 3600, 21600]
    """
    return next((step for step in STEPS_S if length_s / step <= MAX_BARS), STEPS_S[-1])


def bars_of(windows: Windows, start: float, end: float) -> list[Bar]:
    """Return the sums of each column of time from `start` until `end`; a window counts by its end."""
    step = step_of(end - start)
    first = int(start // step)
    count = max(int(-(-end // step)) - first, 1)
    at = (windows.end // step).astype(np.int64) - first
    total = np.bincount(at, minlength=count)
    bad = np.bincount(at[windows.in_breach], minlength=count)
    pairs = np.unique(at * (len(windows.ids) + 1) + windows.conversation)
    calls = np.bincount(pairs // (len(windows.ids) + 1), minlength=count)
    return [
        Bar(float((first + n) * step), float((first + n + 1) * step), int(total[n]), int(bad[n]), int(calls[n]))
        for n in range(count)
    ]


def worst(windows: Windows, number: int) -> list[int]:
    """Return the places of the conversations with most windows in breach, worst first; at most `number`."""
    count = len(windows.ids)
    bad = np.bincount(windows.conversation[windows.in_breach], minlength=count)
    total = np.bincount(windows.conversation, minlength=count)
    order = np.lexsort((np.arange(count), -bad / np.maximum(total, 1), -bad))
    return [int(place) for place in order[:number] if bad[place]]


def _measured(values: Any) -> Any:
    return values[~np.isnan(values)]


def _minutes(windows: Windows) -> Any:
    """Return a number for each window that is the same for the same minute of the same conversation."""
    return (windows.start // MINUTE_S).astype(np.int64) * (len(windows.ids) + 1) + windows.conversation
