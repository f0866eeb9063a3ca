"""The version of a shard's snapshot, and the conversion of snapshots that an earlier version of the program left.

The version follows from what a snapshot depends on: the order of its columns, the numbers of codecs and rules, the
fields of a watch, and the hash that says which shard a conversation belongs to. Change one of them, and snapshots of
the version before are refused unless they are converted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np

from connectors.format.ids import Ids
from flows.analytics.groups import Breaches
from flows.analytics.label_texts import LabelTexts
from flows.analytics.roster import REMEMBER_S, Watch
from flows.analytics.rules import RULES
from flows.analytics.shards import ShardBlock, shards_of
from flows.analytics.voice_quality import CODECS
from flows.analytics.windows import COLUMNS

__all__ = ["VERSION", "SnapshotError", "check_shard", "converted"]

# Raised by hand when the layout of a snapshot changes in a way that the fingerprint cannot see.
_LAYOUT: Final = 9
# The versions between: labels only, signals, audio, all without groups; one limit of stalls for all feeds.
_ONLY_LABELS: Final = "5-14048c10d7bf"
_WITH_SIGNALS: Final = "6-14048c10d7bf"
_WITHOUT_GROUPS: Final = "7-14048c10d7bf"
_ONE_STALL_LIMIT: Final = "8-14048c10d7bf"
# Where the stalls are in a snapshot.
_STALLS: Final = 8
_PROBES: Final = ("", "c1", "é😀", "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p", "x" * 80)


class SnapshotError(ValueError):
    """A snapshot cannot be continued; the text says why."""


def _version() -> str:
    depends_on = (COLUMNS, Watch._fields, tuple(CODECS), RULES, REMEMBER_S, Ids.of(_PROBES).hash.tolist())
    return f"{_LAYOUT}-{blake2b(repr(depends_on).encode(), digest_size=6).hexdigest()}"


VERSION: Final = _version()


def converted(snapshot: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a snapshot in the form of this version. Raises SnapshotError for one that cannot be converted."""
    if snapshot[0] == 4:
        snapshot = _from_4(snapshot)
    elif snapshot[0] == _ONLY_LABELS:
        snapshot = (_ONE_STALL_LIMIT, *snapshot[1:], ({}, [], {}), Breaches().snapshot())
    elif snapshot[0] == _WITH_SIGNALS:
        snapshot = (_ONE_STALL_LIMIT, *snapshot[1:-1], (*snapshot[-1], {}), Breaches().snapshot())
    elif snapshot[0] == _WITHOUT_GROUPS:
        snapshot = (_ONE_STALL_LIMIT, *snapshot[1:], Breaches().snapshot())
    if snapshot[0] == _ONE_STALL_LIMIT:
        snapshot = _with_stall_limits(snapshot)
    if snapshot[0] != VERSION:
        raise SnapshotError(f"the snapshot is of version {snapshot[0]}, and this program reads version {VERSION}")
    return snapshot


def check_shard(watches: Sequence[Watch | None], block: ShardBlock) -> None:
    """Raise SnapshotError if one of a snapshot's watches belongs to another shard than the block does."""
    watched = Ids.of([watch.conversation_id for watch in watches if watch is not None])
    if (shards_of(watched, block.shards) != block.shard).any():
        raise SnapshotError("the snapshot is of a version that assigned conversations to other shards")


def _from_4(snapshot: tuple[Any, ...]) -> tuple[Any, ...]:
    """Version 4 (commit 51327cf) knows no labels; the limits of its watches were set for the conversations."""
    _, *head, roster, mos_below, rules, stalls, latest, heard, seen, windows, early = snapshot
    arrays, watches, *rest = roster
    rows = msgspec.msgpack.decode(watches)
    rows = [None if row is None else [*row, {}, row[2], Watch._field_defaults["default"]] for row in rows]
    arrays = [*arrays, np.zeros(arrays[0].shape[1], np.int32)]
    roster = (arrays, msgspec.msgpack.encode(rows), *rest, LabelTexts().snapshot())
    latest = _with_column(latest, np.where(np.isnan(latest[:, 0]), np.nan, 0.0))
    early = (early[0], _with_column(early[1], np.zeros(len(early[0]))))
    kept: tuple[Any, ...] = (rules, stalls, latest, heard, seen, windows, early, ({}, [], {}), Breaches().snapshot())
    return (_ONE_STALL_LIMIT, *head, roster, mos_below, [], *kept)


def _with_stall_limits(snapshot: tuple[Any, ...]) -> tuple[Any, ...]:
    """Version 8 has one limit of STREAM_STALLED for all conversations, None without one."""
    slots, after_s, since, opened = snapshot[_STALLS]
    kept = None if after_s is None else (np.full(slots, float(after_s)), since)
    return (VERSION, *snapshot[1:_STALLS], (slots, kept, opened), *snapshot[_STALLS + 1 :])


def _with_column(values: np.ndarray[Any, Any], column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.column_stack([values, column])
