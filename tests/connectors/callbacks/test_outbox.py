"""The outbox loses nothing, sends nothing twice on its own account, and keeps each conversation in order."""

from __future__ import annotations

import stat
import tempfile
import time
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.callbacks.outbox import AttemptResult, Callback, Outbox, State
from connectors.errors import StateError
from tests.support.callbacks import callback

DATA = Path(__file__).parents[2] / "data"
URL = "http://127.0.0.1:9/alerts"


@pytest.fixture
def outbox(tmp_path):
    box = Outbox(tmp_path / "outbox" / "outbox.sqlite3")
    yield box
    box.close()


def ids(due):
    return [w.callback.id for w in due.waiting]


def settle(outbox, number, state, at=0.0, attempts=1, error=None, conversation="c"):
    outbox.record_results([AttemptResult(callback(number, URL, conversation), state, at, attempts, error)])


def test_an_id_is_kept_once(outbox):
    """The same id again, pending, delivered or dead, changes nothing."""
    assert outbox.insert([callback(1, URL), callback(1, URL), callback(2, URL, "d")], now=1.0) == 2
    settle(outbox, 1, "delivered")
    settle(outbox, 2, "dead", conversation="d")
    assert outbox.insert([callback(1, URL), callback(2, URL, "d")], now=2.0) == 0
    assert outbox.counts() == {"pending": 0, "delivered": 1, "dead": 1}
    assert outbox.show("id-1").body is None


def test_only_the_oldest_of_a_conversation_is_due(outbox):
    """Later callbacks of a conversation wait while the first waits for its next attempt; others do not."""
    outbox.insert([callback(1, URL), callback(2, URL), callback(3, URL, "other")], now=1.0)
    assert ids(outbox.due(1.0)) == ["id-1", "id-3"]
    settle(outbox, 1, "pending", at=60.0, error="503")
    due = outbox.due(2.0)
    assert ids(due) == ["id-3"]
    assert due.next_at == 60.0
    settle(outbox, 1, "delivered", at=61.0)
    assert ids(outbox.due(61.0)) == ["id-2", "id-3"]


def test_a_dead_one_lets_the_next_go_and_comes_back_to_its_place(outbox):
    """After `retry` it precedes what its conversation has inserted since, with fresh attempts."""
    outbox.insert([callback(1, URL), callback(2, URL), callback(3, URL)], now=1.0)
    settle(outbox, 1, "dead", attempts=8, error="404 Not Found")
    settle(outbox, 2, "delivered")
    assert ids(outbox.due(1.0)) == ["id-3"]
    assert [(e.id, e.last_error) for e in outbox.entries(["dead"])] == [("id-1", "404 Not Found")]
    assert outbox.retry(["id-1", "id-2", "unknown"]) == 1
    (waiting,) = outbox.due(5.0).waiting
    assert (waiting.callback.id, waiting.attempts, waiting.requeued) == ("id-1", 0, True)
    settle(outbox, 1, "dead")
    assert outbox.retry(None) == 1


def test_busy_conversations_and_crowded_receivers_do_not_hide_others(outbox):
    """Work for a receiver is found however much is due for another one."""
    other = "http://127.0.0.1:9/other"
    outbox.insert([callback(n, URL, f"c{n}") for n in range(50)], now=1.0)
    outbox.insert([callback(99, other, "z")], now=2.0)
    assert ids(outbox.due(2.0, per_url=3, busy={"c1"})) == ["id-0", "id-2", "id-99"]


def test_a_receiver_that_is_back_is_tried_at_once(outbox):
    """`hasten` brings forward what waits for that receiver, and only that."""
    outbox.insert([callback(1, URL), callback(2, URL + "2", "d")], now=1.0)
    settle(outbox, 1, "pending", at=900.0)
    outbox.record_results([AttemptResult(callback(2, URL + "2", "d"), "pending", 800.0, 1)])
    outbox.expedite(URL)
    due = outbox.due(5.0)
    assert ids(due) == ["id-1"]
    assert due.next_at == 800.0


def test_tombstones_are_pruned_by_age(outbox):
    """Ids of long delivered callbacks are forgotten; what is pending or dead is not."""
    outbox.insert([callback(n, URL, str(n)) for n in range(4)], now=1.0)
    for number, state, at in ((0, "delivered", 10.0), (1, "delivered", 90.0), (2, "dead", 10.0)):
        settle(outbox, number, state, at, conversation=str(number))
    assert outbox.prune(before=50.0, keep=0) == 1
    assert outbox.counts() == {"pending": 1, "delivered": 1, "dead": 1}


def test_everything_survives_reopening_and_is_private(tmp_path):
    """A second Outbox on the file sees all of it, and only the owner can read it."""
    path = tmp_path / "outbox" / "outbox.sqlite3"
    first = Outbox(path)
    first.insert([callback(1, URL, body="é".encode())], now=1.0)
    second = Outbox(path)
    shown = second.show("id-1")
    assert shown is not None
    assert shown.body == "é".encode()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    first.close()
    second.close()


def test_a_damaged_file_is_explained(tmp_path):
    """Garbage instead of a database, and a page overwritten in one, raise StateError that says what to do."""
    garbage = tmp_path / "garbage.sqlite3"
    garbage.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StateError, match=r"damaged .* move it away"):
        Outbox(garbage)
    path = tmp_path / "outbox.sqlite3"
    box = Outbox(path)
    box.insert([callback(n, URL, str(n), b"x" * 500) for n in range(500)], now=1.0)
    box.close()
    data = bytearray(path.read_bytes())
    data[8192:20000] = b"\xff" * (20000 - 8192)
    path.write_bytes(data)
    with pytest.raises(StateError, match="damaged"):
        Outbox(path)


def test_a_newer_schema_is_refused(tmp_path):
    """A file of a later version is left alone."""
    import sqlite3

    path = tmp_path / "outbox.sqlite3"
    Outbox(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(StateError, match="schema 7"):
        Outbox(path)


def test_ten_thousand_callbacks_are_inserted_in_one_go(outbox):
    """A batch of 10,000 takes well under a second, and picking from it reads only what is picked."""
    batch = [callback(n, URL, f"c{n % 2000}", b"x" * 600) for n in range(10_000)]
    began = time.perf_counter()
    assert outbox.insert(batch, now=1.0) == 10_000
    inserted = time.perf_counter()
    for _ in range(20):
        assert len(outbox.due(1.0).waiting) == 64
    assert time.perf_counter() - inserted < inserted - began + 0.5
    assert inserted - began < 5.0  # about 0.2 s when the machine is not busy with other things


@settings(max_examples=60, deadline=None)
@given(
    plan=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=12),
    outcomes=st.lists(st.sampled_from(["delivered", "pending", "dead", "crash", "again"]), max_size=60),
    pick=st.randoms(use_true_random=False),
)
def test_any_course_of_events_keeps_order_and_loses_nothing(plan, outcomes, pick):
    """Whatever happens to attempts, each conversation is sent in order, and in the end everything is settled."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "outbox.sqlite3"
        outbox = Outbox(path)
        callbacks = [Callback(f"id-{n}", c, URL + u, b"{}") for n, (c, u) in enumerate(plan)]
        order = {c.id: n for n, c in enumerate(callbacks)}
        outbox.insert(callbacks, now=0.0)
        open_ids = set(order)
        now = 0.0
        course = iter(outcomes)
        while open_ids:
            now += 100.0
            waiting = outbox.due(now).waiting
            assert {w.callback.conversation_id for w in waiting} == {
                callbacks[order[i]].conversation_id for i in open_ids
            }
            for w in waiting:
                siblings = [i for i in open_ids if callbacks[order[i]].conversation_id == w.callback.conversation_id]
                assert w.callback.id == min(siblings, key=order.__getitem__)
            chosen = pick.choice(waiting).callback
            event = next(course, "delivered")
            if event == "crash":
                outbox.close()
                outbox = Outbox(path)
                outbox.insert(callbacks, now)
            elif event == "again":
                open_ids |= {e.id for e in outbox.entries(["dead"])}
                outbox.retry(None)
            else:
                outbox.record_results([AttemptResult(chosen, cast(State, event), now, 1)])
                if event != "pending":
                    open_ids.remove(chosen.id)
        counts = outbox.counts()
        outbox.close()
        assert counts["pending"] == 0
        assert counts["delivered"] + counts["dead"] == len(callbacks)


def test_an_outbox_of_schema_1_is_migrated_in_place(tmp_path):
    """A file that the code before wrote keeps its callbacks, their order, attempts and ids."""
    path = tmp_path / "outbox.sqlite3"
    path.write_bytes((DATA / "outbox" / "schema-1.sqlite3").read_bytes())
    created_at = 1_767_225_600.0
    for _ in range(2):
        outbox = Outbox(path)
        assert outbox.counts() == {"pending": 4, "delivered": 1, "dead": 1}
        first = outbox.show("id-1")
        assert first is not None
        assert (first.attempts, first.created_at, first.last_error) == (2, created_at, "503 Service Unavailable")
        assert first.body == b'{"n":1}'
        outbox.close()
    outbox = Outbox(path)
    assert ids(outbox.due(created_at)) == ["id-5"]
    assert ids(outbox.due(created_at + 9.0)) == ["id-5", "id-1"]
    assert outbox.cap_waits(created_at - 86_400.0) == 4
    assert set(ids(outbox.due(created_at - 82_700.0))) == {"id-5", "id-1"}
    assert outbox.insert([callback(3, URL, "b"), callback(4, URL, "c")], now=1.0) == 0
    assert outbox.retry(None) == 1
    assert "id-4" in ids(outbox.due(0.0))
    outbox.close()


def test_a_refreshed_callback_is_sent_until_its_incident_is_closed(outbox):
    """Once delivered it falls due again and again, as delivered; the resolve ends that and waits for its turn."""
    raised = Callback("id-1", "c", URL, b"{}", incident="i", refresh_s=60.0)
    resolved = Callback("id-2", "c", URL, b"{}", incident="i", closes=True)
    outbox.insert([raised], now=1.0)
    outbox.record_results([AttemptResult(raised, "delivered", 10.0, 1)])
    assert outbox.counts() == {"pending": 0, "delivered": 1, "dead": 0}
    assert ids(outbox.due(69.0)) == []
    for at in (70.0, 130.0):
        (again,) = outbox.due(at).waiting
        assert (again.callback.id, again.callback.body, again.refresh) == ("id-1", b"{}", True)
        outbox.record_results([AttemptResult(raised, "pending", at + 60.0, 1, refresh=True)])
    outbox.insert([resolved], now=131.0)
    assert ids(outbox.due(1e6)) == ["id-2"]
    outbox.record_results([AttemptResult(resolved, "delivered", 132.0, 1)])
    assert ids(outbox.due(1e6)) == []
    assert outbox.show("id-1").body is None


def test_a_raised_callback_whose_resolve_waits_already_is_not_refreshed(outbox):
    """Delivered late, it is followed by its resolve at once."""
    raised = Callback("id-1", "c", URL, b"{}", incident="i", refresh_s=60.0)
    outbox.insert([raised, Callback("id-2", "c", URL, b"{}", incident="i", closes=True)], now=1.0)
    assert outbox.resolve_of(raised) == "id-2"
    outbox.record_results([AttemptResult(raised, "delivered", 10.0, 1)])
    assert ids(outbox.due(1e6)) == ["id-2"]
