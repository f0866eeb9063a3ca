"""Count the calls that failed by the code of the error, and by the labels of the legs that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flows.report.incidents import Incident
from flows.web.failures import LABELS

__all__ = ["FailureRow", "failures_of"]

_FAILED: Final = "CALL_FAILED"
_SHOWN: Final = 3


@dataclass(frozen=True)
class FailureRow:
    """The failures with one code; `labels` has the most frequent values of each label, with their numbers."""

    code: str
    count: int
    conversations: int
    labels: list[tuple[str, list[tuple[str, int]]]]


def failures_of(
    incidents: Iterable[Incident], shown: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda labels: labels
) -> list[FailureRow]:
    """Return a row for each code, that of most failures first. `shown` gives the labels as they may be shown.

    A failure without a code counts under its disconnect type.
    """
    by_code: dict[str, list[Incident]] = {}
    for one in incidents:
        if one.rule == _FAILED:
            by_code.setdefault(one.code or "without a code", []).append(one)
    rows = []
    for code, own in by_code.items():
        labels = [shown(one.labels) for one in own]
        counts = [(name, Counter(one[name] for one in labels if name in one)) for name in LABELS]
        most = [(name, sorted(of.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]) for name, of in counts if of]
        rows.append(FailureRow(code, len(own), len({one.conversation for one in own}), most))
    return sorted(rows, key=lambda row: (-row.count, row.code))
