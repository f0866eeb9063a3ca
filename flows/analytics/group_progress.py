"""What one of several instances tells about groups while it runs: how far it has come, and what it adds until then.

Who adds up the parts of all instances has to know that a part is whole, and that an instance without a conversation
adds nothing. So there is a line for each end of windows that journal time reaches, also for one without a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from flows.analytics.group_parts import GroupPart
from flows.analytics.group_windows import part_of_line
from flows.analytics.groups import Span

__all__ = ["Progress", "progress_lines", "progress_of_line"]

MAX_GAP_S: Final = 600.0
"""In a longer gap of journal time no window ends, and its last ends are enough."""
_KEYS: Final = ("group", "start", "end", "conversations", "breaching", "frames", "part")


class Progress(NamedTuple):
    """What instance `instance` of `instances` adds to groups from the line before up to the time `until`."""

    until: float
    instance: int
    instances: int
    parts: tuple[GroupPart, ...]


def progress_lines(reached: float, span: Span, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the time from `reached` to the end of a span, whose `groups` lines were written in it."""
    if span.groups.part is None or not math.isfinite(span.until):
        return []
    begin = span.until if reached == -math.inf else max(reached, span.until - MAX_GAP_S)
    first = math.floor(begin * 1000.0 / span.slide_ms) + 1
    last = math.floor(span.until * 1000.0 / span.slide_ms)
    ends = {number * span.slide_ms / 1000.0 for number in range(first, last + 1)}
    ends.update(min(line["end"], span.until) for line in groups)
    left = sorted(groups, key=lambda line: min(line["end"], span.until))
    lines = []
    for end in sorted(ends):
        upto = next((at for at, line in enumerate(left) if min(line["end"], span.until) > end), len(left))
        index, count = span.groups.part
        parts = [{key: line[key] for key in _KEYS} for line in left[:upto]]
        lines.append({"until": end, "index": index, "count": count, "groups": parts})
        left = left[upto:]
    return lines


def progress_of_line(line: Mapping[str, Any]) -> Progress:
    """Read a line: the inverse of `progress_lines`. Raises KeyError, TypeError or ValueError for other lines."""
    parts = tuple(map(part_of_line, line["groups"]))
    return Progress(float(line["until"]), int(line["index"]), int(line["count"]), parts)
