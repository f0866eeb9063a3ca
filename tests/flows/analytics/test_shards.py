"""A block's parts for the shards, and what a shard does at the edges of a watch."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from connectors.format.decode import decode_block
from connectors.format.ids import Ids
from flows.analytics.merge import Merger, block_stats
from flows.analytics.precedence import Overrides
from flows.analytics.shard import Shard
from flows.analytics.shards import shards_of, split
from flows.analytics.snapshots import VERSION, SnapshotError
from tests.support.recordings import Replayed, replay_blocks, rows_of


def record(received_at: float, **value: Any) -> bytes:
    return json.dumps({"received_at": received_at} | value).encode()


def frame(received_at: float, conversation_id: str = "c", latency_ms: float = 20, **more: Any) -> bytes:
    message = {"event": "conversation.updated", "entity": {"id": conversation_id}} | more
    return record(received_at, frame=message | {"timestamp": received_at - latency_ms / 1000})


def ended(received_at: float, **more: Any) -> bytes:
    return frame(received_at, event="conversation.ended", **more)


def watch(
    received_at: float, conversation_id: str = "c", leg_id: str = "leg", url: str = "http://qa/", **others: Any
) -> bytes:
    value = {"conversation_id": conversation_id, "leg_id": leg_id, "qa_callback_url": url} | others
    return record(received_at, watch=value)


def bodies(replayed: Replayed) -> list[dict[str, Any]]:
    return [json.loads(alert.body) for alert in replayed.alerts]


def spans(replayed: Replayed) -> list[tuple[float, float]]:
    return [(window["start"], window["end"]) for window in replayed.windows]


def test_a_conversation_has_its_shard_for_ever() -> None:
    """It is in every recovery store; and ids that are alike do not all have the same."""
    ids = ["", "é", "c1", "1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p", "x" * 100]
    assert shards_of(Ids.of(ids), 16).tolist() == [0, 10, 1, 4, 2]
    alike = Ids.of([f"conversation-{number}" for number in range(1000)])
    assert np.bincount(shards_of(alike, 4)).min() > 200


def test_a_block_is_divided_by_conversation() -> None:
    """Rows keep their order and places; each part has its own ids and hears the block's time."""
    ids = ["a", "b", "c", "d", "é", "b", "a"]
    lines = [frame(100.0 + place, conversation_id) for place, conversation_id in enumerate(ids)]
    parts = split(7, decode_block(b"\n".join(lines) + b"\n"), 3, last=True)
    assert sorted(row for part in parts for row in part.row.tolist()) == list(range(7))
    for shard, part in enumerate(parts):
        assert part.row.tolist() == sorted(part.row.tolist())
        assert part.ids.texts() == [ids[row] for row in part.row.tolist()]
        assert set(shards_of(part.ids, 3).tolist()) <= {shard}
        assert part.arrival.tolist() == [100.0 + row for row in part.row.tolist()]
        assert (part.number, part.time, part.last) == (7, 106.0, True)


def test_controls_go_to_those_whom_they_concern() -> None:
    """A watch to its conversation's shard, settings and feeds to all, ticks and invalid messages to none."""
    lines = [
        record(1, tick=True),
        record(2, invalid="x"),
        watch(3),
        frame(4),
        record(5, feed={"name": "a", "state": "up"}),
        record(6, settings={}),
    ]
    parts = split(0, decode_block(b"\n".join(lines)), 3, last=False)
    for shard, part in enumerate(parts):
        watches = ["watch"] if shard == shards_of(Ids.of(["c"]), 3)[0] else []
        assert [control.kind for control in part.controls] == [*watches, "feed", "settings"]
        assert part.controls[-1].frames_before == 1
        assert part.time == 6.0


@pytest.mark.parametrize("data", [b"", b"nonsense\n"])
def test_a_block_of_nothing_still_reaches_every_shard(data: bytes) -> None:
    """As an empty part, which changes nothing."""
    parts = split(3, decode_block(data), 16, last=False)
    assert [(part.number, len(part.row), len(part.ids), part.time) for part in parts] == [(3, 0, 0, -math.inf)] * 16
    result = Shard().apply(parts[0])
    assert (rows_of(result.windows), *result[1:5]) == ([], [], 0, 0, [])


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("conversations", [6, 1000])
def test_windows_are_reported_in_order_whatever_conversations_are_called(shards: int, conversations: int) -> None:
    """By end, then conversation as Python orders texts; whole ids, however long, in each line."""
    ids = ["z", "a\\", "a]", "é", "x" * 65, "\0", *map(str, range(conversations))]
    lines = [watch(1.0, one) for one in ids] + [
        frame(at, one, metrics={"packetLoss": 0}) for at in (2, 7) for one in ids
    ]
    decoded = decode_block(b"\n".join(lines) + b"\n")
    merger = Merger(shards)
    merger.add_stats([block_stats(0, "calls.jsonl", 1, decoded)])
    for part in split(0, decoded, shards, last=True):
        merger.add_results(0, [Shard().apply(part)])
    windows = [json.loads(line) for line in merger.results()[0].windows.splitlines()]
    expected = [(end, one) for end in (5.0, 10.0, 15.0) for one in sorted(ids)]
    assert [(window["end"], window["conversation_id"]) for window in windows] == expected


def test_a_new_watch_after_the_end_is_the_new_watch() -> None:
    """Its leg and its URL count at once, also while windows of the old one are open; the old alerts keep theirs."""
    lines = [
        watch(0),
        frame(1, latency_ms=200),
        ended(2),
        watch(3, leg_id="new", url="http://new/"),
        frame(4, latency_ms=200),
    ]
    replayed = replay_blocks([lines], 1)
    assert [(alert.state, alert.url) for alert in replayed.alerts] == [
        ("raised", "http://qa/"),
        ("resolved", "http://qa/"),
        ("raised", "http://new/"),
    ]
    assert [body["legId"] for body in bodies(replayed)] == ["leg", "leg", "new"]


def test_a_new_watch_counts_breaches_from_nothing() -> None:
    """One breach before the end and one after are not two of two."""
    settings = record(0, settings={"alerts": {"raise_n": 2, "raise_m": 2}})
    lines = [settings, watch(0), ended(1, latency_ms=200), watch(2), frame(3, latency_ms=200)]
    assert bodies(replay_blocks([lines], 1)) == []


def test_a_window_that_closed_early_is_evidence_only_after_its_end() -> None:
    """New window lengths close it early; alerts before its end do not show it, those after do, for any cut."""
    lines = [
        watch(0),
        frame(1),
        record(2, settings={"windows": {"length_s": 1, "slide_s": 1}, "alerts": {"policy": "frame"}}),
        frame(3, latency_ms=200),
        frame(9.5, latency_ms=200),
        frame(10.5, latency_ms=200),
    ]
    whole = replay_blocks([lines], 1)
    assert spans(whole)[:2] == [(3.0, 4.0), (-5.0, 5.0)]
    shown = [body["window"] and body["window"]["end"] for body in bodies(whole)]
    assert shown == [None, 5.0, 10.0]
    pieces = replay_blocks([[line] for line in lines], 1, stops=frozenset(range(6)))
    assert [alert.body for alert in pieces.alerts] == [alert.body for alert in whole.alerts]


def test_early_windows_of_a_slot_do_not_outlive_it() -> None:
    """The next conversation in the slot does not show them as its own."""
    lines = [
        record(0, settings={"windows": {"length_s": 60, "slide_s": 60}}),
        watch(0),
        frame(1),
        record(2, settings={"windows": {"length_s": 1, "slide_s": 1}}),
        ended(3),
        record(5, tick=True),
        watch(6, "d"),
        frame(61, "d", latency_ms=200),
    ]
    (body,) = bodies(replay_blocks([[line] for line in lines], 1))
    assert body["window"] is None


def test_a_default_watch_begins_again_a_day_after_the_end() -> None:
    """Whether or not the end and the next day's frames are in one block."""
    settings = record(0, settings={"alerts": {"unwatched": "default", "policy": "frame"}})
    day_s = 86_400
    lines = [
        settings,
        ended(0, latency_ms=200),
        frame(day_s - 0.001, latency_ms=200),
        frame(day_s, latency_ms=200),
        frame(day_s + 20, latency_ms=200),
    ]
    for blocks in ([lines], [[line] for line in lines], [lines[:3], lines[3:]]):
        replayed = replay_blocks(blocks, 1)
        assert replayed.unwatched == 1
        assert [body["timestamp"] for body in bodies(replayed)] == [0, day_s, day_s + 20]
        assert bodies(replayed)[1]["window"] is None


def test_a_configuration_goes_before_the_recording() -> None:
    """Its settings take precedence; its limits and URL apply to watched conversations that it names."""
    overrides = Overrides(
        {"alerts": {"policy": "frame"}},
        {
            "c": {
                "conversation_id": "c",
                "max_latency_ms": 50,
                "packet_loss_threshold": 0.02,
                "qa_callback_url": "http://x/",
            }
        },
    )
    lines = [record(0, settings={"alerts": {"raise_n": 3, "raise_m": 3}}), watch(0), watch(0, "d")]
    lines += [frame(1, "c", 51), frame(1, "d", 51), frame(2, "d", 151), watch(3, max_latency_ms=500), frame(4, "c", 51)]
    replayed = replay_blocks([lines], 3, overrides)
    assert [(alert.conversation_id, alert.url) for alert in replayed.alerts] == [
        ("c", "http://x/"),
        ("d", "http://qa/"),
        ("c", "http://x/"),
    ]
    assert bodies(replayed)[0]["threshold"] == 50.0
    assert replay_blocks([[frame(1, "c", 51)]], 1, overrides).unwatched == 1


def test_what_a_configuration_does_not_set_stays_as_it_was_recorded() -> None:
    """A limit alone keeps the recorded windows and rules; a key of a table keeps the other keys of that table."""
    recorded = {"windows": {"length_s": 2, "slide_s": 2}, "alerts": {"raise_n": 2, "raise_m": 2, "clear_after_s": 1}}
    lines = [record(0, settings=recorded), watch(0), frame(1, "c", 151), frame(1.5, "c", 151), frame(3, "c", 10)]
    plain = replay_blocks([lines], 1)
    assert [body["state"] for body in bodies(plain)] == ["raised", "resolved"]
    for overrides in (Overrides(defaults={"max_latency_ms": 140}), Overrides({"alerts": {"clear_ratio": 0.8}})):
        replayed = replay_blocks([lines], 1, overrides)
        assert [(body["state"], body["timestamp"]) for body in bodies(replayed)] == [("raised", 1.5), ("resolved", 3)]
        assert [window["end"] for window in replayed.windows] == [2, 4]
    assert not replay_blocks([lines], 1, Overrides({"alerts": {"raise_n": 3, "raise_m": 3}})).alerts


def test_a_limit_of_stalls_goes_before_those_recorded_for_feeds_but_for_feeds_without_the_rule() -> None:
    """So that a replay of notifications raises no STREAM_STALLED that a run would not raise."""
    recorded = {"feeds": {"a": {"stalled_after_s": 30}, "b": {"stalled_after_s": None}}}
    lines = [record(0, settings=recorded), watch(0, "c", feed="a"), watch(0, "d", feed="b")]
    lines += [frame(1, "c", 10), frame(1, "d", 10), record(20, tick=True)]
    assert not replay_blocks([lines], 1).alerts
    replayed = replay_blocks([lines], 1, Overrides({"alerts": {"stalled_after_s": 5}}))
    assert [(alert.conversation_id, alert.rule) for alert in replayed.alerts] == [("c", "STREAM_STALLED")]


def test_a_snapshot_of_another_version_is_refused() -> None:
    """With both versions named."""
    snapshot = Shard().snapshot()
    with pytest.raises(SnapshotError, match=rf"version 99.*version {VERSION}"):
        Shard().restore((99, *snapshot[1:]))


def test_the_version_of_snapshots_is_noticed_when_it_changes() -> None:
    """A new one needs a conversion of this one, or says that it refuses it."""
    assert VERSION == "14-dbaf929d61ce"


def test_a_snapshot_of_another_shard_is_refused() -> None:
    """So is one of a version that spread the conversations over the shards by another hash."""
    shard = Shard()
    parts = split(0, decode_block(watch(0) + b"\n"), 4, last=False)
    holder = next(part.shard for part in parts if part.controls)
    shard.apply(parts[holder])
    other = Shard()
    other.restore(shard.snapshot())
    empty = split(1, decode_block(b""), 4, last=False)
    with pytest.raises(SnapshotError, match="other shards"):
        other.apply(empty[(holder + 1) % 4])


def test_a_snapshot_shares_nothing_with_the_shard() -> None:
    """What happens after it was taken does not show in it."""
    shard = Shard()
    early = split(0, decode_block(b"\n".join([watch(0), frame(1, latency_ms=200)])), 1, last=False)[0]
    late = split(1, decode_block(b"\n".join([frame(20), ended(21), watch(40, "d"), frame(41, "d")])), 1, last=True)[0]
    shard.apply(early)
    kept = shard.snapshot()
    expected = shard.apply(late)
    again = Shard()
    again.restore(kept)
    found = again.apply(late)
    assert found.alerts == expected.alerts
    assert rows_of(found.windows) == rows_of(expected.windows) != []
