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
from flows.analytics.rules import RULES
from flows.analytics.shards import ShardBlock, shards_of
from flows.analytics.voice_quality import CODECS
from flows.analytics.watch_table import REMEMBER_S, Watch
from flows.analytics.windows import Column

__all__ = ["VERSION", "SnapshotError", "check_shard", "converted"]

# Raised by hand when the layout of a snapshot changes in a way that the fingerprint cannot see.
_LAYOUT: Final = 14
# Earlier layouts: with labels only, then with signals, audio, groups, stall limits by feed; since then columns are one
# table; last without the media of legs, the last frame, the newest event of each session, the lag of events.
_ONLY_LABELS: Final = "5-14048c10d7bf"
_WITH_SIGNALS: Final = "6-14048c10d7bf"
_WITHOUT_GROUPS: Final = "7-14048c10d7bf"
_ONE_STALL_LIMIT: Final = "8-14048c10d7bf"
_WITHOUT_COLUMNS: Final = "9-14048c10d7bf"
_WITHOUT_LEGS: Final = "10-14048c10d7bf"
_WITHOUT_LAST_FRAME: Final = "11-c10c884d5155"
_WITHOUT_SESSIONS: Final = "12-c10c884d5155"
_WITHOUT_LAGS: Final = "13-c10c884d5155"
_BEFORE_COLUMNS: Final = (4, _ONLY_LABELS, _WITH_SIGNALS, _WITHOUT_GROUPS, _ONE_STALL_LIMIT, _WITHOUT_COLUMNS)
# Where the stalls were, without the version before them.
_STALLS: Final = 7
_PROBES: Final = ("", "c1", "é😀", "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p", "x" * 80)


class SnapshotError(ValueError):
    """A snapshot cannot be continued; the text says why."""


def _version() -> str:
    columns = tuple(column.name.lower() for column in Column)
    depends_on = (columns, Watch._fields, tuple(CODECS), RULES, REMEMBER_S, Ids.of(_PROBES).hash.tolist())
    return f"{_LAYOUT}-{blake2b(repr(depends_on).encode(), digest_size=6).hexdigest()}"


VERSION: Final = _version()


def converted(snapshot: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a snapshot in the form of this version. Raises SnapshotError for one that cannot be converted."""
    version, *kept = snapshot
    if version == VERSION:
        return snapshot
    if version not in (*_BEFORE_COLUMNS, _WITHOUT_LEGS, _WITHOUT_LAST_FRAME, _WITHOUT_SESSIONS, _WITHOUT_LAGS):
        raise SnapshotError(f"the snapshot is of version {version}, and this program reads version {VERSION}")
    if version == _WITHOUT_LAGS:
        return (VERSION, *_with_lags(kept))
    if version == _WITHOUT_SESSIONS:
        return (VERSION, *_with_lags([*kept, {}]))
    if version == _WITHOUT_LAST_FRAME:
        return (VERSION, *_with_lags([*_with_last_frame(kept), {}]))
    if version == 4:
        kept = _with_labels(kept)
    if version in (4, _ONLY_LABELS):
        kept.append(({}, [], {}))
    elif version == _WITH_SIGNALS:
        kept[-1] = (*kept[-1], {})
    if version not in (_ONE_STALL_LIMIT, _WITHOUT_COLUMNS, _WITHOUT_LEGS):
        kept.append(Breaches().snapshot())
    if version not in (_WITHOUT_COLUMNS, _WITHOUT_LEGS):
        kept = _with_stall_limits(kept)
    if version != _WITHOUT_LEGS:
        kept = _with_columns(kept)
    return (VERSION, *_with_lags([*_with_last_frame(_with_legs(kept)), {}]))


def check_shard(watches: Sequence[Watch | None], block: ShardBlock) -> None:
    """Raise SnapshotError if one of a snapshot's watches belongs to another shard than the block does."""
    watched = Ids.of([watch.conversation_id for watch in watches if watch is not None])
    if (shards_of(watched, block.shards) != block.shard).any():
        raise SnapshotError("the snapshot is of a version that assigned conversations to other shards")


def _with_labels(kept: list[Any]) -> list[Any]:
    """Convert version 4 (commit 51327cf), without labels; the limits of its watches were set for the conversations."""
    *head, watch_table, mos_below, rules, stalls, latest, heard, seen, windows, early = kept
    arrays, watches, *rest = watch_table
    rows = msgspec.msgpack.decode(watches)
    rows = [None if row is None else [*row, {}, row[2], Watch._field_defaults["default"]] for row in rows]
    arrays = [*arrays, np.zeros(arrays[0].shape[1], np.int32)]
    watch_table = (arrays, msgspec.msgpack.encode(rows), *rest, LabelTexts().snapshot())
    latest = _with_column(latest, np.where(np.isnan(latest[:, 0]), np.nan, 0.0))
    early = (early[0], _with_column(early[1], np.zeros(len(early[0]))))
    return [*head, watch_table, mos_below, [], rules, stalls, latest, heard, seen, windows, early]


def _with_stall_limits(kept: list[Any]) -> list[Any]:
    """Convert layout 8, with one limit of STREAM_STALLED for all conversations, None without one."""
    slots, after_s, since, opened = kept[_STALLS]
    waits = None if after_s is None else (np.full(slots, float(after_s)), since)
    return [*kept[:_STALLS], (slots, waits, opened), *kept[_STALLS + 1 :]]


def _with_columns(kept: list[Any]) -> list[Any]:
    """Convert layout 9, in which each part of a shard kept its own columns."""
    now, feeds_down, settings, watch_table, mos_below, recorded, rules, stalls, latest, *rest = kept
    has_frame, is_counted, *rest = rest
    (limits, on_since, over_at, codec, labels), *of_watches = watch_table
    slots, waits, opened = stalls
    after, since = waits or (np.full(slots, np.inf), np.full(slots, np.inf))
    columns = {
        "max_latency_ms": limits[0],
        "packet_loss_threshold": limits[1],
        "on_since": on_since,
        "over_at": over_at,
        "codec": codec,
        "labels": labels,
        "stall_after_s": after,
        "stall_since": since,
        "latest_window": latest,
        "has_frame": has_frame,
        "is_counted": is_counted,
    }
    of_rules = [rule[1:] for rule in rules]
    head = (now, feeds_down, settings, columns, tuple(of_watches))
    return [*head, mos_below, recorded, of_rules, opened, *rest]


def _with_legs(kept: list[Any]) -> list[Any]:
    """Convert layout 10, whose windows have no legs."""
    now, feeds_down, settings, columns, *rest, early, signals, breaches = kept
    latest = columns["latest_window"]
    columns = {**columns, "latest_window": _with_column(latest, np.where(np.isnan(latest[:, 0]), np.nan, 0.0))}
    early = (early[0], _with_column(early[1], np.zeros(len(early[0]))))
    return [now, feeds_down, settings, columns, *rest, early, signals, breaches, {}]


def _with_last_frame(kept: list[Any]) -> list[Any]:
    """Convert layout 11, whose watches may be silent permanently: their wait begins with the snapshot."""
    now, feeds_down, settings, columns, watch_table, *rest = kept
    is_on = np.zeros(len(columns["on_since"]), np.bool_)
    watches, _, _, retired, *_ = watch_table
    taken = [slot for slot, watch in enumerate(msgspec.msgpack.decode(watches)) if watch is not None]
    is_on[[slot for slot in taken if slot not in retired]] = True
    columns = {**columns, "last_frame_at": np.where(is_on, now, np.inf)}
    return [now, feeds_down, settings, columns, watch_table, *rest]


def _with_lags(kept: list[Any]) -> list[Any]:
    """Convert layout 13, whose windows do not show the lag of late events."""
    now, feeds_down, settings, columns, *rest, early, signals, breaches, legs, late_events = kept
    latest = columns["latest_window"]
    columns = {**columns, "latest_window": _with_column(latest, np.where(np.isnan(latest[:, 0]), np.nan, 0.0))}
    early = (early[0], _with_column(early[1], np.zeros(len(early[0]))))
    return [now, feeds_down, settings, columns, *rest, early, signals, breaches, (legs, {}), late_events]


def _with_column(values: np.ndarray[Any, Any], column: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.column_stack([values, column])
