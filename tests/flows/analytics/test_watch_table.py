"""Conversations and their slots: taken, kept for a while, used again."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from connectors.format.ids import Ids
from connectors.format.records import WatchSettings
from flows.analytics.precedence import Overrides, Precedence
from flows.analytics.slot_columns import SlotColumns
from flows.analytics.slots import NO_SLOT
from flows.analytics.watch_table import Watch, WatchTable


def watch(conversation_id: str, latency_ms: float = 150.0, leg_id: str | None = "leg") -> Watch:
    return Watch(conversation_id, leg_id, (latency_ms, 0.02), "http://qa/")


def new_table() -> WatchTable:
    return WatchTable(SlotColumns())


def limits(table: WatchTable, slot: int) -> list[float]:
    return [float(column.values[slot]) for column in table.limits]


def copied(table: WatchTable) -> WatchTable:
    """Return a table restored from a snapshot of another."""
    columns, kept = pickle.loads(pickle.dumps((table.columns.snapshot(table.used), table.snapshot())))
    again = new_table()
    again.columns.restore(columns)
    again.restore(kept)
    return again


def slot_of(table: WatchTable, conversation_id: str) -> int:
    return int(table.slots(Ids.of([conversation_id]))[0])


def release(table: WatchTable, now: float) -> list[int]:
    """Release what can be; the slots forgotten."""
    forgotten: list[int] = []
    table.release(now, forgotten.append)
    return forgotten


def test_a_watch_has_a_slot_and_limits_until_its_end() -> None:
    """Ids are opaque: an empty one is one too."""
    table = new_table()
    slot = table.watch(watch(""), now=0.0)
    assert table.slots(Ids.of(["x", "", "x"])).tolist() == [NO_SLOT, slot, NO_SLOT]
    assert limits(table, slot) == [150.0, 0.02]
    table.end(slot, windows_end=10.0)
    assert slot_of(table, "") == NO_SLOT


def test_a_second_watch_changes_the_limits_and_nothing_else() -> None:
    """Not the leg, not the URL, not the slot."""
    table, precedence = new_table(), Precedence(Overrides())
    slot = table.watch(watch("c"), now=0.0)
    second = WatchSettings("c", "other", 99.0, 0.1, "http://other/", "feed", "g729a")
    assert table.watch(precedence.watch(second, table.current("c")), now=1.0) == slot
    assert table.watch_at(slot) == Watch("c", "leg", (99.0, 0.1), "http://qa/", own=(99.0, 0.1))
    assert limits(table, slot) == [99.0, 0.1]


def test_a_conversation_that_comes_back_in_time_has_its_old_slot() -> None:
    """With the new watch's leg; once its last window has ended it gets another slot, though the old one is not free."""
    table = new_table()
    slot = table.watch(watch("c"), now=0.0)
    table.end(slot, windows_end=10.0)
    assert table.watch(watch("c", leg_id="new"), now=9.9) == slot
    assert table.watch_at(slot).leg_id == "new"
    table.end(slot, windows_end=20.0)
    another = table.watch(watch("c"), now=20.0)
    assert another != slot
    assert slot_of(table, "c") == another


def test_slots_are_free_when_the_last_window_has_ended() -> None:
    """Not before; then another conversation gets them. A conversation that came back keeps its own."""
    table = new_table()
    first, second = table.watch(watch("a"), now=0.0), table.watch(watch("b"), now=0.0)
    table.end(first, windows_end=10.0)
    table.end(second, windows_end=10.0)
    assert release(table, 9.9) == []
    table.watch(watch("b"), now=9.9)
    assert release(table, 10.0) == [first]
    assert release(table, 10.0) == []
    assert table.watch(watch("c"), now=10.0) == first


def test_two_lives_of_a_conversation_end_one_after_the_other() -> None:
    """In one block a conversation may end, come back in another slot, end and come back there."""
    table = new_table()
    first = table.watch(watch("c"), now=0.0)
    table.end(first, windows_end=10.0)
    second = table.watch(watch("c"), now=10.0)
    table.end(second, windows_end=30.0)
    assert table.watch(watch("c"), now=20.0) == second
    assert release(table, 20.0) == [first]
    table.end(second, windows_end=40.0)
    assert release(table, 40.0) == [second]


def test_what_is_over_is_remembered_for_a_day() -> None:
    """From the last end that was given; then nothing of it is left."""
    table = new_table()
    table.remember("c", 0.0)
    table.remember("d", 1.0)
    table.remember("c", 2.0)
    assert (table.over_until("c"), table.over_until("d"), table.over_until("x")) == (
        86402.0,
        86401.0,
        -float("inf"),
    )
    release(table, 86401.0)
    assert (table.over_until("c"), table.over_until("d")) == (86402.0, -float("inf"))


def test_a_thousand_watches_have_a_thousand_slots_and_a_snapshot_keeps_them() -> None:
    """Past the first capacity; the snapshot is plain data and shares nothing."""
    table = new_table()
    slots = [table.watch(watch(str(number), number), now=0.0) for number in range(1000)]
    assert sorted(slots) == list(range(1000))
    assert table.columns.capacity >= 1000
    table.end(slots[7], windows_end=5.0)
    table.remember("7", 1.0)
    again = copied(table)
    table.end(slots[8], windows_end=5.0)
    ids = Ids.of(list(map(str, range(1000))))
    assert again.slots(ids).tolist() == [NO_SLOT if slot == slots[7] else slot for slot in slots]
    assert limits(again, slots[9]) == [9.0, 0.02]
    assert again.over_until("7") == 86401.0
    assert release(again, 5.0) == [slots[7]]


@pytest.mark.parametrize("conversation_id", ["c", "", "x" * 65])
def test_a_slot_is_somebody_s_until_it_is_free(conversation_id: str) -> None:
    """After the end too, and when another watch of the same conversation is on, also in a restored table."""
    table = new_table()
    first = table.watch(watch(conversation_id), now=0.0)
    table.end(first, windows_end=10.0)
    second = table.watch(watch(conversation_id), now=10.0)
    third = table.watch(watch("d"), now=10.0)
    again = copied(table)
    for one in (table, again):
        slots = np.array([third, first, second, first], np.int32)
        assert one.ids(slots).texts() == ["d", *3 * [conversation_id]]
        assert slot_of(one, conversation_id) == second
        one.end(second, windows_end=20.0)
        assert slot_of(one, conversation_id) == NO_SLOT
        release(one, now=20.0)
        assert [one.watch(watch(f"e{number}"), now=20.0) for number in range(2)] == [second, first]
        assert one.ids(slots).texts() == ["d", "e1", "e0", "e1"]


def test_a_lost_feed_concerns_its_conversations_and_those_of_none() -> None:
    """As long as any feed is lost."""
    table = new_table()
    for name, feed in (("a", "a"), ("b", "b"), ("any", None)):
        table.watch(watch(name)._replace(feed=feed), now=0.0)
    assert table.affected_by({"a"})[:3].tolist() == [True, False, True]
    assert table.affected_by({"a", "b"})[:3].tolist() == [True, True, True]
    assert not table.affected_by(set()).any()


def test_a_codec_stays_with_the_open_windows() -> None:
    """A conversation that comes back has the codec of its new watch, or else the one that it had."""
    table = new_table()
    slot = table.watch(watch("c")._replace(codec="g729a"), now=0.0)
    for codec, number in ((None, 2), ("g711-no-plc", 1), (None, 1)):
        table.end(slot, windows_end=10.0)
        assert table.is_returning("c", 9.9)
        assert not table.is_returning("c", 10.0)
        assert table.watch(watch("c")._replace(codec=codec), now=5.0) == slot
        assert table.codec.values[slot] == number
    table.end(slot, windows_end=10.0)
    release(table, 10.0)
    assert table.watch(watch("d"), now=10.0) == slot
    assert table.codec.values[slot] == -1
