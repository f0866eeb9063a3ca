"""Conversation ids as arrays, and the index from them to slots."""

from __future__ import annotations

import pickle

import numpy as np
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.format.ids import MAX_ID_BYTES, Ids, alike, are_same
from flows.analytics.slots import NO_SLOT, SlotIndex

# Of all lengths around a word and the longest key, with what JSON escapes, and with zeros, which keys end in.
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", "\0", "a\0", "a", '"', "\\", "\x7f", "é", "x" * 8, "x" * 9, "x" * 64, "x" * 65, "é" * 33, "x" * 5000]
)


@given(st.lists(texts))
def test_ids_come_out_as_they_went_in(ids: list[str]) -> None:
    """Whatever is in them, also after pickling, which takes them to another process."""
    rows = Ids.of(ids)
    assert rows.texts() == ids
    assert pickle.loads(pickle.dumps(rows)).texts() == ids
    assert len(rows) == len(ids)
    assert 8 * rows.key.shape[1] <= MAX_ID_BYTES


@given(st.lists(texts), st.lists(texts))
def test_rows_are_the_same_in_any_company(some: list[str], more: list[str]) -> None:
    """Keys and hashes do not depend on how long the ids beside them are."""
    together, apart = Ids.of(some + more), Ids.of(some).concat(Ids.of(more))
    assert apart.texts() == together.texts() == some + more
    assert apart.hash.tolist() == together.hash.tolist() == [int(Ids.of([one]).hash[0]) for one in some + more]
    assert are_same(together.key, apart.key).all()


@given(st.lists(st.tuples(texts, texts)))
def test_two_ids_are_the_same_if_their_texts_are(pairs: list[tuple[str, str]]) -> None:
    """In columns of different widths as well."""
    some, others = Ids.of([one for one, _ in pairs]), Ids.of([other for _, other in pairs])
    expected = [one == other for one, other in pairs]
    assert are_same(some.key, others.key).tolist() == are_same(others.key, some.key).tolist() == expected


@given(st.lists(texts))
@example(["y", "x" * 65, "é", "w"])
@example(["]", "\\", "[", "\0", "!"])
def test_rows_are_ordered_by_their_ids(ids: list[str]) -> None:
    """As Python orders texts, and those of one id as they come."""
    assert Ids.of(ids).order().tolist() == sorted(range(len(ids)), key=ids.__getitem__)


@given(st.lists(texts))
def test_digests_are_written_out(ids: list[str]) -> None:
    """As orjson writes the ids, wherever their keys stand in a text."""
    rows = Ids.of(ids)
    text = b"".join(b'"%b"\n' % rows.key_text(row) for row in range(len(ids)))
    assert rows.written_out(text) == b"".join(orjson.dumps(one) + b"\n" for one in ids)


@given(st.lists(texts, max_size=30), st.data())
def test_rows_that_are_alike_are_found(ids: list[str], data: st.DataObject) -> None:
    """Each conversation's rows together, in their order."""
    rows = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(ids)))))) if ids else [], np.int64)
    groups = [group.tolist() for group in alike(Ids.of(ids), rows)]
    expected: dict[str, list[int]] = {}
    for row in rows.tolist():
        expected.setdefault(ids[row], []).append(row)
    assert sorted(group for group in groups if group) == sorted(expected.values())


def test_ids_that_differ_where_words_end_have_hashes_of_their_own() -> None:
    """As numbers in columns of eight characters do, of which the last digits change most."""
    ids = Ids.of([f"{a:08}{b:08}{c:08}{d:08}" for a in range(6) for b in range(6) for c in range(6) for d in range(6)])
    assert len(np.unique(ids.hash)) == len(ids)


def test_rows_of_two_ids_of_one_hash_are_not_alike() -> None:
    """Hashes are what rows are sorted by, and not what distinguishes them."""
    ids = Ids.of(["c1", "c2", "c1", "c2", "c3"])
    same = Ids(ids.key, np.array([7, 7, 7, 7, 1], np.uint64))
    groups = sorted(group.tolist() for group in alike(same, np.arange(5)))
    assert groups == [[0, 2], [1, 3], [4]]


def test_an_id_is_kept_as_orjson_writes_it() -> None:
    """So that a plain id in a line is its own key, and no key holds a zero but behind its end."""
    rows = Ids.of(["c1", "a\0b", "é"])
    assert [bytes(key.tobytes().rstrip(b"\0")) for key in rows.key] == [b"c1", rb"a\u0000b", "é".encode()]
    assert orjson.dumps("a\0b") == rb'"a\u0000b"'


@given(st.data())
def test_the_index_knows_who_is_in_a_slot(data: st.DataObject) -> None:
    """As a dictionary does, through adding, removing and growing, however many share a bucket."""
    index, known = SlotIndex(), dict[str, int]()
    free = list(range(200))
    for _ in range(data.draw(st.integers(1, 8))):
        new = data.draw(st.lists(texts, unique=True, max_size=20))
        added = {one: free.pop() for one in new if one not in known}
        index.add(Ids.of(list(added)), np.array(list(added.values()), np.int32))
        known |= added
        for one in data.draw(st.sets(st.sampled_from(sorted(known)))) if known else ():
            free.insert(0, slot := known.pop(one))
            index.remove(slot)
        asked = [*known, *new, "absent"]
        assert index.find(Ids.of(asked)).tolist() == [known.get(one, NO_SLOT) for one in asked]


def test_ids_of_one_hash_are_told_apart() -> None:
    """A table in which all share one chain still finds each, and nothing else."""
    ids = Ids.of([f"c{number}" for number in range(50)])
    same = Ids(ids.key, np.full(50, 7, np.uint64))
    index = SlotIndex()
    index.add(same, np.arange(50, dtype=np.int32))
    index.remove(20)
    expected = [NO_SLOT if slot == 20 else slot for slot in range(50)]
    assert index.find(same).tolist() == expected
    assert index.find(Ids(Ids.of(["other"]).key, np.full(1, 7, np.uint64))).tolist() == [NO_SLOT]
