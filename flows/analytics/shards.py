"""Blocks to shards: which conversations go together, and what each shard gets of a block.

A conversation belongs permanently to one shard, by the hash of its id. Every shard gets every block, even one
that holds nothing for it, so that it can apply them in journal order whichever worker decoded them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connectors.format.decoded import Decoded
from connectors.format.ids import Ids
from connectors.format.records import CLOCK, MEDIA, SIGNAL, Control
from connectors.format.session_events import Events

__all__ = [
    "ShardBlock",
    "last_frames",
    "rows_of",
    "shards_of",
    "split",
    "split_at_controls",
    "split_by_time",
    "split_pieces",
]


class ShardBlock(NamedTuple):
    """The part of block `number` for shard `shard` of `shards`: the columns of `Decoded` for the shard's conversations.

    There are n rows, in journal order.

    `row` int64 (n,): the frame's place in the block. `controls`: those that concern this shard, placed by
    `frames_before` in the block. `events`: those of all shards, as in `Decoded`. `time`: the largest time in the whole
    block. `last`: the recording ends with this block.
    """

    number: int
    shard: int
    shards: int
    row: NDArray[np.int64]
    arrival: NDArray[np.float64]
    latency_us: NDArray[np.float64]
    packet_loss: NDArray[np.float64]
    ended: NDArray[np.bool_]
    ids: Ids
    events: Events
    controls: list[Control]
    time: float
    last: bool


def shards_of(ids: Ids, shards: int) -> NDArray[np.uint8]:
    """Return the shard of each row's conversation, shape (n,): always the same for one number of shards, up to 255."""
    # The upper half of the hash as a fraction of one.
    return ((ids.hash >> np.uint64(32)) * np.uint64(shards) >> np.uint64(32)).astype(np.uint8)


def split(number: int, decoded: Decoded, shards: int, *, last: bool) -> list[ShardBlock]:
    """Cut a decoded block into one `ShardBlock` for each shard, in the order of the shards."""
    shard = shards_of(decoded.ids, shards)
    row = np.argsort(shard, kind="stable")
    bounds = np.cumsum(np.bincount(shard, minlength=shards))
    controls = _controls_by_shard(decoded.controls, shards)
    return [
        ShardBlock(
            number=number,
            shard=index,
            shards=shards,
            row=rows,
            arrival=decoded.arrival.take(rows),
            latency_us=decoded.latency_us.take(rows),
            packet_loss=decoded.packet_loss.take(rows),
            ended=decoded.ended.take(rows),
            ids=decoded.ids.take(rows),
            events=decoded.events,
            controls=controls[index],
            time=decoded.time,
            last=last,
        )
        for index, rows in enumerate(row[begin:end] for begin, end in pairwise([0, *bounds.tolist()]))
    ]


def split_pieces(number: int, pieces: Sequence[Decoded], shards: int, *, last: bool) -> list[list[ShardBlock]]:
    """Cut a block of several pieces, between which the clock stepped: for each shard its part of every piece."""
    lasts = [*[False] * (len(pieces) - 1), last]
    parts = [split(number, piece, shards, last=is_last) for piece, is_last in zip(pieces, lasts, strict=True)]
    return [list(part) for part in zip(*parts, strict=True)]


def _controls_by_shard(controls: list[Control], shards: int) -> list[list[Control]]:
    """Send watches, signals and media to their conversation's shard; settings, feed states and clock steps to all."""
    by_shard: list[list[Control]] = [[] for _ in range(shards)]
    watched = [control.value.conversation_id for control in controls if control.kind == "watch"]
    of_watch = iter(shards_of(Ids.of(watched), shards).tolist())
    signalled = [control.value.conversation_id or "" for control in controls if control.kind in (SIGNAL, MEDIA)]
    of_signal = iter(shards_of(Ids.of(signalled), shards).tolist())
    for control in controls:
        if control.kind == "watch":
            by_shard[next(of_watch)].append(control)
        elif control.kind in (SIGNAL, MEDIA):
            by_shard[next(of_signal)].append(control)
        elif control.kind in ("feed", CLOCK, "settings"):
            for told in by_shard:
                told.append(control)
    return by_shard


def split_at_controls(block: ShardBlock) -> Iterator[tuple[ShardBlock, list[Control]]]:
    """Cut a block's rows where controls stand: each segment of frames with the controls that follow it."""
    if not block.controls:
        yield block, []
        return
    places = np.searchsorted(block.row, [control.frames_before for control in block.controls]).tolist()
    placed = groupby(zip(places, block.controls, strict=True), key=itemgetter(0))
    begin = 0
    for place, controls in placed:
        yield rows_of(block, begin, place), [control for _, control in controls]
        begin = place
    yield rows_of(block, begin, len(block.row)), []


def split_by_time(frames: ShardBlock, limit_s: float) -> Iterator[ShardBlock]:
    """Cut a segment into parts that each span less than `limit_s` seconds."""
    begin, rows = 0, len(frames.row)
    while begin < rows:
        is_within = frames.arrival[-1] < frames.arrival[begin] + limit_s
        end = rows if is_within else int(np.searchsorted(frames.arrival, frames.arrival[begin] + limit_s))
        yield rows_of(frames, begin, end)
        begin = end


def last_frames(slot: NDArray[np.int32], watched: NDArray[np.bool_], ended: NDArray[np.bool_]) -> dict[int, int]:
    """Return the slots whose conversation ends in a segment, each with the index of its last frame."""
    ends: dict[int, int] = {}
    if ended.any():
        for index in np.flatnonzero(ended & watched).tolist():
            ends.setdefault(int(slot[index]), index)
    return ends


def rows_of(block: ShardBlock, begin: int, end: int) -> ShardBlock:
    """Return the rows from `begin` up to `end` as a block."""
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
