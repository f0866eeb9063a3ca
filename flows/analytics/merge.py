"""What all shards made of a block, put back together in one order: that of the journal.

Windows come ordered by end, then conversation; alerts by the frame that caused them. So an output is the same, byte
for byte, on any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Final, NamedTuple

import numpy as np
import orjson

from connectors.format.decoded import Decoded, Rejected
from connectors.format.ids import Ids
from connectors.format.records import IGNORED
from connectors.format.words import text_of, widened
from flows.analytics.alerts import Alert
from flows.analytics.block_results import ShardResult
from flows.analytics.group_incidents import GroupIncidents
from flows.analytics.label_texts import with_long_texts
from flows.analytics.window_lines import WindowLines

__all__ = ["BlockResult", "BlockStats", "Counts", "Merger", "block_stats"]

LINES_TOGETHER: Final = 2000


class Counts(NamedTuple):
    """Counts; `conversations` are those that are watched and had a frame.

    `invalid` are messages that were not frames, `rejected` are lines that are not records,
    `ignored` are notifications that tell nothing of a voice conversation. `no_latency` are frames that do not tell when
    they arrived or were sent. `inhibited` are alerts that were not sent,
    `silent` watches that ended without a frame. `late` are events older than one of their session before them, and
    `late_us` is how long they took together, in microseconds.
    """

    frames: int = 0
    unwatched: int = 0
    invalid: int = 0
    rejected: int = 0
    torn: int = 0
    conversations: int = 0
    windows: int = 0
    raised: int = 0
    resolved: int = 0
    ignored: int = 0
    no_latency: int = 0
    inhibited: int = 0
    silent: int = 0
    late: int = 0
    late_us: int = 0


class BlockStats(NamedTuple):
    """What the decoder alone knows of block `number`; `line` is its first line's number in `source`."""

    number: int
    source: str
    line: int
    frames: int
    invalid: int
    ignored: int
    no_latency: int
    torn: int
    rejected: list[Rejected]


class BlockResult(NamedTuple):
    """All that a block led to. `windows`, `groups`, `alert_lines`, `rejected` and `progress` are JSON Lines."""

    windows: bytes
    alert_lines: bytes
    rejected: bytes
    alerts: list[Alert]
    counts: Counts
    groups: bytes = b""
    silent: tuple[tuple[float, str], ...] = ()
    progress: bytes = b""


def block_stats(number: int, source: str, line: int, decoded: Decoded) -> BlockStats:
    """Return the stats of a decoded block."""
    kinds = [control.kind for control in decoded.controls]
    no_latency = int(np.count_nonzero(np.isnan(decoded.latency_us)))
    counts = kinds.count("invalid"), kinds.count(IGNORED), no_latency, decoded.torn
    return BlockStats(number, source, line, len(decoded.arrival), *counts, decoded.rejected)


class Merger:
    """Collect the stats and all `shards` results of each block, and give the block's result when they are complete.

    A block has several parts where the clock stepped in it. Results come in the order of blocks, whatever arrives
    first.
    """

    def __init__(self, shards: int, number: int = 0) -> None:
        self.number = number
        self.groups = GroupIncidents()
        self._shards = shards
        self._stats: dict[int, list[BlockStats]] = {}
        self._results: dict[int, list[list[ShardResult]]] = {}

    def add_stats(self, stats: list[BlockStats]) -> None:
        """Add the decoder's counts of a block, of each of its parts."""
        self._stats[stats[0].number] = stats

    def add_results(self, number: int, results: list[ShardResult]) -> None:
        """Add what one shard made of block `number`, of each of its parts."""
        self._results.setdefault(number, []).append(results)

    @property
    def is_empty(self) -> bool:
        """Return whether no block is incomplete."""
        return not self._stats and not self._results

    def results(self) -> list[BlockResult]:
        """Return the results of all blocks that are complete and whose predecessors are."""
        results = []
        while self.number in self._stats and len(self._results.get(self.number, ())) == self._shards:
            of_parts = zip(*self._results.pop(self.number), strict=True)
            parts = zip(self._stats.pop(self.number), of_parts, strict=True)
            results.append(_in_sequence([_result_of(stats, results, self.groups) for stats, results in parts]))
            self.number += 1
        return results


def _result_of(stats: BlockStats, results: Sequence[ShardResult], groups: GroupIncidents) -> BlockResult:
    in_order = sorted(alert for result in results for alert in result.alerts)
    group_parts = [part for result in results for part in result.groups]
    lines, alerts, progress = groups.apply(results[0].spans, group_parts, in_order, last=results[0].last)
    silent = tuple(sorted(one for result in results for one in result.silent))
    late_us = [one for result in results for one in result.late_us]
    raised = sum(alert.state == "raised" for alert in alerts)
    return BlockResult(
        windows=_in_order([result.windows for result in results]),
        groups=_lines([orjson.dumps(line) for line in lines]),
        alert_lines=_lines([alert.body for alert in alerts]),
        rejected=_lines([_rejected_line(stats, rejected) for rejected in stats.rejected]),
        alerts=alerts,
        counts=Counts(
            frames=stats.frames,
            unwatched=sum(result.unwatched for result in results),
            invalid=stats.invalid,
            rejected=len(stats.rejected),
            torn=stats.torn,
            conversations=sum(result.conversations for result in results),
            windows=sum(len(result.windows.end) for result in results),
            raised=raised,
            resolved=len(alerts) - raised,
            ignored=stats.ignored,
            no_latency=stats.no_latency,
            inhibited=sum(not alert.is_sent for alert in alerts),
            silent=len(silent),
            late=len(late_us),
            late_us=sum(late_us),
        ),
        silent=silent,
        progress=_lines([orjson.dumps(line) for line in progress]),
    )


def _in_sequence(parts: list[BlockResult]) -> BlockResult:
    """Join the results of a block's parts, between which the clock stepped."""
    if len(parts) == 1:
        return parts[0]
    return BlockResult(
        windows=b"".join(part.windows for part in parts),
        groups=b"".join(part.groups for part in parts),
        alert_lines=b"".join(part.alert_lines for part in parts),
        rejected=b"".join(part.rejected for part in parts),
        alerts=[alert for part in parts for alert in part.alerts],
        counts=Counts(*map(sum, zip(*(part.counts for part in parts), strict=True))),
        silent=tuple(one for part in parts for one in part.silent),
        progress=b"".join(part.progress for part in parts),
    )


def _in_order(shards: Sequence[WindowLines]) -> bytes:
    """Return the lines of all shards by end, then conversation; each shard has them so, which makes sorting cheap."""
    shards = [windows for windows in shards if len(windows.end)]
    if not shards:
        return b""
    ids = reduce(Ids.concat, [windows.ids for windows in shards])
    end = np.concatenate([windows.end for windows in shards])
    words = max(windows.text.shape[1] for windows in shards)
    text = np.concatenate([widened(windows.text, words) for windows in shards])
    by_id = ids.order()
    in_order = by_id.take(np.argsort(end.take(by_id), kind="stable"))
    # Piece by piece, for a copy of the whole of each step would be the most memory that a replay takes.
    pieces = (text.take(in_order[at : at + LINES_TOGETHER], 0) for at in range(0, len(in_order), LINES_TOGETHER))
    long = reduce(or_, [windows.long for windows in shards])
    return ids.written_out(with_long_texts(b"".join(map(text_of, pieces)), long))


def _lines(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, b""]) if lines else b""


def _rejected_line(stats: BlockStats, rejected: Rejected) -> bytes:
    line = {"file": stats.source, "line": stats.line + rejected.line, "reason": rejected.reason}
    if rejected.text is None:
        return orjson.dumps({**line, "length": rejected.length, "sha256": rejected.sha256})
    return orjson.dumps({**line, "text": rejected.text})
