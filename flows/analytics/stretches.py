"""A shard's part of a block, cut where something comes between its frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from flows.analytics.records import Control
from flows.analytics.roster import REMEMBER_S
from flows.analytics.shards import ShardBlock

__all__ = ["days", "last_frames", "stretches"]


def stretches(block: ShardBlock) -> Iterator[tuple[ShardBlock, list[Control]]]:
    """Cut a block's rows where controls stand: each stretch of frames with the controls that follow it."""
    if not block.controls:
        yield block, []
        return
    places = np.searchsorted(block.row, [control.frames_before for control in block.controls]).tolist()
    placed = groupby(zip(places, block.controls, strict=True), key=itemgetter(0))
    begin = 0
    for place, controls in placed:
        yield _rows(block, begin, place), [control for _, control in controls]
        begin = place
    yield _rows(block, begin, len(block.row)), []


def days(frames: ShardBlock) -> Iterator[ShardBlock]:
    """Cut a stretch into parts so short that no conversation that ends in one can be watched again in it."""
    begin, rows = 0, len(frames.row)
    while begin < rows:
        is_within = frames.arrival[-1] < frames.arrival[begin] + REMEMBER_S
        end = rows if is_within else int(np.searchsorted(frames.arrival, frames.arrival[begin] + REMEMBER_S))
        yield _rows(frames, begin, end)
        begin = end


def last_frames(slot: NDArray[np.int32], watched: NDArray[np.bool_], ended: NDArray[np.bool_]) -> dict[int, int]:
    """The slots whose conversation ends in a stretch, each with the index of its last frame."""
    ends: dict[int, int] = {}
    if ended.any():
        for index in np.flatnonzero(ended & watched).tolist():
            ends.setdefault(int(slot[index]), index)
    return ends


def _rows(block: ShardBlock, begin: int, end: int) -> ShardBlock:
    if end - begin == len(block.row):
        return block
    rows = slice(begin, end)
    return block._replace(
        row=block.row[rows],
        arrival=block.arrival[rows],
        latency_us=block.latency_us[rows],
        packet_loss=block.packet_loss[rows],
        ended=block.ended[rows],
        ids=block.ids.part(rows),
    )
