"""Replay blocks through shards and the merge, with stops."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from connectors.format.decode import decode_block
from flows.analytics.alerts import Alert
from flows.analytics.merge import Merger, block_stats
from flows.analytics.shard import Shard
from flows.analytics.shards import split

__all__ = ["replay_groups"]


def replay_groups(
    blocks: Sequence[Sequence[bytes]], shards: int, stops: frozenset[int]
) -> tuple[list[bytes], list[Alert]]:
    """Return the lines of groups and the alerts; after each block in `stops` all state goes through a pickle."""
    team, merger = [Shard() for _ in range(shards)], Merger(shards)
    lines: list[bytes] = []
    alerts: list[Alert] = []
    for number, block in enumerate(blocks):
        decoded = decode_block(b"".join(line + b"\n" for line in block))
        merger.add_stats([block_stats(number, "", 1, decoded)])
        for shard, part in zip(team, split(number, decoded, shards, last=number == len(blocks) - 1), strict=True):
            merger.add_results(number, [shard.apply(part)])
        for report in merger.results():
            lines += report.groups.splitlines()
            alerts += report.alerts
        if number in stops:
            kept = pickle.loads(pickle.dumps(([shard.snapshot() for shard in team], merger.groups.snapshot())))
            team, merger = [Shard() for _ in range(shards)], Merger(shards, number + 1)
            merger.groups.restore(kept[1])
            for shard, state in zip(team, kept[0], strict=True):
                shard.restore(state)
    return lines, alerts
