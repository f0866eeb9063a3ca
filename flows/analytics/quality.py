"""The rule over windows: a MOS below the limit. To the machinery of rules, the metric is what is missing to a 5."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flows.analytics.records import AlertSettings
from flows.analytics.rules import NO_FRAME, Rule, Transition, Values
from flows.analytics.windows import END, MOS, Summaries

__all__ = ["evaluate_windows"]

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
    rows = np.flatnonzero(in_watch & ~np.isnan(ended.values[:, MOS]))
    # Rounded, so that what is missing to a perfect score compares as the scores themselves do.
    missing = np.round(PERFECT - ended.values[rows, MOS], 3)
    limit = np.full(len(rows), round(PERFECT - mos_below, 9))
    values = Values(rows, ended.slot[rows], ended.values[rows, END], missing, limit)
    for found in rule.evaluate(values, settings, frozen=frozen):
        window = ended.values[found.row].tolist()
        yield found._replace(row=NO_FRAME, value=window[MOS], limit=mos_below), window
