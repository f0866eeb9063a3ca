"""Blocks to shards: which conversations go together, and what each shard is told of a block.

A conversation belongs to shard `crc32(id) % shards` for ever. Every shard hears of every block, if only that it
holds nothing for it, so that it can apply them in journal order whoever decoded them.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from flows.analytics.frames import Decoded
from flows.analytics.records import Control

__all__ = ["ShardBlock", "shard_of", "split"]


class ShardBlock(NamedTuple):
    """One shard's part of block `number`: the columns of `Decoded` for its conversations, n rows in journal order.

    `row` int64 (n,): the frame's place in the block. `code` int32 (n,): index into `ids`. `controls`: those that
    concern this shard, placed by `frames_before` in the block. `time`: the largest time in the whole block.
    `last`: the recording ends with this block.
    """

    number: int
    row: NDArray[np.int64]
    arrival: NDArray[np.float64]
    latency_us: NDArray[np.float64]
    packet_loss: NDArray[np.float64]
    ended: NDArray[np.bool_]
    code: NDArray[np.int32]
    ids: list[str]
    controls: list[Control]
    time: float
    last: bool


def shard_of(conversation_id: str, shards: int) -> int:
    """The shard of a conversation: the same for ever, for one number of shards."""
    return crc32(conversation_id.encode()) % shards


def _owners(conversation_ids: list[str], shards: int) -> NDArray[np.int64]:
    """`shard_of` each."""
    checksums = map(crc32, map(str.encode, conversation_ids))
    return np.fromiter(checksums, np.int64, len(conversation_ids)) % shards


def split(number: int, decoded: Decoded, shards: int, *, last: bool) -> list[ShardBlock]:
    """Cut a decoded block into one `ShardBlock` for each shard, in the order of the shards."""
    owner = _owners(decoded.ids, shards)
    by_owner = np.argsort(owner, kind="stable")
    firsts = np.searchsorted(owner[by_owner], np.arange(shards + 1))
    local = np.empty(len(owner), np.int32)
    local[by_owner] = np.arange(len(owner)) - firsts[owner[by_owner]]

    shard = owner[decoded.code].astype(np.uint16)
    row = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[row], np.arange(shards + 1))
    controls = _controls_by_shard(decoded.controls, shards)
    ids = np.array(decoded.ids, object)[by_owner]
    return [
        ShardBlock(
            number=number,
            row=(rows := row[bounds[index] : bounds[index + 1]]),
            arrival=decoded.arrival[rows],
            latency_us=decoded.latency_us[rows],
            packet_loss=decoded.packet_loss[rows],
            ended=decoded.ended[rows],
            code=local[decoded.code[rows]],
            ids=ids[firsts[index] : firsts[index + 1]].tolist(),
            controls=controls[index],
            time=decoded.time,
            last=last,
        )
        for index in range(shards)
    ]


def _controls_by_shard(controls: list[Control], shards: int) -> list[list[Control]]:
    """A watch goes to its conversation's shard, settings and feed states to all; the others concern no shard."""
    by_shard: list[list[Control]] = [[] for _ in range(shards)]
    for control in controls:
        if control.kind == "watch":
            by_shard[shard_of(control.value.conversation_id, shards)].append(control)
        elif control.kind in ("feed", "settings"):
            for told in by_shard:
                told.append(control)
    return by_shard
