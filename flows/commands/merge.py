"""Merge the results of the instances that divide the conversations: one set of files, and the incidents of groups.

Windows and alerts of conversations are the instances' own, put in order. The windows of groups are sums: counts, means,
minima and maxima are exact, quantiles are within 1 % as in one instance, for all count latencies in the same buckets.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import orjson

from connectors.errors import UsageError
from connectors.format.lines import line_time
from connectors.journal.segments import segments
from connectors.state.files import LOCK_NAME, make_private_dir, state_errors
from flows.analytics.group_incidents import GroupIncidents, Judged
from flows.analytics.group_parts import GroupPart
from flows.analytics.group_windows import part_of_line
from flows.analytics.groups import Span
from flows.analytics.precedence import flow_settings
from flows.commands.export import KINDS, result_lines
from flows.data.results import result_files
from flows.settings.models import Settings
from flows.state import StateLayout

__all__ = ["Merged", "merge", "span_of_groups"]

TAIL_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Merged:
    """The number of lines of each kind; `missing` are the instances of which no group has a part."""

    counts: dict[str, int]
    missing: tuple[int, ...]


def merge(sources: Sequence[Path], out: Path, settings: Settings | None) -> Merged:
    """Merge the results in state directories into files in `out`.

    With `settings`, whose `[groups]` counts, the incidents of groups are judged, and their alerts are written among the
    others. Raises UsageError for a directory without results, for one with groups that are not parts, for an instance
    that is named twice, and if `out` is in use; StateError for files that cannot be read or written.
    """
    for source in sources:
        if not any(result_files(source, kind) for kind in KINDS):
            raise UsageError(f"{source} holds no results: neither windows.jsonl nor groups.jsonl nor alerts.jsonl")
    if (out / LOCK_NAME).exists() or any(out.exists() and out.samefile(source) for source in sources):
        raise UsageError(f"--out {out}: is the state directory of a run; choose another")
    _check_distinct(sources)
    make_private_dir(out)
    groups = _Groups(settings)
    counts = {
        "windows": _write(out / "windows.jsonl", _in_order(sources, "windows", "end", "conversation_id")),
        "groups": _write(out / "groups.jsonl", groups.lines(sources)),
    }
    alerts = heapq.merge(
        *(_timed(source, "alerts", "timestamp") for source in sources), groups.alerts, key=itemgetter(0)
    )
    counts["alerts"] = _write(out / "alerts.jsonl", (line for _, line in alerts))
    return Merged(counts, groups.missing())


def _check_distinct(sources: Sequence[Path]) -> None:
    """Raise UsageError if a directory, or the same instance in two directories, is among the sources twice."""
    directories: dict[Path, Path] = {}
    instances: dict[int, Path] = {}
    for source in sources:
        if (directory := source.resolve()) in directories:
            raise UsageError(f"an instance is named twice: {directories[directory]}, {source}")
        directories[directory] = source
        for text, _ in islice(result_lines(source, "groups"), 1):
            index = json.loads(text).get("part", {}).get("index")
            if index is not None and (first := instances.setdefault(index, source)) is not source:
                raise UsageError(f"instance {index} is named twice: {first} and {source} have parts of it")


def span_of_groups(settings: Settings | None, until: float) -> Span:
    """Return the span of time until then, in which the groups of all instances together are judged by the settings."""
    flow = flow_settings({} if settings is None else settings.flow_record())
    flow.groups.part = None
    slide_ms = round(flow.windows.slide_s * 1000)
    return Span(until, 0, flow.groups, None, keeps_open=True, slide_ms=slide_ms)


def _write(path: Path, lines: Iterable[bytes]) -> int:
    count = 0
    with state_errors(f"writing {path}"), path.open("wb") as file:
        for line in lines:
            file.write(line if line.endswith(b"\n") else line + b"\n")
            count += 1
    return count


def _timed(source: Path, kind: str, *keys: str) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    for line, _ in result_lines(source, kind):
        values = orjson.loads(line)
        yield tuple(values[key] for key in keys), line


def _in_order(sources: Sequence[Path], kind: str, *keys: str) -> Iterator[bytes]:
    merged = heapq.merge(*(_timed(source, kind, *keys) for source in sources), key=itemgetter(0))
    return (line for _, line in merged)


def _last_time(source: Path) -> float:
    """Return the time of the last record in a directory's journal, in epoch seconds; -inf without one."""
    newest = [path for path in segments(StateLayout(source).journal)[-1:] if path.suffix == ".jsonl"]
    for path in newest:
        with state_errors(f"reading {path}"), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            times = map(line_time, reversed(file.read().split(b"\n")))
            return next((time for time in times if time is not None), -math.inf)
    return -math.inf


class _Groups:
    """Adds the parts of groups up, and judges them."""

    def __init__(self, settings: Settings | None) -> None:
        self._is_judged = settings is not None
        self._span = partial(span_of_groups, settings)
        self._incidents = GroupIncidents()
        self._seen: set[int] = set()
        self._count = 0
        self.alerts: list[tuple[tuple[float], bytes]] = []

    def lines(self, sources: Sequence[Path]) -> Iterator[bytes]:
        """Return the lines of the merged windows, in order; `alerts` is complete behind the last."""
        parts = heapq.merge(*map(self._parts, sources), key=lambda part: (part.end, part.start, part.name, part.value))
        for end, of_end in groupby(parts, key=lambda part: part.end):
            judged = self._incidents.apply([self._span(end)], list(of_end), [], last=False)
            self._keep(judged)
            yield from map(orjson.dumps, judged.lines)
        # Incidents may resolve behind the last window, while no conversation has a frame.
        if (now := max(map(_last_time, sources), default=-math.inf)) > -math.inf:
            judged = self._incidents.apply([self._span(now)], [], [], last=False)
            self._keep(judged)

    def missing(self) -> tuple[int, ...]:
        """Return the numbers of instances without a part."""
        return tuple(sorted(set(range(self._count)) - self._seen))

    def _keep(self, judged: Judged) -> None:
        if self._is_judged:
            self.alerts += [((alert.time,), alert.body) for alert in judged.alerts]

    def _parts(self, source: Path) -> Iterator[GroupPart]:
        for text, _ in result_lines(source, "groups"):
            line = json.loads(text)
            if "part" not in line:
                raise UsageError(
                    f"{source}: its groups are whole, not parts of several instances; [shard] count was 1 in its run"
                )
            self._seen.add(line["part"]["index"])
            self._count = max(self._count, line["part"]["count"])
            yield part_of_line(line)
