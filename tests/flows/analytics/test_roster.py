"""Conversations and their slots: taken, kept for a while, used again."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from connectors.format.ids import Ids
from connectors.format.records import WatchSettings
from flows.analytics.precedence import Overrides, Precedence
from flows.analytics.roster import Roster, Watch
from flows.analytics.slots import NOBODY


def watch(conversation_id: str, latency_ms: float = 150.0, leg_id: str | None = "leg") -> Watch:
    return Watch(conversation_id, leg_id, (latency_ms, 0.02), "http://qa/")


def slot_of(roster: Roster, conversation_id: str) -> int:
    return int(roster.slots(Ids.of([conversation_id]))[0])


def release(roster: Roster, now: float) -> list[int]:
    """Release what can be; the slots forgotten."""
    forgotten: list[int] = []
    roster.release(now, forgotten.append)
    return forgotten


def test_a_watch_has_a_slot_and_limits_until_its_end() -> None:
    """Ids are opaque: an empty one is one too."""
    roster = Roster()
    slot = roster.watch(watch(""), now=0.0)
    assert roster.slots(Ids.of(["x", "", "x"])).tolist() == [NOBODY, slot, NOBODY]
    assert roster.limits[:, slot].tolist() == [150.0, 0.02]
    roster.end(slot, windows_end=10.0)
    assert slot_of(roster, "") == NOBODY


def test_a_second_watch_changes_the_limits_and_nothing_else() -> None:
    """Not the leg, not the URL, not the slot."""
    roster, precedence = Roster(), Precedence(Overrides())
    slot = roster.watch(watch("c"), now=0.0)
    second = WatchSettings("c", "other", 99.0, 0.1, "http://other/", "feed", "g729a")
    assert roster.watch(precedence.watch(second, roster.current("c")), now=1.0) == slot
    assert roster.watch_in(slot) == Watch("c", "leg", (99.0, 0.1), "http://qa/", own=(99.0, 0.1))
    assert roster.limits[:, slot].tolist() == [99.0, 0.1]


def test_a_conversation_that_comes_back_in_time_has_its_old_slot() -> None:
    """With the new watch's leg; once its last window has ended it gets another slot, though the old one is not free."""
    roster = Roster()
    slot = roster.watch(watch("c"), now=0.0)
    roster.end(slot, windows_end=10.0)
    assert roster.watch(watch("c", leg_id="new"), now=9.9) == slot
    assert roster.watch_in(slot).leg_id == "new"
    roster.end(slot, windows_end=20.0)
    another = roster.watch(watch("c"), now=20.0)
    assert another != slot
    assert slot_of(roster, "c") == another


def test_slots_are_free_when_the_last_window_has_ended() -> None:
    """Not before; then another conversation gets them. A conversation that came back keeps its own."""
    roster = Roster()
    first, second = roster.watch(watch("a"), now=0.0), roster.watch(watch("b"), now=0.0)
    roster.end(first, windows_end=10.0)
    roster.end(second, windows_end=10.0)
    assert release(roster, 9.9) == []
    roster.watch(watch("b"), now=9.9)
    assert release(roster, 10.0) == [first]
    assert release(roster, 10.0) == []
    assert roster.watch(watch("c"), now=10.0) == first


def test_two_lives_of_a_conversation_end_one_after_the_other() -> None:
    """In one block a conversation may end, come back in another slot, end and come back there."""
    roster = Roster()
    first = roster.watch(watch("c"), now=0.0)
    roster.end(first, windows_end=10.0)
    second = roster.watch(watch("c"), now=10.0)
    roster.end(second, windows_end=30.0)
    assert roster.watch(watch("c"), now=20.0) == second
    assert release(roster, 20.0) == [first]
    roster.end(second, windows_end=40.0)
    assert release(roster, 40.0) == [second]


def test_what_is_over_is_remembered_for_a_day() -> None:
    """From the last end that was given; then nothing of it is left."""
    roster = Roster()
    roster.remember("c", 0.0)
    roster.remember("d", 1.0)
    roster.remember("c", 2.0)
    assert (roster.over_until("c"), roster.over_until("d"), roster.over_until("x")) == (86402.0, 86401.0, -float("inf"))
    release(roster, 86401.0)
    assert (roster.over_until("c"), roster.over_until("d")) == (86402.0, -float("inf"))


def test_a_thousand_watches_have_a_thousand_slots_and_a_snapshot_keeps_them() -> None:
    """Past the first capacity; the snapshot is plain data and shares nothing."""
    roster = Roster()
    slots = [roster.watch(watch(str(number), number), now=0.0) for number in range(1000)]
    assert sorted(slots) == list(range(1000))
    assert roster.capacity >= 1000
    roster.end(slots[7], windows_end=5.0)
    roster.remember("7", 1.0)
    kept = pickle.loads(pickle.dumps(roster.snapshot()))
    roster.end(slots[8], windows_end=5.0)
    again = Roster()
    again.restore(kept)
    ids = Ids.of(list(map(str, range(1000))))
    assert again.slots(ids).tolist() == [NOBODY if slot == slots[7] else slot for slot in slots]
    assert again.limits[0, slots[9]] == 9.0
    assert again.over_until("7") == 86401.0
    assert release(again, 5.0) == [slots[7]]


@pytest.mark.parametrize("conversation_id", ["c", "", "x" * 65])
def test_a_slot_is_somebody_s_until_it_is_free(conversation_id: str) -> None:
    """After the end too, and when another watch of the same conversation is on, also in a roster that is restored."""
    roster = Roster()
    first = roster.watch(watch(conversation_id), now=0.0)
    roster.end(first, windows_end=10.0)
    second = roster.watch(watch(conversation_id), now=10.0)
    third = roster.watch(watch("d"), now=10.0)
    again = Roster()
    again.restore(pickle.loads(pickle.dumps(roster.snapshot())))
    for one in (roster, again):
        slots = np.array([third, first, second, first], np.int32)
        assert one.ids(slots).texts() == ["d", *3 * [conversation_id]]
        assert slot_of(one, conversation_id) == second
        one.end(second, windows_end=20.0)
        assert slot_of(one, conversation_id) == NOBODY
        release(one, now=20.0)
        assert [one.watch(watch(f"e{number}"), now=20.0) for number in range(2)] == [second, first]
        assert one.ids(slots).texts() == ["d", "e1", "e0", "e1"]


def test_a_lost_feed_concerns_its_conversations_and_those_of_none() -> None:
    """As long as any feed is lost."""
    roster = Roster()
    for name, feed in (("a", "a"), ("b", "b"), ("any", None)):
        roster.watch(watch(name)._replace(feed=feed), now=0.0)
    assert roster.heard_by({"a"})[:3].tolist() == [True, False, True]
    assert roster.heard_by({"a", "b"})[:3].tolist() == [True, True, True]
    assert not roster.heard_by(set()).any()


def test_a_codec_stays_with_the_open_windows() -> None:
    """A conversation that comes back has the codec of its new watch, or else the one that it had."""
    roster = Roster()
    slot = roster.watch(watch("c")._replace(codec="g729a"), now=0.0)
    for codec, number in ((None, 2), ("g711-no-plc", 1), (None, 1)):
        roster.end(slot, windows_end=10.0)
        assert roster.is_returning("c", 9.9)
        assert not roster.is_returning("c", 10.0)
        assert roster.watch(watch("c")._replace(codec=codec), now=5.0) == slot
        assert roster.codec[slot] == number
    roster.end(slot, windows_end=10.0)
    release(roster, 10.0)
    assert roster.watch(watch("d"), now=10.0) == slot
    assert roster.codec[slot] == -1
